"""Running programs and opening sockets on a host over SSH."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from functools import partial

from vmconsole.errors import CommandFailed, HostUnreachable
from vmconsole.remote.command import encode, shown, timed_out, too_much_output, verdict
from vmconsole.remote.machine import DEFAULT_TIMEOUT, MAX_OUTPUT, Completed, Process, Stream
from vmconsole.remote.ssh_config import Hop, resolve
from vmconsole.remote.ssh_link import Link, LinkLost, connect
from vmconsole.remote.ssh_pool import LinkPool
from vmconsole.remote.ssh_process import SshProcess
from vmconsole.remote.ssh_settings import SshSettings
from vmconsole.remote.ssh_stream import SshStream, relay_script, socket_error
from vmconsole.remote.ssh_transport import ChannelRefused, LinkChannel

__all__ = ["SshMachine", "SshSettings"]

_SESSIONS = 8
"""Programs at once on one connection; sshd's MaxSessions is 10 unless configured."""
_CONNECTIONS = 8
_ATTEMPTS = 3
_ENOUGH_REFUSALS = 2
_MAX_COMMAND = 128 * 1024 - 64
"""The login shell gets the command as one argument; Linux ends those at 128 KiB (MAX_ARG_STRLEN)."""


class SshMachine:
    """A host. See Machine for the contract; connects on first use, and again when a connection died.

    Programs share one connection (more when many run at once), sockets have a few of their own. A
    command is never sent twice: when the connection is lost while it runs, the error says so.
    """

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._hop: Hop | None = None
        self._commands = LinkPool(self._connect, share=_SESSIONS, limit=_CONNECTIONS)
        self._data = LinkPool(self._connect_for_data, share=1, limit=max(1, settings.data_connections))
        self._refusals = 0

    @property
    def name(self) -> str:
        return self._settings.name

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = DEFAULT_TIMEOUT,
        max_output: int = MAX_OUTPUT,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        if env:
            raise ValueError("a remote machine takes no environment")
        completed = self._run(argv, argv, stdin, timeout, max_output)
        return verdict(completed, argv, self.name, check=check, script=False)

    def script(
        self,
        source: str,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout: float = DEFAULT_TIMEOUT,
        max_output: int = MAX_OUTPUT,
        check: bool = True,
    ) -> Completed:
        words = ["script", *args]
        completed = self._run(["sh", "-c", source, "vmconsole", *args], words, stdin, timeout, max_output)
        return verdict(completed, words, self.name, check=check, script=True)

    def start(self, argv: Sequence[str]) -> Process:
        return self._start(argv, argv, self._settings.command_timeout)

    def open_unix(self, path: str) -> Stream:
        if "\0" in path:
            raise ValueError("a socket's path cannot hold a NUL byte")
        if self._refusals < _ENOUGH_REFUSALS:
            stream = self._forward(path)
            if stream is not None:
                self._refusals = 0
                return stream
        stream = self._relay(path)
        # The socket can be reached, only not through sshd itself, so its policy says no. Or the
        # socket came up between the two, therefore once is not enough.
        self._refusals += 1
        return stream

    def close(self) -> None:
        self._commands.close()
        self._data.close()

    def _run(
        self, argv: Sequence[str], words: Sequence[str], stdin: bytes, timeout: float, max_output: int
    ) -> Completed:
        process = self._start(argv, words, timeout)
        deadline = time.monotonic() + timeout
        try:
            process.feed(stdin)
            return process.finish(deadline, max_output)
        except LinkLost:
            raise
        except TimeoutError:
            raise timed_out(words, self.name, timeout, process.stderr) from None
        except BufferError:
            raise too_much_output(words, self.name, max_output) from None
        finally:
            process.close()

    def _start(self, argv: Sequence[str], words: Sequence[str], timeout: float) -> SshProcess:
        command = _command(argv)
        if len(command) > _MAX_COMMAND:
            raise CommandFailed(
                f"{shown(words)} cannot be run on {self.name}: more than {_MAX_COMMAND} bytes of arguments",
                subject=self.name,
            )
        link, channel = self._session()
        process = SshProcess(link, channel, words, partial(self._commands.release, link))
        try:
            process.begin(command, timeout)
        except BaseException:
            process.close()
            raise
        return process

    def _session(self) -> tuple[Link, LinkChannel]:
        """A channel for a program. A connection that is dead, or full, is replaced: nothing was sent yet."""
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            link = self._commands.acquire()
            try:
                return link, link.open("session", [], self._settings.command_timeout)
            except LinkLost:
                self._commands.lost(link)
                if last:
                    raise
            except ChannelRefused as error:
                self._commands.release(link)
                self._commands.full(link)
                if last:
                    raise CommandFailed(
                        f"{self.name} refused to run another program: {error}",
                        hint="Raise MaxSessions in its sshd_config.",
                        subject=self.name,
                    ) from error
            except BaseException:
                self._commands.release(link)
                raise
        raise AssertionError("unreachable")

    def _forward(self, path: str) -> Stream | None:
        """Through sshd's own forwarding; None when it will not, for whatever reason."""
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            link = self._data.acquire()
            try:
                channel = link.open(
                    "direct-streamlocal@openssh.com", [path, "", 0], self._settings.command_timeout
                )
                return SshStream(link, channel, partial(self._data.release, link), path)
            except ChannelRefused:
                self._data.release(link)
                return None
            except LinkLost:
                self._data.lost(link)
                if last:
                    raise
            except BaseException:
                self._data.release(link)
                raise
        raise AssertionError("unreachable")

    def _relay(self, path: str) -> Stream:
        """Through a program on the host. Raises HostError, saying what is wrong with the socket."""
        argv = ["sh", "-c", relay_script(), "vmconsole", path]
        link = self._data.acquire()
        try:
            channel = link.open("session", [], self._settings.command_timeout)
        except ChannelRefused as error:
            self._data.release(link)
            raise CommandFailed(
                f"{self.name} refused another session: {error}",
                hint="Raise MaxSessions, or allow AllowStreamLocalForwarding, in its sshd_config.",
                subject=self.name,
            ) from error
        except BaseException:
            self._data.release(link)
            raise
        release = partial(self._data.release, link)
        process = SshProcess(link, channel, ["connect to", path], release)
        try:
            process.begin(_command(argv), self._settings.command_timeout)
            word = (
                process.read_exactly_one_line(self._settings.command_timeout)
                .decode("utf-8", "replace")
                .strip()
            )
        except TimeoutError as error:
            process.close()
            raise HostUnreachable(f"{self.name} did not answer in time", subject=self.name) from error
        except BaseException:
            process.close()
            raise
        if word != "ok":
            process.close()
            raise socket_error(word, path, self.name)
        return SshStream(link, channel, release, path, relayed=True)

    def _connect(self) -> Link:
        if self._hop is None:
            self._hop = resolve(self._settings)
        return connect(self._settings, self._hop)

    def _connect_for_data(self) -> Link:
        link = self._connect()
        try:
            link.stay_prompt(self._settings.connect_timeout)
        except BaseException:
            link.close()
            raise
        return link


def _command(argv: Sequence[str]) -> bytes:
    """One line for the login shell that runs exactly these arguments."""
    quoted = b" ".join(_quote(argument) for argument in encode(argv))
    return b"exec env LC_ALL=C " + quoted


def _quote(argument: bytes) -> bytes:
    # latin-1 maps bytes to characters one to one, and all beyond ASCII gets quoted
    return shlex.quote(argument.decode("latin-1")).encode("latin-1")
