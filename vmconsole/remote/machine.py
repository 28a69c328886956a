"""What a machine offers, here or over SSH: run programs, open unix sockets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

DEFAULT_TIMEOUT = 60.0
MAX_OUTPUT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended. status: exit status, or 128 + signal."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def errors(self) -> str:
        return self.stderr.decode("utf-8", "replace").strip()


class Stream(Protocol):
    """A connected byte stream: a socket, or an SSH channel."""

    def recv(self, size: int, /) -> bytes:
        """At most size bytes; empty at the end.

        Raises TimeoutError, OSError. An SSH connection that is gone is both OSError and
        HostUnreachable, never an empty answer.
        """
        ...

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def settimeout(self, seconds: float | None, /) -> None: ...

    def close(self) -> None: ...


class Process(Protocol):
    """A running program. Closing it closes its standard input; it is expected to end by itself.

    One that still runs two seconds later is ended (here), or finds its output gone (over SSH).
    """

    @property
    def stderr(self) -> bytes:
        """The last of its standard error that has come with what was read; at most 1 MiB."""
        ...

    def write(self, data: bytes) -> None:
        """To its standard input. Raises HostUnreachable when the connection is gone."""
        ...

    def read_line(self, timeout: float) -> bytes:
        """The next line of its output with its newline; empty at the end. Raises TimeoutError."""
        ...

    def read(self, size: int, timeout: float) -> bytes:
        """What there is of its output, at most size bytes; empty at the end. Raises TimeoutError.

        The program can only be a few MiB ahead of who reads. An end is not success: ask wait().
        """
        ...

    def close_stdin(self) -> None: ...

    def wait(self, timeout: float) -> Completed:
        """Wait for the end; stdout holds what read_line did not take. Raises TimeoutError."""
        ...

    def close(self) -> None: ...


class Machine(Protocol):
    """A place to run programs. Thread-safe."""

    @property
    def name(self) -> str:
        """For messages: the host's name in the configuration, or `this machine`."""
        ...

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
        """Run a program with LC_ALL=C and wait for it. Arguments arrive exactly as given.

        env: added to the environment, on this machine only: a remote machine takes none and
        raises ValueError, because ways to hand one over would show it to other users there.
        Over SSH a program that is ended keeps running until it next uses its input or output.

        Raises CommandFailed (check, and a status other than 0; or the time limit, or the output
        cap: the program is then ended), ToolMissing (status 127), HostUnreachable.
        """
        ...

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
        """Run a POSIX shell script; args arrive as $1, $2, … As run() otherwise.

        Status 127 may come from a program inside the script: without check it is only returned.
        """
        ...

    def start(self, argv: Sequence[str]) -> Process:
        """Start a program without waiting."""
        ...

    def open_unix(self, path: str) -> Stream:
        """Connect to a unix socket of the machine. Raises HostError with the reason and remedy."""
        ...

    def close(self) -> None: ...
