"""Exact reads and writes on a byte stream, with time limits that a slow liar cannot stretch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from vmconsole.errors import HostUnreachable
from vmconsole.remote.machine import Stream

_SLICE: Final = 0.5
_PROGRESS: Final = 64 * 1024
_SMALL: Final = 8 * 1024
_LARGE: Final = 1024 * 1024


class Stop(Protocol):
    """What a wait may be interrupted by; vmconsole.interfaces.Cancel is one."""

    def check(self) -> None:
        """Raise when the work is to stop."""
        ...


class Wire:
    """One connection. Not thread-safe: one thread receives, the same or one other sends.

    timeout, in seconds, is how long the peer may take for a message, or for each further 64 KiB of
    a long one. Raises HostUnreachable when the connection ends, fails or is silent; subject is the
    export it is about.
    """

    def __init__(
        self,
        stream: Stream,
        timeout: float,
        subject: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stop: Stop | None = None
        self.subject = subject
        self._stream = stream
        self._timeout = timeout
        self._clock = clock
        self._limit: float | None = None
        self._recv_into: Callable[[memoryview], int] | None = getattr(stream, "recv_into", None)
        self._store = memoryview(bytearray(_SMALL))
        self._kept = memoryview(b"")
        self._set_timeout: float | None = -1.0
        self._closed = False

    def limit(self, seconds: float | None) -> None:
        """Everything from now on must be over within that time; None takes the limit away."""
        self._limit = None if seconds is None else self._clock() + seconds

    def allow(self, seconds: float) -> None:
        """Change the time limit of each message."""
        self._timeout = seconds

    def receive(self, size: int) -> bytes:
        """Exactly size bytes. The caller has checked size."""
        if len(self._kept) >= size:
            taken = bytes(self._kept[:size])
            self._kept = self._kept[size:]
            return taken
        data = bytearray(size)
        self.receive_into(memoryview(data))
        return bytes(data)

    def receive_buffer(self, size: int) -> bytearray:
        """Exactly size bytes in a buffer of their own. The caller has checked size."""
        data = bytearray(size)
        self.receive_into(memoryview(data))
        return data

    def receive_into(self, target: memoryview) -> None:
        """Fill the target."""
        size = len(target)
        done = min(size, len(self._kept))
        target[:done] = self._kept[:done]
        self._kept = self._kept[done:]
        if done == size:
            return
        deadline = self._deadline()
        mark = done
        while done < size:
            done += self._some(target[done:], deadline)
            if done - mark >= _PROGRESS:
                mark, deadline = done, self._deadline()

    def discard(self, size: int) -> None:
        """Skip bytes."""
        scratch = memoryview(bytearray(min(size, _LARGE)))
        while size:
            part = min(size, len(scratch))
            self.receive_into(scratch[:part])
            size -= part

    def wait(self) -> bool:
        """Wait without limit for the peer to say something; False when it has gone away."""
        if self._kept:
            return True
        try:
            self._time(None)
            if self._recv_into is not None:
                count = self._recv_into(self._store)
                self._kept = self._store[:count]
            else:
                self._kept = memoryview(self._stream.recv(_LARGE))
        except (OSError, EOFError):
            return False
        return bool(self._kept)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._time(self._timeout)
            self._stream.sendall(data)
        except TimeoutError:
            raise self._silent("took no more data") from None
        except (OSError, EOFError) as error:
            raise self._gone(error) from error

    def swallow(self) -> None:
        """Take and forget what the peer still sends, in a thread, until close(). Nothing else may receive."""
        threading.Thread(target=self._swallow, name="nbd-swallow", daemon=True).start()

    def _swallow(self) -> None:
        while not self._closed:
            try:
                self._stream.settimeout(_SLICE)
                if not self._stream.recv(_LARGE):
                    return
            except TimeoutError:
                continue
            except (OSError, EOFError):
                return

    def close(self) -> None:
        """Never raises."""
        self._closed = True
        with suppress(OSError, EOFError):
            self._stream.close()

    def _some(self, target: memoryview, deadline: float) -> int:
        """Receive at least one byte. A large target is filled directly, a small one through a store."""
        while True:
            if self.stop is not None:
                self.stop.check()
            left = deadline - self._clock()
            if left <= 0:
                raise self._silent("did not answer")
            try:
                self._time(min(_SLICE, self._timeout))
                return self._once(target)
            except TimeoutError:
                continue
            except (OSError, EOFError) as error:
                raise self._gone(error) from error

    def _once(self, target: memoryview) -> int:
        if self._recv_into is not None and len(target) >= _SMALL:
            count = self._recv_into(target)
            if not count:
                raise EOFError
            return count
        if self._recv_into is not None:
            fresh = self._store[: self._recv_into(self._store)]
        else:
            fresh = memoryview(self._stream.recv(_LARGE))
        if not fresh:
            raise EOFError
        count = min(len(target), len(fresh))
        target[:count] = fresh[:count]
        self._kept = fresh[count:]
        return count

    def _deadline(self) -> float:
        deadline = self._clock() + self._timeout
        return deadline if self._limit is None else min(deadline, self._limit)

    def _time(self, seconds: float | None) -> None:
        if seconds != self._set_timeout:
            self._stream.settimeout(seconds)
            self._set_timeout = seconds

    def _silent(self, what: str) -> HostUnreachable:
        return HostUnreachable(
            f"The disk server of “{self.subject}” {what} for {self._timeout:g} seconds.",
            hint="Check the host's load and the network, then try again.",
            subject=self.subject,
        )

    def _gone(self, error: OSError | EOFError) -> HostUnreachable:
        reason = getattr(error, "strerror", None) or "it was closed"
        return HostUnreachable(
            f"The connection to the disk “{self.subject}” broke: {reason}.",
            hint="The host, its guest or the backup job may have ended. Check the guest and try again.",
            subject=self.subject,
        )
