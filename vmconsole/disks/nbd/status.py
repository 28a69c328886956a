"""Block status: what a server says about ranges, collected for any length and several contexts."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.link import Link, Reply
from vmconsole.disks.nbd.protocol import Command, ReplyType
from vmconsole.disks.nbd.wire import Stop
from vmconsole.errors import HostError, ProtocolError

Run = tuple[int, int, int]

_MAX_DESCRIPTORS: Final = 2 * 1024 * 1024
"""In one reply; QEMU sends at most 128 Ki, nbdkit 1 Mi."""
_MAX_RUNS: Final = 32 * 1024 * 1024
_FREE_REQUESTS: Final = 20_000
_LEAST_PROGRESS: Final = 1024 * 1024
"""Bytes a request must advance the map on average, after the free ones."""


class StatusMap(Sequence[Run]):
    """(offset, length, flags) of neighbouring ranges, in order, without gaps; 12 bytes each.

    Neighbours with equal flags are one. It equals any sequence of the same tuples.
    """

    def __init__(self, start: int = 0) -> None:
        self._starts = array("Q")
        self._flags = array("I")
        self.end = start

    def append(self, length: int, flags: int) -> None:
        """Add a range after the last one."""
        if not self._flags or self._flags[-1] != flags:
            self._starts.append(self.end)
            self._flags.append(flags)
        self.end += length

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...

    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        start = self._starts[at]
        end = self._starts[at + 1] if at + 1 < len(self) else self.end
        return start, end - start, self._flags[at]

    def __iter__(self) -> Iterator[Run]:
        if not self._starts:
            return
        starts = iter(self._starts)
        start = next(starts)
        for following, flags in zip(starts, self._flags, strict=False):
            yield start, following - start, flags
            start = following
        yield start, self.end - start, self._flags[-1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"StatusMap({list(self[:8])}{' …' if len(self) > 8 else ''})"


class _Collector:
    """The maps of all contexts for [start, end), and how far each of them is known."""

    def __init__(self, link: Link, start: int, end: int) -> None:
        self._link = link
        self._end = end
        self._start = start
        self.maps = {name: StatusMap(start) for name in link.facts.contexts.values()}
        self._requests = 0

    @property
    def position(self) -> int:
        """Up to here every context is known."""
        return min(known.end for known in self.maps.values())

    def count_request(self) -> None:
        self._requests += 1
        allowance = _FREE_REQUESTS + (self.position - self._start) // _LEAST_PROGRESS
        if self._requests > allowance:
            raise self._link.lie("its map of the disk comes in absurdly small pieces")

    def add(self, payload: bytes | bytearray, asked: int, length: int, seen: set[int]) -> None:
        """Take one context's chunk of the answer to [asked, asked + length)."""
        (number,) = protocol.U32.unpack_from(payload)
        name = self._link.facts.contexts.get(number)
        if name is None or number in seen:
            raise self._link.lie("its map is about a context that was not chosen, or about one twice")
        seen.add(number)
        numbers = array("I", payload[protocol.U32.size :])
        if sys.byteorder == "little":
            numbers.byteswap()
        known = self.maps[name]
        at = asked
        for piece, flags in zip(numbers[::2], numbers[1::2], strict=True):
            if piece == 0 or at - asked >= length:
                raise self._link.lie("its map has an empty range, or goes on after the end")
            fresh = min(at + piece, self._end) - max(at, known.end)
            if fresh > 0:
                known.append(fresh, flags)
            at += piece
        if len(known) > _MAX_RUNS:
            raise self._link.lie(f"its map of the disk has more than {_MAX_RUNS} parts")


def collect(link: Link, offset: int, length: int, stop: Stop | None) -> dict[str, StatusMap]:
    """See NbdClient.block_status."""
    size, block = link.facts.size, link.facts.min_block
    end = offset + length
    if offset < 0 or length < 0 or end > size:
        raise ValueError(f"range {offset}+{length} is outside the disk of {size} bytes")
    if not link.facts.contexts:
        raise HostError(
            f"The NBD server does not say which parts of the disk “{link.facts.name}” hold data.",
            hint="Use QEMU's NBD server.",
            subject=link.facts.name,
        )
    collector = _Collector(link, offset, end)
    while (position := collector.position) < end:
        start = position - position % block
        asked = min(min(end + -end % block, size) - start, protocol.MAX_STATUS_LENGTH)
        collector.count_request()
        with link.use(stop):
            problem = _ask(link, collector, start, asked)
        if problem is not None:
            raise problem
    return collector.maps


def _ask(link: Link, collector: _Collector, start: int, length: int) -> HostError | None:
    """One request. Every context must be answered, so each of them advances by at least a byte."""
    cookie = link.cookie()
    link.wire.send(protocol.request(Command.BLOCK_STATUS, cookie, start, length))
    seen: set[int] = set()
    problem: HostError | None = None
    for _ in range(len(link.facts.contexts) + 2):
        reply = link.reply()
        if reply.cookie != cookie:
            raise link.lie("it answered something that was not asked")
        if reply.kind == ReplyType.BLOCK_STATUS:
            collector.add(_payload(link, reply), start, length, seen)
        else:
            problem = link.check_finished(reply, f"map {length} bytes at {start}") or problem
        if reply.done:
            if problem is None and len(seen) != len(link.facts.contexts):
                raise link.lie("its map leaves a context out")
            return problem
    raise link.lie("its answer about the map does not end")


def _payload(link: Link, reply: Reply) -> bytearray:
    descriptors, rest = divmod(reply.length - protocol.U32.size, protocol.DESCRIPTOR.size)
    if rest or not 0 < descriptors <= _MAX_DESCRIPTORS:
        raise link.lie(f"a map of {reply.length} bytes")
    return link.wire.receive_buffer(reply.length)


def require_context(maps: Iterable[str], context: str, subject: str) -> None:
    """Raise ProtocolError unless the context is among the negotiated ones."""
    if context not in maps:
        raise ProtocolError(
            f"The NBD server of the disk “{subject}” does not offer “{context}”.",
            hint="The bitmap may be missing or broken on the host; a full backup starts a new one.",
            subject=subject,
        )
