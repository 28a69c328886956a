"""Pipelined writes: a bounded number under way, failures kept until the caller asks again."""

from __future__ import annotations

from typing import Final

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.link import Link
from vmconsole.disks.nbd.protocol import Command, ExportFlag
from vmconsole.disks.nbd.wire import Stop
from vmconsole.errors import HostError, NotPermitted

_MAX_COUNT: Final = 32
_MAX_BYTES: Final = 32 * 1024 * 1024
_ZERO_PIECE: Final = 128 * 1024 * 1024
"""Bytes one WRITE_ZEROES covers, so that each is answered in time even where zeros are really written."""
_ZEROS: Final = memoryview(bytes(1024 * 1024))
_JOINED: Final = 16 * 1024
_FLUSH_FACTOR: Final = 10
"""A flush may take this many times as long as other requests: it waits for the host's disks."""


class Writer:
    """Writes over one link. A lost write is reported by every later call: nothing hides it."""

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._asked: dict[int, tuple[str, int]] = {}
        self._bytes = 0
        self._failure: HostError | None = None

    def write(self, offset: int, data: bytes | bytearray | memoryview, stop: Stop | None = None) -> None:
        view = memoryview(data).cast("B")
        self._check(offset, len(view))
        with self._link.use(stop):
            for start in range(0, len(view), self._link.max_request):
                part = view[start : start + self._link.max_request]
                self._send(Command.WRITE, offset + start, len(part), part)
        self._raise_failure()

    def write_zeroes(self, offset: int, length: int, stop: Stop | None = None) -> None:
        self._check(offset, length)
        native = bool(self._link.facts.flags & ExportFlag.SEND_WRITE_ZEROES)
        step = _ZERO_PIECE if native else min(len(_ZEROS), self._link.max_request)
        with self._link.use(stop):
            for start in range(offset, offset + length, step):
                part = min(step, offset + length - start)
                if native:
                    self._send(Command.WRITE_ZEROES, start, part)
                else:
                    self._send(Command.WRITE, start, part, _ZEROS[:part])
        self._raise_failure()

    def flush(self, stop: Stop | None = None) -> None:
        """Wait for every write, and for the host's storage."""
        self.drain(stop)
        if not self._link.facts.flags & ExportFlag.SEND_FLUSH:
            return
        with self._link.use(stop):
            self._link.wire.allow(self._timeout * _FLUSH_FACTOR)
            self._send(Command.FLUSH, 0, 0)
            self._settle(0)
            self._link.wire.allow(self._timeout)
        self._raise_failure()

    def drain(self, stop: Stop | None = None) -> None:
        """Wait for every write to be answered."""
        if self._asked:
            with self._link.use(stop):
                self._settle(0)
        self._raise_failure()

    def finish(self) -> None:
        """As drain(); once only. Of use on a broken link too: what was under way is then lost."""
        try:
            self.drain()
        finally:
            self._asked.clear()
            self._failure = None

    def _check(self, offset: int, length: int) -> None:
        facts = self._link.facts
        if offset < 0 or length < 0 or offset + length > facts.size:
            raise ValueError(f"range {offset}+{length} is outside the disk of {facts.size} bytes")
        if offset % facts.min_block or length % facts.min_block:
            raise HostError(
                f"The disk “{facts.name}” can only be written in whole blocks of {facts.min_block} bytes.",
                hint="Restore into a qcow2 disk, or onto storage with smaller blocks.",
                subject=facts.name,
            )
        if facts.flags & ExportFlag.READ_ONLY:
            raise NotPermitted(
                f"The disk “{facts.name}” is exported read-only.",
                hint="Export it for writing.",
                subject=facts.name,
            )
        self._raise_failure()

    def _send(self, command: Command, offset: int, length: int, data: memoryview | None = None) -> None:
        """Replies are tiny, so a peer never waits for us to read them while we send."""
        while self._asked and (len(self._asked) >= _MAX_COUNT or self._bytes >= _MAX_BYTES):
            self._settle(len(self._asked) - 1)
        cookie = self._link.cookie()
        header = protocol.request(command, cookie, offset, length)
        self._asked[cookie] = (_what(command, offset, length), len(data or b""))
        self._bytes += len(data or b"")
        if data is not None and len(data) <= _JOINED:
            self._link.wire.send(header + data)
        else:
            self._link.wire.send(header)
            if data is not None:
                self._link.wire.send(data)

    def _settle(self, target: int) -> None:
        """Take replies until at most target requests are under way."""
        while len(self._asked) > target:
            reply = self._link.reply()
            what, size = self._asked.get(reply.cookie, ("", 0))
            if not what:
                raise self._link.lie("it answered a write that was not sent, or was answered already")
            problem = self._link.check_finished(reply, what)
            self._failure = self._failure or problem
            if reply.done:
                del self._asked[reply.cookie]
                self._bytes -= size
            elif problem is None:
                raise self._link.lie("its answer to a write does not end")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _what(command: Command, offset: int, length: int) -> str:
    if command == Command.FLUSH:
        return "make what was written durable"
    verb = "zero" if command == Command.WRITE_ZEROES else "write"
    return f"{verb} {length} bytes at {offset}"
