"""Running programs on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmconsole.errors import CommandFailed, HostError, NotPermitted, ToolMissing
from vmconsole.remote import process
from vmconsole.remote.child import Child
from vmconsole.remote.command import encode, printable, shown, timed_out, too_much_output, verdict
from vmconsole.remote.machine import DEFAULT_TIMEOUT, MAX_OUTPUT, Completed, Process, Stream

_LOG_BYTES = 1 << 20
_MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path on Linux, unix(7)."""


class LocalMachine:
    """This machine. See Machine for the contract. Programs get a session and process group of their own."""

    def __init__(self, name: str = "this machine") -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

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
        completed = self._run(argv, argv, stdin, timeout, max_output, env)
        return verdict(completed, argv, self._name, check=check, script=False)

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
        completed = self._run(
            ["sh", "-c", source, "vmconsole", *args], words, stdin, timeout, max_output, None
        )
        return verdict(completed, words, self._name, check=check, script=True)

    def start(self, argv: Sequence[str]) -> Process:
        return Child(self._spawn(argv, None), argv, self._name)

    def open_unix(self, path: str) -> Stream:
        _check_socket_path(path, self._name)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            raise _socket_error(error, path, self._name) from error
        return connection

    def close(self) -> None:
        """Nothing to close; programs that were started belong to their Process."""

    def _run(
        self,
        argv: Sequence[str],
        words: Sequence[str],
        stdin: bytes,
        timeout: float,
        max_output: int,
        env: Mapping[str, str] | None,
    ) -> Completed:
        """words: the command as messages name it."""
        child = Child(self._spawn(argv, env), words, self._name)
        try:
            return child.communicate(stdin, timeout, max_output)
        except TimeoutError:
            raise timed_out(words, self._name, timeout, child.stderr) from None
        except BufferError:
            raise too_much_output(words, self._name, max_output) from None
        finally:
            child.kill()

    def _spawn(self, argv: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        encoded = encode(argv)
        try:
            return subprocess.Popen(
                encoded,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(env or {}), "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            raise _start_error(error, argv, self._name) from error


def run_on_terminal(argv: Sequence[str], *, name: str = "this machine") -> int:
    """Run a program that has our terminal until it ends, such as an editor; returns its exit status.

    Raises ToolMissing, CommandFailed when it cannot be started.
    """
    try:
        return subprocess.call(encode(argv))
    except OSError as error:
        raise _start_error(error, argv, name) from error


def start_detached(
    argv: Sequence[str], log_path: Path, *, env: Mapping[str, str] | None = None, name: str = "this machine"
) -> str:
    """Start a program that outlives us and our terminal; returns its identity (see process.py).

    It gets a session of its own, an empty input, `/` as its directory, and log_path (made with mode
    0600, appended to; one that has grown large becomes `.old` first) as output. Raises ToolMissing,
    CommandFailed; OSError when the log cannot be opened.
    """
    encoded = encode(argv)
    with contextlib.suppress(OSError):
        if log_path.stat().st_size > _LOG_BYTES:
            log_path.replace(f"{log_path}.old")
    with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        try:
            child = subprocess.Popen(
                encoded,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise _start_error(error, argv, name) from error
    try:
        who = process.identity(child.pid)
    except ProcessLookupError as error:
        raise CommandFailed(
            f"{shown(argv)} ended at once", hint=f"See {log_path}.", subject=name, exit_status=child.wait()
        ) from error
    # Without somebody waiting for it, it would stay a zombie for as long as we live.
    threading.Thread(target=child.wait, name=f"reap-{child.pid}", daemon=True).start()
    return who


def _start_error(error: OSError, argv: Sequence[str], machine: str) -> HostError:
    program = printable(argv[0])
    if isinstance(error, FileNotFoundError):
        return ToolMissing(
            f"{program} is not installed on {machine}", hint=f"Install {program}.", subject=machine
        )
    if isinstance(error, PermissionError):
        return NotPermitted(f"{program} on {machine} may not be run: {error.strerror}", subject=machine)
    return CommandFailed(
        f"{shown(argv)} could not be started on {machine}: {error.strerror}", subject=machine
    )


def _check_socket_path(path: str, machine: str) -> None:
    if "\0" in path:
        raise ValueError("a socket's path cannot hold a NUL byte")
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise HostError(
            f"The path of the socket {printable(path)} is too long for {machine}", subject=machine
        )


def _socket_error(error: OSError, path: str, machine: str) -> HostError:
    where = f"{printable(path)} on {machine}"
    if isinstance(error, FileNotFoundError):
        return HostError(f"There is no socket {where}", subject=machine)
    if isinstance(error, PermissionError):
        return NotPermitted(
            f"The socket {where} may not be opened: permission denied",
            hint=f"Run as root, or join the group that owns it: ls -l {printable(path)}",
            subject=machine,
        )
    if isinstance(error, ConnectionRefusedError):
        return HostError(f"Nobody listens on the socket {where}, or it is no socket", subject=machine)
    reason = error.strerror
    if not reason:
        with contextlib.suppress(KeyError):
            reason = errno.errorcode[error.errno or 0]
    return HostError(f"The socket {where} cannot be opened: {reason}", subject=machine)
