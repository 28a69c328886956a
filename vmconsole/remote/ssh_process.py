"""A program running on a host, over one channel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import paramiko

from vmconsole.errors import CommandFailed
from vmconsole.remote.command import keep_errors, shown, too_much_output
from vmconsole.remote.machine import MAX_OUTPUT, Completed
from vmconsole.remote.ssh_link import Link, LinkLost
from vmconsole.remote.ssh_transport import LinkChannel, at_most

_PIECE = 256 * 1024
_AHEAD = 1024 * 1024
_DRAIN_GRACE = 2.0
"""Seconds to wait for the end of the output after the program ended: a daemon it left may hold it."""


class SshProcess:
    """A Process on a host. Not to be used by two threads at once.

    When our side dies, sshd closes the channel and the program reads the end of its input.
    words: the command as messages name it. release: called once, when the channel is given back.
    """

    def __init__(
        self, link: Link, channel: LinkChannel, words: Sequence[str], release: Callable[[], None]
    ) -> None:
        self._link = link
        self._channel = channel
        self._words = words
        self._release: Callable[[], None] | None = release
        self._out = bytearray()
        self._err = bytearray()
        self._seen_end = False

    @property
    def stderr(self) -> bytes:
        return bytes(self._err)

    def begin(self, command: bytes, timeout: float) -> None:
        """Ask the server to run it. Raises LinkLost, CommandFailed when the server will not."""
        try:
            with at_most(timeout, self._channel):
                self._channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not self._channel.refused:
                raise self._lost() from error
            raise CommandFailed(
                f"{self._link.machine} does not run programs for us: {shown(self._words)} was refused",
                hint="Does the login user have a shell there, and no ForceCommand?",
                subject=self._link.machine,
            ) from error

    def write(self, data: bytes) -> None:
        send_all(self._link, self._channel, data, f"{shown(self._words)} on {self._link.machine}")

    def read_line(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while True:
            end = self._out.find(b"\n")
            if end >= 0:
                return self._take(end + 1)
            if len(self._out) > MAX_OUTPUT:
                raise too_much_output(self._words, self._link.machine, MAX_OUTPUT)
            if self._channel.out.at_end():
                self._require_clean_end()
                return self._take(len(self._out))
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError(
                    f"{shown(self._words)} on {self._link.machine} said nothing for {timeout:g} s"
                )
            self._pump(left, MAX_OUTPUT)

    def read(self, size: int, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while not self._out:
            if self._channel.out.at_end():
                self._require_clean_end()
                break
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError(
                    f"{shown(self._words)} on {self._link.machine} said nothing for {timeout:g} s"
                )
            self._pump(left, _AHEAD)
        return self._take(min(size, len(self._out)))

    def read_exactly_one_line(self, timeout: float) -> bytes:
        """The first line, leaving everything after it in the channel."""
        self._channel.settimeout(timeout)
        while not self._out.endswith(b"\n"):
            data = self._channel.recv(1)
            if not data:
                self._require_clean_end()
                break
            self._out += data
        self._channel.settimeout(None)
        return self._take(len(self._out))

    def close_stdin(self) -> None:
        try:
            self._channel.shutdown_write()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost() from error

    def wait(self, timeout: float) -> Completed:
        try:
            return self.finish(time.monotonic() + timeout, MAX_OUTPUT)
        except BufferError:
            raise too_much_output(self._words, self._link.machine, MAX_OUTPUT) from None
        except TimeoutError:
            raise TimeoutError(
                f"{shown(self._words)} on {self._link.machine} still runs after {timeout:g} s"
            ) from None

    def feed(self, stdin: bytes) -> None:
        """Give it its whole standard input and end that, without waiting for it to read."""
        if stdin:
            threading.Thread(target=self._feed, args=(stdin,), name="ssh-stdin", daemon=True).start()
        else:
            self.close_stdin()

    def finish(self, deadline: float, max_output: int) -> Completed:
        """Read until the program has ended. Raises TimeoutError, BufferError (max_output), LinkLost."""
        channel = self._channel
        drain_until: float | None = None
        while not (channel.out.at_end() and channel.err.at_end() and channel.exit_status_ready()):
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError
            if channel.exit_status_ready():
                drain_until = drain_until or now + _DRAIN_GRACE
                if now > drain_until:
                    break
            self._pump((drain_until or deadline) - now, max_output)
            if len(self._out) > max_output:
                raise BufferError
        self._require_clean_end()
        status = 128 + channel.exit_signal if channel.exit_signal else channel.exit_status
        return Completed(status, self._take(len(self._out)), self.stderr)

    def close(self) -> None:
        release, self._release = self._release, None
        if release is None:
            return
        try:
            self._channel.close()
        except (paramiko.SSHException, EOFError, OSError):
            pass  # the connection is gone, and the channel with it
        finally:
            release()

    def _feed(self, stdin: bytes) -> None:
        try:
            self.write(stdin)
            self.close_stdin()
        except LinkLost:
            return  # it may end without reading all; a lost connection shows where its output is read

    def _pump(self, timeout: float, max_output: int) -> None:
        """Take what has arrived, at most a little more than max_output; wait at most timeout for it."""
        channel = self._channel

        def news() -> bool:
            ended = channel.exit_status_ready() and not self._seen_end
            return bool(channel.out or channel.err or channel.closed or ended)

        with channel.changed:
            channel.changed.wait_for(news, timeout)
        self._seen_end = channel.exit_status_ready()
        while channel.recv_ready() and len(self._out) <= max_output:
            self._out += channel.recv(_PIECE)
        while channel.recv_stderr_ready():
            keep_errors(self._err, channel.recv_stderr(_PIECE))

    def _require_clean_end(self) -> None:
        """No status: the connection broke, or the server let the channel go without saying why."""
        channel = self._channel
        if channel.exit_status < 0 and not channel.exit_signal and (channel.closed or not self._link.alive):
            raise self._lost()

    def _lost(self) -> LinkLost:
        return self._link.lost(f"{shown(self._words)} ran there; whether it finished is not known")

    def _take(self, size: int) -> bytes:
        taken = bytes(self._out[:size])
        del self._out[:size]
        return taken


def send_all(link: Link, channel: LinkChannel, data: bytes | bytearray | memoryview, to: str) -> None:
    """All of it. to: who reads it, for messages.

    Raises LinkLost when the reader has closed its side, or the connection is gone; TimeoutError.
    """
    view = memoryview(data).cast("B")
    try:
        while view:
            sent = channel.send(bytes(view[: channel.piece]))
            if sent == 0 or not link.alive:
                raise EOFError
            view = view[sent:]
    except TimeoutError:
        raise
    except (paramiko.SSHException, EOFError, OSError) as error:
        if link.alive:
            raise LinkLost(f"{to} takes no more input", subject=link.machine) from error
        raise link.lost() from error
