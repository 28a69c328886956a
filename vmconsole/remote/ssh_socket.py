"""The socket under an SSH connection: buffers what arrives, and notices when nothing does."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

_BUFFER = 256 * 1024
_MAX_WANTED = 1024 * 1024
"""OpenSSH packets end at 256 KiB; a longer one is nonsense, and would be held in memory."""


class RawSocket(Protocol):
    """A socket, or a channel of another SSH connection."""

    def recv(self, size: int, /) -> bytes: ...

    def send(self, data: bytes, /) -> int: ...

    def settimeout(self, seconds: float | None, /) -> None: ...

    def close(self) -> None: ...


class WatchedSocket:
    """What paramiko's transport reads from and writes to.

    The transport polls it with a short time limit, so recv() gets control several times a second
    also when nothing arrives. Quiet is how long those polls waited in vain: time in which our own
    process was stopped or busy does not count. After a third of `patience` a question is asked that
    the server has to answer (see watch()); after all of it recv() fails, so the transport ends and
    every channel with it. send() fails after being blocked that long.
    """

    def __init__(self, raw: RawSocket, patience: float) -> None:
        self.patience = patience
        self.silent = False
        """It was given up because nothing came."""
        self._raw = raw
        self._pending = memoryview(b"")
        self._poll = 0.0
        self._quiet = 0.0
        self._blocked = 0.0
        self._asked = False
        self._ask: Callable[[], None] | None = None
        self._closed = False  # paramiko looks at this name, as at a real socket's

    def watch(self, ask: Callable[[], None]) -> None:
        """Begin to watch. ask is called in the thread that reads."""
        self._quiet = self._blocked = 0.0
        self._ask = ask

    def recv(self, size: int) -> bytes:
        if size > _MAX_WANTED:
            raise OSError(errno.EMSGSIZE, "the server announced an impossibly long packet")
        if not self._pending:
            try:
                self._pending = memoryview(self._raw.recv(max(size, _BUFFER)))
            except TimeoutError as error:
                self._quiet += self._poll
                self._judge(error, self._quiet)
                self._ask_if_quiet()
                raise
            self._quiet = self._blocked = 0.0
            self._asked = False
        piece = bytes(self._pending[:size])
        self._pending = self._pending[size:]
        return piece

    def send(self, data: bytes) -> int:
        try:
            sent = self._raw.send(data)
        except TimeoutError as error:
            self._blocked += self._poll
            self._judge(error, self._blocked)
            raise
        self._blocked = 0.0
        return sent

    def settimeout(self, seconds: float | None) -> None:
        self._poll = seconds or 0.0
        self._raw.settimeout(seconds)

    def close(self) -> None:
        self._closed = True
        if isinstance(self._raw, socket.socket):
            # Wakes the thread that reads; closing alone leaves it waiting until its poll ends.
            with suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)
        self._raw.close()

    def _ask_if_quiet(self) -> None:
        if self._ask is not None and not self._asked and self._quiet > self.patience / 3:
            self._asked = True
            self._ask()

    def _judge(self, timeout: TimeoutError, waited: float) -> None:
        by_kernel = timeout.errno == errno.ETIMEDOUT  # else it is the end of one poll
        if by_kernel or (self._ask is not None and waited > self.patience):
            self.silent = True
            # Not ETIMEDOUT: that is a TimeoutError, after which paramiko would just poll on.
            raise ConnectionAbortedError(
                errno.ECONNABORTED, f"no answer for {self.patience:g} s"
            ) from timeout


def tune(connection: socket.socket, patience: float) -> None:
    """No delay for small packets, and let the kernel give up on a dead path in time: tcp(7)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))
