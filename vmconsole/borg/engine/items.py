"""The item stream of an archive: the list of its members, read without building it in memory.

Borg stores it as msgpack maps, cut into chunks. guest.json is the first map of ours; a disk's map
holds its whole chunk list, which is skipped unless it is wanted. What is in there was written by
whoever holds the key: it is parsed within limits, and never trusted to be complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from borg.helpers import msgpack
from borg.helpers.msgpack import OutOfData, UnpackException

from vmconsole.borg.engine.chunks import ID, ChunkList
from vmconsole.errors import RepositoryDamaged

Fetch = Callable[[Sequence[bytes]], list[bytes]]

READ_SIZE = 256 * 1024
MAX_BUFFERED = 128 * 1024 * 1024
MAX_KEYS = 64
METADATA_BATCH = 16
MAX_CHUNK_LENGTH = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. chunks is None when it was not wanted, or the member has none."""

    path: str
    chunks: ChunkList | None
    damaged: bool = False
    """`borg check --repair` replaced lost chunks by zeros."""


class _Stream:
    """The item chunks as one file, fetched a few at a time."""

    def __init__(self, fetch: Fetch, ids: Sequence[bytes]) -> None:
        self._fetch = fetch
        self._ids = ids
        self._next = 0
        self._ready = b""

    def read(self, size: int) -> bytes:
        if not self._ready:
            # The first answer is small: whoever only wants guest.json reads no more.
            batch = self._ids[self._next : self._next + (METADATA_BATCH if self._next else 1)]
            self._next += len(batch)
            self._ready = b"".join(self._fetch(batch)) if batch else b""
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken


def members(fetch: Fetch, ids: Sequence[bytes], wanted: Callable[[str], bool]) -> Iterator[Member]:
    """The members in stored order, with the chunk lists of those whose path is wanted.

    ids: the archive's item chunks. Raises RepositoryDamaged when the stream cannot be parsed.
    """
    unpacker = msgpack.Unpacker(
        file_like=_Stream(fetch, ids), read_size=READ_SIZE, max_buffer_size=MAX_BUFFERED, use_list=False
    )
    while True:
        try:
            keys = unpacker.read_map_header()
        except OutOfData:
            return
        except (ValueError, UnpackException) as error:
            raise _damaged(error) from error
        try:
            yield _member(unpacker, keys, wanted)
        except (OutOfData, UnpackException, ValueError, TypeError, OverflowError) as error:
            raise _damaged(error) from error


def _damaged(error: Exception) -> RepositoryDamaged:
    return RepositoryDamaged(
        f"An archive's list of files cannot be read: {type(error).__name__} {error}.",
        hint="Run `borg check` on the repository.",
    )


def _member(unpacker: Any, keys: int, wanted: Callable[[str], bool]) -> Member:
    if keys > MAX_KEYS:
        raise ValueError(f"{keys} attributes")
    path: str | None = None
    chunks: ChunkList | None = None
    damaged = False
    for _ in range(keys):
        key = unpacker.unpack()
        if key == b"path":
            path = _path(unpacker.unpack())
        elif key == b"chunks" and (path is None or wanted(path)):
            chunks = ChunkList.collect(_entries(unpacker, unpacker.read_array_header()))
        else:
            damaged = damaged or key == b"chunks_healthy"
            unpacker.skip()
    if path is None:
        raise ValueError("a member without a path")
    return Member(path, chunks if wanted(path) else None, damaged)


def _path(value: Any) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a path that is no text")
    return value.decode("utf-8", "surrogateescape")


def _entries(unpacker: Any, count: int) -> Iterator[tuple[bytes, int]]:
    unpack = unpacker.unpack
    for _ in range(count):
        id_, size, _csize = unpack()
        if len(id_) != ID or not 0 < size <= MAX_CHUNK_LENGTH:
            raise ValueError("an impossible chunk")
        yield id_, size


def find(fetch: Fetch, ids: Sequence[bytes], path: str) -> Member | None:
    """The member of that path; None when there is none."""
    return next((member for member in members(fetch, ids, path.__eq__) if member.path == path), None)
