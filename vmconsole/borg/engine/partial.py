"""A chunk that is given in parts."""

from __future__ import annotations

from bisect import bisect_left, insort
from enum import IntEnum

from vmconsole.borg.engine.codec import Buffer
from vmconsole.borg.engine.parking import Parked, Parking


class Source(IntEnum):
    """Where a part of a chunk comes from."""

    PARENT = 0
    ZERO = 1
    DATA = 2


class Overlap(Exception):
    """A byte was given twice."""


class Partial:
    """The parts of one chunk so far. Offsets count from the chunk's start.

    What was given is kept as it is, elsewhere, until the chunk is complete: a disk may have very many
    chunks of which only a little is known.
    """

    __slots__ = ("_length", "_parked", "_parking", "_parts")

    def __init__(self, length: int, parking: Parking) -> None:
        self._length = length
        self._parking = parking
        self._parts: list[tuple[int, int, Source]] = []
        self._parked: Parked | None = None

    def add(self, start: int, end: int, source: Source, data: Buffer = b"") -> None:
        """Raises Overlap."""
        at = bisect_left(self._parts, (start, end, source))
        if (at and self._parts[at - 1][1] > start) or (at < len(self._parts) and self._parts[at][0] < end):
            raise Overlap
        insort(self._parts, (start, end, source))
        self._merge(at)
        if source is Source.DATA:
            if self._parked is None:
                self._parked = Parked()
            self._parking.add(self._parked, start, data)

    def _merge(self, at: int) -> None:
        """Join the part at a position with neighbours of its kind."""
        for left in (at, at - 1):
            if 0 <= left < len(self._parts) - 1:
                (start, middle, source), (other, end, other_source) = self._parts[left], self._parts[left + 1]
                if middle == other and source is other_source:
                    self._parts[left : left + 2] = [(start, end, source)]

    @property
    def complete(self) -> bool:
        position = 0
        for start, end, _ in self._parts:
            if start != position:
                return False
            position = end
        return position == self._length

    @property
    def needs_parent(self) -> bool:
        return any(source is Source.PARENT for _, _, source in self._parts)

    @property
    def only_parent(self) -> bool:
        return all(source is Source.PARENT for _, _, source in self._parts)

    @property
    def has_data(self) -> bool:
        return self._parked is not None

    def filled(self, parent: bytes) -> bytearray:
        """The whole chunk, once. parent: the parent's chunk, empty when what is reused is zero."""
        if self._parked is None:
            buffer = bytearray(self._length)
        else:
            given = [(start, end) for start, end, source in self._parts if source is Source.DATA]
            buffer = self._parking.take(self._parked, self._length, given)
        if parent:
            for start, end, source in self._parts:
                if source is Source.PARENT:
                    buffer[start:end] = memoryview(parent)[start:end]
        return buffer
