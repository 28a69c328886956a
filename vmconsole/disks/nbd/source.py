"""What the NBD server serves: a disk that can be read, and maps of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from vmconsole.disks.nbd.protocol import BASE_ALLOCATION


class ExportSource(Protocol):
    """A disk to serve, read-only. Thread-safe: every client has a thread.

    Raise OSError or VmconsoleError where something cannot be read; the client is told EIO.
    """

    @property
    def size(self) -> int: ...

    @property
    def contexts(self) -> Sequence[str]:
        """Maps it offers: `base:allocation`, `qemu:dirty-bitmap:NAME`; may be empty."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly length bytes; the range lies within the disk, length <= 32 MiB."""
        ...

    def extents(self, context: str, offset: int, length: int) -> Iterable[tuple[int, int]]:
        """(length, flags) of neighbouring ranges from offset on; they cover at least length bytes.

        Asked for one of contexts only; may be left before the end.
        """
        ...


class MappedSource:
    """A source from a read function and maps of the whole disk: (offset, length, flags) in order.

    Without a `base:allocation` map the disk is called data throughout.
    """

    def __init__(
        self,
        size: int,
        read_at: Callable[[int, int], bytes],
        maps: Mapping[str, Iterable[tuple[int, int, int]]] | None = None,
    ) -> None:
        self.size = size
        self._read_at = read_at
        self._maps = {name: _Map(runs, size) for name, runs in (maps or {}).items()}
        if BASE_ALLOCATION not in self._maps:
            self._maps[BASE_ALLOCATION] = _Map([(0, size, 0)] if size else [], size)

    @property
    def contexts(self) -> Sequence[str]:
        return tuple(self._maps)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._read_at(offset, length)

    def extents(self, context: str, offset: int, length: int) -> Iterable[tuple[int, int]]:
        return self._maps[context].between(offset, offset + length)


class _Map:
    def __init__(self, runs: Iterable[tuple[int, int, int]], size: int) -> None:
        self._starts: list[int] = []
        self._flags: list[int] = []
        position = 0
        for offset, length, flags in runs:
            if offset != position or length <= 0:
                raise ValueError(f"the map has a gap, an overlap or an empty range at {offset}")
            self._starts.append(offset)
            self._flags.append(flags)
            position += length
        if position != size:
            raise ValueError(f"the map ends at {position}, the disk at {size}")
        self._starts.append(size)

    def between(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        at = bisect_right(self._starts, start) - 1
        while start < end:
            stop = min(end, self._starts[at + 1])
            yield stop - start, self._flags[at]
            start, at = stop, at + 1
