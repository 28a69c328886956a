"""A program on this machine with its three streams as they are, for who passes bytes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO


class PipedProgram:
    """A running program in a session of its own.

    stdin, stdout, stderr: our ends of its pipes, file descriptors; whoever uses them closes
    them. Raises OSError when it cannot be started.
    """

    def __init__(self, argv: Sequence[str | bytes], *, env: Mapping[str, str], folder: str) -> None:
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            cwd=folder,
            start_new_session=True,
        )
        self.stdin, self.stdout, self.stderr = map(
            _take, (self._popen.stdin, self._popen.stdout, self._popen.stderr)
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the signal. Raises TimeoutError."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError("the program still runs") from error

    def signal(self, number: signal.Signals) -> None:
        """To everything in its session that did not leave it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)


def _take(stream: IO[bytes] | None) -> int:
    """The stream's descriptor, which nobody but us closes any more."""
    assert stream is not None
    descriptor = os.dup(stream.fileno())
    stream.close()
    return descriptor
