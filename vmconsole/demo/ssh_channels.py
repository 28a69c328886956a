"""What runs behind an SSH channel of the demo: a program, or a connected unix socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST

from vmconsole.remote.piped import PipedProgram

_PIECE = 256 * 1024
_JOIN_SECONDS = 5.0
_FORWARDED = ("LANG", "LC_", "VMCONSOLE_")


class Session:
    """A session channel and its program. set_…(), start() and replied() come from the connection's thread."""

    def __init__(self, channel: paramiko.Channel, env: Mapping[str, str], home: Path) -> None:
        self._channel = channel
        self._env = dict(env)
        self._home = home
        self._pty = False
        self._program: PipedProgram | None = None
        self._threads: list[threading.Thread] = []

    def set_pty(self) -> bool:
        """There is no terminal behind it, but the program gets SIGHUP when the channel closes."""
        self._pty = True
        return True

    def set_env(self, name: str, value: str) -> bool:
        if not name.startswith(_FORWARDED):
            return False
        self._env[name] = value
        return True

    def start(self, argv: Sequence[str | bytes]) -> bool:
        if self._program is not None:
            return False
        try:
            self._program = PipedProgram(argv, env=self._env, folder=str(self._home))
        except (OSError, ValueError):
            return False
        return True

    def replied(self) -> None:
        """The client has been told that its request was granted: output may follow."""
        if self._program is None or self._threads:
            return
        program = self._program
        self._run("stdin", lambda: self._feed(program))
        stderr = self._run("stderr", lambda: self._drain(program.stderr, self._channel.sendall_stderr))
        self._run("stdout", lambda: self._finish(program, stderr))

    def is_done(self) -> bool:
        """The channel was used and everything behind it has ended."""
        return self._channel.closed and not any(thread.is_alive() for thread in self._threads)

    def end(self, grace: float) -> None:
        """The connection is gone: the program reads the end of its input; if it stays, it is killed."""
        self._channel.close()
        if self._program is None:
            return
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._program.signal(number)
            with contextlib.suppress(TimeoutError):
                self._program.wait(grace)
                break
        # What it left running may hold its pipes.
        self._program.signal(signal.SIGKILL)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _run(self, what: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"demo-ssh-{what}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _feed(self, program: PipedProgram) -> None:
        """Channel to standard input; its end, or the channel's, is the end of the input."""
        try:
            while data := self._channel.recv(_PIECE):
                view = memoryview(data)
                while view:
                    view = view[os.write(program.stdin, view) :]
        except OSError:
            pass
        finally:
            os.close(program.stdin)
        if self._pty and self._channel.closed:
            program.signal(signal.SIGHUP)

    def _drain(self, descriptor: int, send: Callable[[bytes], None]) -> None:
        """Program's output to the channel; read on when nobody listens any more, so that it can end."""
        listening = True
        try:
            while data := os.read(descriptor, _PIECE):
                if listening:
                    try:
                        send(data)
                    except (OSError, EOFError, paramiko.SSHException):
                        listening = False
        finally:
            os.close(descriptor)

    def _finish(self, program: PipedProgram, stderr: threading.Thread) -> None:
        self._drain(program.stdout, self._channel.sendall)
        stderr.join()
        status = program.wait()
        with contextlib.suppress(OSError, paramiko.SSHException, EOFError):
            if status >= 0:
                self._channel.send_exit_status(status)
            else:
                self._send_exit_signal(signal.Signals(-status))
        self._channel.close()

    def _send_exit_signal(self, number: signal.Signals) -> None:
        """RFC 4254, section 6.10; the library has no call for it."""
        message = paramiko.Message()
        message.add_byte(bytes([MSG_CHANNEL_REQUEST]))
        message.add_int(self._channel.remote_chanid)
        message.add_string("exit-signal")
        message.add_boolean(False)
        message.add_string(number.name.removeprefix("SIG"))
        message.add_boolean(False)
        message.add_string("")
        message.add_string("")
        transport: Any = self._channel.transport
        transport._send_user_message(message)


class Forward:
    """A channel and a connected socket, each fed from the other until both are done."""

    def __init__(self, channel: paramiko.Channel, connected: socket.socket) -> None:
        self._channel = channel
        self._socket = connected
        self._threads = [
            threading.Thread(target=work, name="demo-ssh-forward", daemon=True)
            for work in (self._inward, self._outward)
        ]
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        self._channel.close()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _inward(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._channel.recv(_PIECE):
                self._socket.sendall(data)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR if self._channel.closed else socket.SHUT_WR)

    def _outward(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := self._socket.recv(_PIECE):
                self._channel.sendall(data)
            self._channel.shutdown_write()
        self._threads[0].join()
        self._channel.close()
        self._socket.close()


def connect_unix(path: Path) -> socket.socket:
    """Connect to a unix socket, however long its path is. Raises OSError."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        connected.close()
        raise
    finally:
        os.close(folder)
    return connected
