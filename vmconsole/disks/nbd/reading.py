"""Pipelined reads: many requests under way on one connection, their replies in any order."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.link import Link, Reply
from vmconsole.disks.nbd.protocol import Command, ReplyType
from vmconsole.disks.nbd.wire import Stop
from vmconsole.interfaces import Pace

Piece = tuple[int, bytes | bytearray | memoryview]

ZEROS: Final = memoryview(bytes(1024 * 1024))
"""What holes are yielded from; read-only."""
_COUNT_FACTOR: Final = 8
"""Small requests: this many times in_flight of them, as long as their bytes stay within the window."""
_SMALLEST_CHUNK: Final = 512
_FREE_CHUNKS: Final = 16
_SLICE: Final = 0.25
"""Seconds between looks at the stop token while nothing may be requested."""


@dataclass(slots=True)
class _Asked:
    """A request under way for [start, end), of which [first, last) is wanted. sent: on the pump's clock."""

    start: int
    end: int
    first: int
    last: int
    sent: float = 0.0
    received: int = 0
    chunks: int = 0
    parts: list[tuple[int, int]] = field(default_factory=list)

    def take(self, offset: int, length: int) -> str:
        """Note a content chunk. Returns what is wrong with it, or nothing."""
        end = offset + length
        if length == 0 or offset < self.start or end > self.end:
            return "it answered a read with a range that was not asked for"
        self.chunks += 1
        if self.chunks > (self.end - self.start) // _SMALLEST_CHUNK + _FREE_CHUNKS:
            return "it cut its answer to a read into absurdly many pieces"
        at = bisect_left(self.parts, (offset, end))
        if at and self.parts[at - 1][1] > offset:
            return "it sent the same bytes twice"
        if at < len(self.parts) and self.parts[at][0] < end:
            return "it sent the same bytes twice"
        self.parts.insert(at, (offset, end))
        self.received += length
        return ""

    @property
    def complete(self) -> bool:
        return self.received == self.end - self.start


class _Window:
    """What may be under way at the same time, in bytes and in requests."""

    def __init__(self, request_size: int, in_flight: int) -> None:
        self.max_bytes = request_size * in_flight
        self.max_count = in_flight * _COUNT_FACTOR
        self.bytes = 0
        self.count = 0

    def admits(self, length: int) -> bool:
        return self.count == 0 or (self.bytes + length <= self.max_bytes and self.count < self.max_count)

    @property
    def worth_filling(self) -> bool:
        """Requests go out several at a time: a quarter of the window has to be free."""
        return self.bytes <= self.max_bytes * 3 // 4 and self.count <= self.max_count * 3 // 4

    def add(self, length: int) -> None:
        self.bytes += length
        self.count += 1

    def remove(self, length: int) -> None:
        self.bytes -= length
        self.count -= 1


def read(
    link: Link,
    ranges: Iterable[tuple[int, int]],
    request_size: int,
    in_flight: int,
    stop: Stop | None,
    pace: Pace,
) -> Iterator[Piece]:
    """See NbdClient.read."""
    with link.use(stop):
        requests = _requests(link, ranges, request_size, pace)
        yield from _Pump(link, requests, _Window(request_size, in_flight), pace, stop).run()


def _requests(
    link: Link, ranges: Iterable[tuple[int, int]], request_size: int, pace: Pace
) -> Iterator[_Asked]:
    """Cut at multiples of the request size, so that aligned chunks arrive whole; widen to whole blocks."""
    size, block = link.facts.size, link.facts.min_block
    largest = max(min(request_size, link.max_request) // block * block, block)
    for offset, length in ranges:
        if offset < 0 or length < 0 or offset + length > size:
            raise ValueError(f"range {offset}+{length} is outside the disk of {size} bytes")
        end = offset + length
        while offset < end:
            # What others have to wait for behind a request of ours depends on its size.
            most = pace.largest()
            step = max(min(most, largest) // block * block, block) if most else largest
            cut = min(end, offset - offset % step + step)
            first_block = offset - offset % block
            last_block = min(cut + -cut % block, size)
            yield _Asked(first_block, last_block, offset, cut)
            offset = cut


class _Pump:
    """Keeps requests under way on one connection, as many as the window and the pace admit."""

    def __init__(
        self, link: Link, requests: Iterator[_Asked], window: _Window, pace: Pace, stop: Stop | None
    ) -> None:
        self._link = link
        self._requests = requests
        self._window = window
        self._pace = pace
        self._stop = stop
        self._asked: dict[int, _Asked] = {}
        self._away = 0.0
        """Seconds that whoever takes the pieces was busy: replies that lay here meanwhile were not late."""

    def run(self) -> Iterator[Piece]:
        try:
            yield from self._run()
        finally:
            for request in self._asked.values():
                self._pace.came(request.end - request.start, 0.0)

    def _run(self) -> Iterator[Piece]:
        link, asked = self._link, self._asked
        waiting = next(self._requests, None)
        while waiting or asked:
            held = 0.0
            if waiting and self._window.worth_filling:
                waiting, held = self._send(waiting)
            if not asked:
                self._sleep(held)
                continue
            reply = link.reply()
            request = asked.get(reply.cookie)
            if request is None:
                raise link.lie("it answered a read that was not sent, or was answered already")
            for piece in _content(link, reply, request):
                left = time.monotonic()
                yield piece
                self._away += time.monotonic() - left
            if reply.done:
                if not request.complete:
                    raise link.lie("it called a read finished without sending all of it")
                del asked[reply.cookie]
                length = request.end - request.start
                self._window.remove(length)
                self._pace.came(length, self._clock() - request.sent)

    def _send(self, waiting: _Asked) -> tuple[_Asked | None, float]:
        """Send what the window and the pace admit, in one piece.

        Returns the request that was not admitted any more, and for how many seconds the pace held it.
        """
        batch, held = bytearray(), 0.0
        following: _Asked | None = waiting
        while following and self._window.admits(length := following.end - following.start):
            held = self._pace.wait(length)
            if held > 0:
                break
            cookie = self._link.cookie()
            batch += protocol.request(Command.READ, cookie, following.start, length)
            following.sent = self._clock()
            self._asked[cookie] = following
            self._window.add(length)
            following = next(self._requests, None)
        if batch:
            self._link.wire.send(batch)
        return following, held

    def _sleep(self, seconds: float) -> None:
        if self._stop is not None:
            self._stop.check()
        time.sleep(min(seconds, _SLICE))

    def _clock(self) -> float:
        """Seconds, without those in which replies were left unread."""
        return time.monotonic() - self._away


def _content(link: Link, reply: Reply, request: _Asked) -> Iterator[Piece]:
    match reply.kind:
        case ReplyType.OFFSET_DATA:
            yield from _data(link, reply, request)
        case ReplyType.OFFSET_HOLE:
            yield from _hole(link, reply, request)
        case ReplyType.NONE if reply.length == 0 and reply.done:
            return
        case ReplyType.SIMPLE if reply.error:
            raise link.failure(reply.error, _what(request))
        case ReplyType.SIMPLE if not link.facts.structured:
            _take(link, request, request.start, request.end - request.start)
            yield from _wanted(link, request, request.start, request.end)
        case kind if kind & protocol.REPLY_ERROR and kind > 0:
            raise link.read_error(reply, _what(request))
        case kind:
            raise link.lie(f"an answer of kind {kind} to a read")


def _data(link: Link, reply: Reply, request: _Asked) -> Iterator[Piece]:
    length = reply.length - protocol.U64.size
    if not 0 < length <= request.end - request.start:
        raise link.lie(f"a piece of {length} bytes in answer to a read of {request.end - request.start}")
    (offset,) = protocol.U64.unpack(link.wire.receive(protocol.U64.size))
    _take(link, request, offset, length)
    yield from _wanted(link, request, offset, offset + length)


def _wanted(link: Link, request: _Asked, start: int, end: int) -> Iterator[Piece]:
    """Receive [start, end) and yield what of it was asked for."""
    buffer = link.wire.receive_buffer(end - start)
    first, last = max(start, request.first), min(end, request.last)
    if first == start and last == end:
        yield start, buffer
    elif first < last:
        yield first, memoryview(buffer)[first - start : last - start]


def _hole(link: Link, reply: Reply, request: _Asked) -> Iterator[Piece]:
    if reply.length != protocol.HOLE.size:
        raise link.lie(f"a description of a hole that is {reply.length} bytes long")
    offset, length = protocol.HOLE.unpack(link.wire.receive(protocol.HOLE.size))
    _take(link, request, offset, length)
    first, last = max(offset, request.first), min(offset + length, request.last)
    while first < last:
        part = min(last - first, len(ZEROS))
        yield first, ZEROS[:part]
        first += part


def _take(link: Link, request: _Asked, offset: int, length: int) -> None:
    wrong = request.take(offset, length)
    if wrong:
        raise link.lie(wrong)


def _what(request: _Asked) -> str:
    return f"read {request.end - request.start} bytes at {request.start}"
