"""A program started on this machine, with pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence

from vmconsole.errors import HostUnreachable
from vmconsole.remote.command import keep_errors, shown, too_much_output
from vmconsole.remote.machine import MAX_OUTPUT, Completed

_PIECE = 256 * 1024
_PIPE = 1024 * 1024
_KILL_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
_DRAIN_GRACE = 2.0
"""Seconds to wait for the end of the output after the program ended: a daemon it left may hold the pipes."""
_LOOK = 0.2
"""Seconds between looks at the program: where a descendant keeps the pipes, no event tells that it ended."""


class Child:
    """A Process of this machine. Not to be used by two threads at once."""

    def __init__(self, popen: subprocess.Popen[bytes], words: Sequence[str], machine: str) -> None:
        assert popen.stdin
        assert popen.stdout
        assert popen.stderr
        self._popen = popen
        self._words = words
        self._machine = machine
        self._stdin = popen.stdin
        self._stdout = popen.stdout
        self._stderr = popen.stderr
        self._out = bytearray()
        self._err = bytearray()
        self._selector = selectors.DefaultSelector()
        for stream in (self._stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # Only faster: a user's pipes may be limited.
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, _PIPE)
        os.set_blocking(self._stdin.fileno(), False)

    @property
    def stderr(self) -> bytes:
        return bytes(self._err)

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
            while view:
                # Its output is read meanwhile: it may not take input before it has got rid of that.
                if self._pump(None, MAX_OUTPUT):
                    view = view[self._put(view) :]
        except (BrokenPipeError, ValueError) as error:
            raise HostUnreachable(
                f"{shown(self._words)} on {self._machine} takes no more input", subject=self._machine
            ) from error
        except BufferError:
            raise too_much_output(self._words, self._machine, MAX_OUTPUT) from None
        finally:
            self._forget_stdin()

    def read_line(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while True:
            end = self._out.find(b"\n")
            if end >= 0:
                return self._take(end + 1)
            if len(self._out) > MAX_OUTPUT:
                raise too_much_output(self._words, self._machine, MAX_OUTPUT)
            if not self._is_open(self._stdout):
                return self._take(len(self._out))
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError(f"{shown(self._words)} on {self._machine} said nothing for {timeout:g} s")
            self._pump(left)

    def read(self, size: int, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while not self._out and self._is_open(self._stdout):
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError(f"{shown(self._words)} on {self._machine} said nothing for {timeout:g} s")
            self._pump(left)
        return self._take(min(size, len(self._out)))

    def close_stdin(self) -> None:
        self._stdin.close()

    def wait(self, timeout: float) -> Completed:
        try:
            self._finish(time.monotonic() + timeout, MAX_OUTPUT)
        except BufferError:
            raise too_much_output(self._words, self._machine, MAX_OUTPUT) from None
        except TimeoutError:
            raise TimeoutError(
                f"{shown(self._words)} on {self._machine} still runs after {timeout:g} s"
            ) from None
        return self._completed()

    def communicate(self, stdin: bytes, timeout: float, max_output: int) -> Completed:
        """Feed it, read it, wait for it. Raises TimeoutError, BufferError (max_output)."""
        deadline = time.monotonic() + timeout
        view = memoryview(stdin)
        if view:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        while view and self._popen.poll() is None:
            if self._pump(min(_left(deadline), _LOOK), max_output):
                try:
                    view = view[self._put(view) :]
                except BrokenPipeError:
                    break
        self._forget_stdin()
        self._stdin.close()
        self._finish(deadline, max_output)
        return self._completed()

    def kill(self) -> None:
        """End the whole process group if it still runs, and free everything."""
        if self._popen.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._popen.wait(_KILL_GRACE)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._popen.wait()
        self._free()

    def close(self) -> None:
        self._stdin.close()
        try:
            self._popen.wait(_KILL_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._free()

    def _finish(self, deadline: float, max_output: int) -> None:
        """Read until both outputs are at their end and the program has ended."""
        drain_until: float | None = None
        while self._selector.get_map():
            if self._popen.poll() is not None:
                drain_until = drain_until or time.monotonic() + _DRAIN_GRACE
                if time.monotonic() > drain_until:
                    break
            self._pump(min(_left(deadline), _LOOK), max_output)
        try:
            self._popen.wait(_left(deadline))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def _put(self, view: memoryview) -> int:
        """Write what fits into the pipe."""
        try:
            return os.write(self._stdin.fileno(), view[:_PIECE])
        except BlockingIOError:
            return 0

    def _forget_stdin(self) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._stdin)

    def _pump(self, timeout: float | None, max_output: int | None = None) -> bool:
        """Read what is there, waiting at most timeout. True when the standard input takes more."""
        writable = False
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._stdin:
                writable = True
                continue
            data = os.read(key.fd, _PIECE)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._stderr:
                keep_errors(self._err, data)
            else:
                self._out += data
                if max_output is not None and len(self._out) > max_output:
                    raise BufferError
        return writable

    def _take(self, size: int) -> bytes:
        line = bytes(self._out[:size])
        del self._out[:size]
        return line

    def _completed(self) -> Completed:
        code = self._popen.returncode
        return Completed(code if code >= 0 else 128 - code, self._take(len(self._out)), self.stderr)

    def _is_open(self, stream: object) -> bool:
        return any(key.fileobj is stream for key in self._selector.get_map().values())

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    def _free(self) -> None:
        self._selector.close()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left < 0:
        raise TimeoutError
    return left
