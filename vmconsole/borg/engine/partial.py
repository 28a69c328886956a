"""A chunk that is given in parts."""

from __future__ import annotations

from bisect import bisect_left, insort
from enum import IntEnum

from vmconsole.borg.engine.codec import Buffer


class Source(IntEnum):
    """Where a part of a chunk comes from."""

    PARENT = 0
    ZERO = 1
    DATA = 2


class Overlap(Exception):
    """A byte was given twice."""


class Partial:
    """The parts of one chunk so far. Offsets count from the chunk's start.

    Memory for the contents is only taken when the first data comes: a disk may have very many
    chunks of which a clean or zero part is already known.
    """

    __slots__ = ("_buffer", "_length", "_parts")

    def __init__(self, length: int) -> None:
        self._length = length
        self._parts: list[tuple[int, int, Source]] = []
        self._buffer: bytearray | None = None

    def add(self, start: int, end: int, source: Source, data: Buffer = b"") -> None:
        """Raises Overlap."""
        at = bisect_left(self._parts, (start, end, source))
        if (at and self._parts[at - 1][1] > start) or (at < len(self._parts) and self._parts[at][0] < end):
            raise Overlap
        insort(self._parts, (start, end, source))
        self._merge(at)
        if source is Source.DATA:
            if self._buffer is None:
                self._buffer = bytearray(self._length)
            self._buffer[start:end] = data

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
        return self._buffer is not None

    def filled(self, parent: bytes) -> bytearray:
        """The whole chunk. parent: the parent's chunk, empty when what is reused is zero."""
        buffer = self._buffer if self._buffer is not None else bytearray(self._length)
        if parent:
            for start, end, source in self._parts:
                if source is Source.PARENT:
                    buffer[start:end] = memoryview(parent)[start:end]
        return buffer
