"""Chunk lists in compact arrays: a disk of 1 TiB has a million chunks.

A list holds 32 bytes per chunk, not the tuple, bytes and integers (250 bytes) that Borg's own item has.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator

from vmconsole.model.extent import Content, Extent

ID = 32


class ChunkList:
    """The chunks of one file, in order. length: of every chunk but the last, 0 when they differ."""

    __slots__ = ("_ends", "ids", "length", "size")

    def __init__(self, ids: bytearray, size: int, length: int, ends: array[int] | None = None) -> None:
        self.ids = ids
        self.size = size
        self.length = length
        self._ends = ends

    @classmethod
    def collect(cls, entries: Iterator[tuple[bytes, int]]) -> ChunkList:
        """From (id, length) pairs. Keeps the lengths only when they are irregular."""
        ids = bytearray()
        size = length = 0
        ends: array[int] | None = None
        for id_, chunk in entries:
            if not length:
                length = chunk
            if ends is None and (chunk > length or size != length * (len(ids) // ID)):
                ends = array("Q", (min(length * (i + 1), size) for i in range(len(ids) // ID)))
            ids += id_
            size += chunk
            if ends is not None:
                ends.append(size)
        return cls(ids, size, 0 if ends is not None else length, ends)

    @property
    def count(self) -> int:
        return len(self.ids) // ID

    def id_at(self, index: int) -> bytes:
        return bytes(self.ids[index * ID : index * ID + ID])

    def start_of(self, index: int) -> int:
        """Byte offset at which a chunk starts; index may be count, giving the size."""
        if self._ends is not None:
            return self._ends[index - 1] if index else 0
        return min(index * self.length, self.size)

    def length_at(self, index: int) -> int:
        return self.start_of(index + 1) - self.start_of(index)

    def index_of(self, offset: int) -> int:
        """The chunk that holds a byte; offset < size."""
        return bisect_right(self._ends, offset) if self._ends is not None else offset // self.length

    def aligned(self, chunk_size: int) -> bool:
        """Whether every chunk starts at a multiple of chunk_size and only the last is shorter."""
        return self._ends is None and (
            self.length == chunk_size or (self.count <= 1 and self.size <= chunk_size)
        )


def runs(ids: bytearray | bytes) -> Iterator[tuple[bytes, int, int]]:
    """(id, first index, how many) of the same id in a row."""
    current, first, total = bytes(ids[:ID]), 0, len(ids) // ID
    if not total:
        return
    for index in range(1, total):
        if not ids.startswith(current, index * ID):
            yield current, first, index - first
            current, first = bytes(ids[index * ID : index * ID + ID]), index
    yield current, first, total - first


def contents(chunks: ChunkList, zero: bytes, last_zero: bytes) -> Iterator[Extent]:
    """The whole file as DATA and ZERO extents, in order.

    zero: the id of a whole zero chunk. last_zero: the id of a zero last chunk, which may be shorter.
    """
    merged = _Merger()
    last = chunks.count - 1
    for id_, first, count in runs(chunks.ids):
        end = first + count
        if id_ != zero and id_ == last_zero and end > last:
            yield from merged.add(chunks.start_of(first), chunks.start_of(last), Content.DATA)
            yield from merged.add(chunks.start_of(last), chunks.size, Content.ZERO)
            continue
        kind = Content.ZERO if id_ == zero else Content.DATA
        yield from merged.add(chunks.start_of(first), chunks.start_of(end), kind)
    yield from merged.rest()


def changed(old: ChunkList, new: ChunkList, zero: bytes, last_zero: bytes) -> Iterator[Extent]:
    """What differs in new, in order, from the lists alone: ZERO where it is zero now, else DATA.

    Both must be cut into chunks of one size, or everything counts as changed. zero and last_zero:
    of new, as in contents().
    """
    comparable = bool(new.length) and old.length == new.length
    merged = _Merger()
    last = new.count - 1
    for index in range(new.count):
        here = new.id_at(index)
        same = index < old.count and old.id_at(index) == here and old.length_at(index) == new.length_at(index)
        if comparable and same:
            continue
        is_zero = here == zero or (index == last and here == last_zero)
        kind = Content.ZERO if is_zero else Content.DATA
        yield from merged.add(new.start_of(index), new.start_of(index + 1), kind)
    yield from merged.rest()


class _Merger:
    """Joins neighbours of one kind."""

    def __init__(self) -> None:
        self._held: Extent | None = None

    def add(self, start: int, end: int, content: Content) -> Iterator[Extent]:
        if start == end:
            return
        held = self._held
        if held is not None and held.end == start and held.content is content:
            self._held = Extent(held.offset, end - held.offset, content)
            return
        if held is not None:
            yield held
        self._held = Extent(start, end - start, content)

    def rest(self) -> Iterator[Extent]:
        if self._held is not None:
            yield self._held
