"""RepositoryReader and DiskReader.

A reader holds Borg's shared lock: any number of readers, also in other processes, but a writer
waits until the last one is gone, and a reader waits while somebody writes. Whoever keeps a reader
open for hours (a served disk) keeps backups of that repository waiting as long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.access import Access, open_access, place_of
from vmconsole.borg.engine.chunks import ChunkList, changed, contents
from vmconsole.borg.engine.fetching import ChunkCache
from vmconsole.borg.engine.pins import pins, with_pins
from vmconsole.borg.engine.places import PLACES
from vmconsole.borg.engine.waiting import Patience, until_unlocked
from vmconsole.borg.settings import BorgSettings
from vmconsole.model.extent import Extent
from vmconsole.model.point import RestorePoint

_log = logging.getLogger("vmconsole.borg")

READ_AHEAD = 16 * 1024 * 1024
AT_ONCE = 32 * 1024 * 1024
"""Bytes of chunks asked for together, so that a long read stays within the memory of the cache."""


class EngineDiskReader:
    """Implements DiskReader. Thread-safe, at least as long as its reader is open."""

    def __init__(self, access: Access, cache: ChunkCache, chunks: ChunkList) -> None:
        self._access = access
        self._cache = cache
        self.chunks = chunks
        self._zero = access.codec.zero_id(chunks.length) if chunks.length else b""
        last = chunks.length_at(chunks.count - 1) if chunks.count else 0
        self._last_zero = access.codec.zero_id(last) if chunks.length and last else b""
        self._expected = 0
        """Where the next read of a sequential reader would begin."""

    @property
    def size(self) -> int:
        return self.chunks.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Zero chunks are made, not fetched. Raises RepositoryDamaged, RepositoryError."""
        if offset < 0 or length < 0:
            raise ValueError("offset and length must not be negative")
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        pieces = []
        position = offset
        while position < end:
            stop = min(end, position + AT_ONCE)
            pieces.append(self._read(position, stop))
            position = stop
        if offset == self._expected:
            self._read_ahead(end)
        self._expected = end
        return b"".join(pieces)

    def _read(self, offset: int, end: int) -> bytes:
        chunks = self.chunks
        indices = range(chunks.index_of(offset), chunks.index_of(end - 1) + 1)
        wanted = [index for index in indices if not self.is_zero(index)]
        found = dict(zip(wanted, self._cache.get([chunks.id_at(index) for index in wanted]), strict=True))
        pieces = []
        for index in indices:
            start = chunks.start_of(index)
            low, high = max(offset, start) - start, min(end, chunks.start_of(index + 1)) - start
            whole = found.get(index)
            if whole is None:
                pieces.append(bytes(high - low))
            else:
                pieces.append(whole if high - low == len(whole) else whole[low:high])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def is_zero(self, index: int) -> bool:
        """Whether a chunk is known to be zero without reading it."""
        id_ = self.chunks.id_at(index)
        return id_ == self._zero or (id_ == self._last_zero and index == self.chunks.count - 1)

    def _read_ahead(self, offset: int) -> None:
        if offset >= self.size:
            return
        indices = range(
            self.chunks.index_of(offset), self.chunks.index_of(min(offset + READ_AHEAD, self.size) - 1) + 1
        )
        self._cache.ahead([self.chunks.id_at(index) for index in indices if not self.is_zero(index)])

    def extents(self) -> Iterator[Extent]:
        return contents(self.chunks, self._zero, self._last_zero)

    def changed_since(self, old: EngineDiskReader) -> Iterator[Extent]:
        """What differs from an older disk of the same repository, in order; no data is read."""
        return changed(old.chunks, self.chunks, self._zero, self._last_zero)


@dataclass(frozen=True, slots=True)
class _Shared:
    access: Access
    cache: ChunkCache


class EngineReader:
    """Implements RepositoryReader. Thread-safe."""

    def __init__(self, access: Access, cache: ChunkCache) -> None:
        self._access = access
        self._cache = cache

    def points(self) -> list[RestorePoint]:
        return with_pins(self._access, catalog.points(self._access), _log.warning)

    def pins(self) -> dict[str, str]:
        return pins(self._access)

    def files(self, archive: str) -> dict[str, bytes]:
        return catalog.files(self._access, archive)

    def open_disk(self, archive: str, path: str) -> EngineDiskReader:
        """Raises PointNotFound, RepositoryDamaged."""
        return EngineDiskReader(self._access, self._cache, catalog.disk(self._access, archive, path))


@contextmanager
def reading(settings: BorgSettings) -> Iterator[EngineReader]:
    """Open for reading; waits for a writer to finish. Readers of one process share one open repository."""
    place = place_of(settings)

    def attempt(lock_wait: float) -> _Shared | None:
        def make() -> _Shared:
            access = open_access(settings, exclusive=False, lock_wait=lock_wait)
            return _Shared(access, ChunkCache(access))

        shared: _Shared | None = PLACES.share(place, make)
        return shared

    patience = Patience(time.monotonic, time.sleep, lambda _: None)
    shared = until_unlocked(settings, patience, attempt)
    try:
        yield EngineReader(shared.access, shared.cache)
    finally:
        PLACES.give_back(place, _close)


def _close(shared: _Shared) -> None:
    shared.cache.close()
    shared.access.close()
