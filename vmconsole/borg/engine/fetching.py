"""Decrypted chunks of one open repository, remembered up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from vmconsole.borg.engine.access import BATCH, Access

REMEMBERED = 64 * 1024 * 1024
THREADS = 2


class ChunkCache:
    """Least recently used chunks first out. Thread-safe; a chunk is never fetched twice at a time."""

    def __init__(self, access: Access, limit: int = REMEMBERED) -> None:
        self._access = access
        self._limit = limit
        self._bytes = 0
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._coming: dict[bytes, Future[bytes]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="borg-read-ahead")
        self.fetched = 0
        """Chunks that came from the repository, for measurements."""

    def get(self, ids: Sequence[bytes]) -> list[bytes]:
        """The chunks, in order. Raises RepositoryDamaged, RepositoryError."""
        made, theirs, found = self._plan(ids)
        self._fetch(made)
        for id_, future in {**made, **theirs}.items():
            found[id_] = future.result()
        return [found[id_] for id_ in ids]

    def ahead(self, ids: Sequence[bytes]) -> None:
        """Begin to fetch what will probably be asked for next."""
        made, _, _ = self._plan(ids)
        if made:
            self._pool.submit(self._fetch, made)

    def _plan(
        self, ids: Sequence[bytes]
    ) -> tuple[dict[bytes, Future[bytes]], dict[bytes, Future[bytes]], dict[bytes, bytes]]:
        """(ours to fetch, being fetched by others, known)."""
        made: dict[bytes, Future[bytes]] = {}
        theirs: dict[bytes, Future[bytes]] = {}
        found: dict[bytes, bytes] = {}
        with self._lock:
            for id_ in ids:
                if id_ in self._known:
                    self._known.move_to_end(id_)
                    found[id_] = self._known[id_]
                elif id_ in self._coming:
                    if id_ not in made:
                        theirs[id_] = self._coming[id_]
                else:
                    made[id_] = self._coming[id_] = Future()
        return made, theirs, found

    def _fetch(self, wanted: dict[bytes, Future[bytes]]) -> None:
        ids = list(wanted)
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            try:
                chunks = self._access.fetch(batch)
            except BaseException as error:  # noqa: BLE001 - handed to everybody who waits for these chunks
                self._fail(wanted, ids[start:], error)
                return
            with self._lock:
                for id_, chunk in zip(batch, chunks, strict=True):
                    self._remember(id_, chunk)
                    del self._coming[id_]
            for id_, chunk in zip(batch, chunks, strict=True):
                wanted[id_].set_result(chunk)

    def _fail(self, wanted: dict[bytes, Future[bytes]], ids: list[bytes], error: BaseException) -> None:
        with self._lock:
            for id_ in ids:
                del self._coming[id_]
        for id_ in ids:
            wanted[id_].set_exception(error)

    def _remember(self, id_: bytes, chunk: bytes) -> None:
        self.fetched += 1
        self._known[id_] = chunk
        self._bytes += len(chunk)
        while self._bytes > self._limit and len(self._known) > 1:
            _, old = self._known.popitem(last=False)
            self._bytes -= len(old)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
