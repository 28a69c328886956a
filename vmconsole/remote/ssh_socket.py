"""The socket under an SSH connection: buffers what arrives, and notices when nothing does."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
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

    The transport polls it with a short time limit, so that recv() gets control several times a
    second also when nothing arrives. Quiet is the time since anything came in, or since a blocked
    write could go on. After a third of `patience` of it a question is sent that the server has to
    answer (watch()); after all of it recv() and send() fail, so the transport ends and every channel
    with it.
    """

    def __init__(self, raw: RawSocket, patience: float) -> None:
        self._raw = raw
        self._patience = patience
        self._pending = memoryview(b"")
        self._heard = time.monotonic()
        self._asked = False
        self._write_blocked = False
        self._ask: Callable[[], None] | None = None
        self._closed = False  # paramiko looks at this name, as at a real socket's

    def watch(self, ask: Callable[[], None]) -> None:
        """Begin to watch. ask is called in the thread that reads."""
        self._heard = time.monotonic()
        self._ask = ask

    def recv(self, size: int) -> bytes:
        if size > _MAX_WANTED:
            raise OSError(errno.EMSGSIZE, "the server announced an impossibly long packet")
        if not self._pending:
            try:
                self._pending = memoryview(self._raw.recv(max(size, _BUFFER)))
            except TimeoutError:
                self._mind_the_quiet(may_ask=True)
                raise
            self._heard = time.monotonic()
            self._asked = False
        piece = bytes(self._pending[:size])
        self._pending = self._pending[size:]
        return piece

    def send(self, data: bytes) -> int:
        try:
            sent = self._raw.send(data)
        except TimeoutError:
            self._write_blocked = True
            self._mind_the_quiet(may_ask=False)
            raise
        if self._write_blocked:
            self._write_blocked = False
            self._heard = time.monotonic()
        return sent

    def settimeout(self, seconds: float | None) -> None:
        self._raw.settimeout(seconds)

    def close(self) -> None:
        self._closed = True
        self._raw.close()

    def _mind_the_quiet(self, *, may_ask: bool) -> None:
        if self._ask is None:
            return
        quiet = time.monotonic() - self._heard
        if quiet > self._patience:
            raise OSError(errno.ETIMEDOUT, f"no answer for {self._patience:g} s")
        if may_ask and not self._asked and quiet > self._patience / 3:
            self._asked = True
            self._ask()


def tune(connection: socket.socket, patience: float) -> None:
    """No delay for small packets, and let the kernel give up on a dead path in time: tcp(7)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))
