"""Borg's reference counts, kept true at every commit.

The rule: the counts in the cache are those of the committed archives, plus one for each chunk that
an unfinished archive holds. That is exactly what a checkpoint archive listing the held chunks
would count, so a commit made while others are unfinished only has to write such checkpoints, and
both `borg check` and Borg's own cache agree with it whenever the process dies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from borg.archive import Statistics
from borg.hashindex import ChunkIndex, ChunkIndexEntry

from vmconsole.borg.engine.access import Access
from vmconsole.borg.engine.chunks import ChunkList, runs
from vmconsole.borg.engine.holdings import Holdings
from vmconsole.borg.engine.itemwriter import Entry
from vmconsole.errors import RepositoryDamaged


class Ledger:
    """Chunks of one open repository. Every method is called under the session's lock."""

    def __init__(self, access: Access, cache: Any) -> None:
        self._access = access
        self.cache = cache
        self._discarded = Statistics()
        self.touched = False
        """Something was put or deleted since the last commit."""

    def begin(self) -> None:
        self.touched = True
        if not self.cache.txn_active:
            self.cache.begin_txn()

    def hold(self, holdings: Holdings, id_: bytes, size: int) -> bool:
        """Hold a chunk that the repository has; False when it has none of that id."""
        if id_ in holdings:
            return True
        if not self.cache.seen_chunk(id_, size):
            return False
        self.begin()
        self.cache.chunks.incref(id_)
        holdings.add(id_)
        return True

    def put(self, holdings: Holdings, id_: bytes, size: int, stored: bytes) -> None:
        """Store a new chunk and hold it."""
        self.begin()
        repository = self._access.repository
        repository.put(id_, stored, wait=False)
        self.cache.chunks.add(id_, 1, size, len(stored))
        holdings.add(id_)
        repository.async_response(wait=False)

    def release(self, holdings: Holdings) -> None:
        """Let go of everything held; what nobody else refers to is deleted."""
        if len(holdings):
            self.begin()
        for id_ in holdings:
            self.decref(id_)
        holdings.clear()

    def decref(self, id_: bytes) -> None:
        self.begin()
        self.cache.chunk_decref(id_, self._discarded, wait=False)
        self._access.repository.async_response(wait=False)

    def refer(self, chunks: ChunkList) -> Iterator[Entry]:
        """Count one reference for each chunk of a file; yields Borg's entries in order.

        Raises RepositoryDamaged when the repository does not have a chunk, or has another size.
        """
        self.begin()
        index = self.cache.chunks
        for id_, first, count in runs(chunks.ids):
            try:
                _, size, csize = index.incref(id_)
            except KeyError as error:
                raise self._lost(id_) from error
            if count > 1:
                self._incref_many(index, id_, count - 1)
            if chunks.length_at(first) != size or chunks.length_at(first + count - 1) != size:
                raise self._lost(id_)
            for _ in range(count):
                yield id_, size, csize

    def entries(self, holdings: Holdings) -> Iterator[Entry]:
        """Borg's entries of what is held, counting nothing."""
        for id_ in holdings:
            _, size, csize = self.cache.chunks[id_]
            yield id_, size, csize

    @staticmethod
    def _incref_many(index: Any, id_: bytes, count: int) -> None:
        """A disk may refer to the zero chunk a million times; counts are capped as Borg caps them."""
        refcount, size, csize = index[id_]
        index[id_] = ChunkIndexEntry(min(refcount + count, ChunkIndex.MAX_VALUE), size, csize)

    def _lost(self, id_: bytes) -> RepositoryDamaged:
        settings = self._access.settings
        return RepositoryDamaged(
            f"Repository {settings.name} misses chunk {id_.hex()}, which the parent refers to.",
            hint=f"Run `borg check {settings.target}`, and back the guest up in full.",
            subject=settings.name,
        )

    def drop(self, ids: Iterable[bytes]) -> None:
        for id_ in ids:
            self.decref(id_)
