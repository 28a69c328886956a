"""Writing an archive's member list and its record, as stock Borg would."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from typing import Any

from borg.archive import CacheChunkBuffer, Statistics
from borg.constants import CH_FIXED, ISO_FORMAT
from borg.helpers import msgpack
from borg.item import ArchiveItem
from borg.platform import hostname

MODE = 0o100600
ENTRIES_AT_ONCE = 4096

Entry = tuple[bytes, int, int]
"""Borg's chunk list entry: id, size, stored size."""


@dataclass(slots=True)
class Totals:
    """What the archive's record says about its members. Bytes."""

    size: int = 0
    csize: int = 0
    files: int = 0


class MemberList:
    """The item stream being written. Used under the session's lock, by one archive."""

    def __init__(self, cache: Any, key: Any) -> None:
        self._packer = msgpack.Packer()
        self._stats = Statistics()
        self._buffer = CacheChunkBuffer(cache, key, self._stats)
        self._cache = cache
        self._key = key
        self.totals = Totals()

    @property
    def stored(self) -> int:
        """Bytes that the list itself added to the repository."""
        return int(self._stats.usize)

    def add(self, path: str, size: int | None, mtime: datetime, count: int, entries: Iterable[Entry]) -> None:
        """One regular file of count chunks. size: None when it is not worth knowing beforehand.

        path comes first in the map (Borg reads any order), so that a reader may skip the chunks of
        a file it does not want.
        """
        pack = self._packer.pack
        attributes: list[tuple[str, Any]] = [
            ("mode", MODE),
            ("uid", 0),
            ("gid", 0),
            ("user", "root"),
            ("group", "root"),
            ("mtime", _nanoseconds(mtime)),
        ]
        if size is not None:
            attributes.append(("size", size))
        self._write(
            self._packer.pack_map_header(len(attributes) + 2)
            + pack("path")
            + pack(path.encode("utf-8", "surrogateescape"))
        )
        self._write(b"".join(pack(key) + pack(value) for key, value in attributes))
        self._write(pack("chunks") + self._packer.pack_array_header(count))
        for piece in self._packed(entries):
            self._write(piece)
        self.totals.files += 1

    def _packed(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        pack, totals = self._packer.pack, self.totals
        pieces: list[bytes] = []
        for entry in entries:
            pieces.append(pack(entry))
            totals.size += entry[1]
            totals.csize += entry[2]
            if len(pieces) == ENTRIES_AT_ONCE:
                yield b"".join(pieces)
                pieces.clear()
        yield b"".join(pieces)

    def _write(self, data: bytes) -> None:
        self._buffer.buffer.write(data)
        if self._buffer.is_full():
            self._buffer.flush()

    def finish(
        self, name: str, *, comment: str, start: datetime, end: datetime, chunk_size: int
    ) -> tuple[bytes, list[bytes]]:
        """Store the record. Returns the archive's id, and all chunks that hold list and record."""
        self._buffer.flush(flush=True)
        record = ArchiveItem(
            {
                "version": 1,
                "name": name,
                "comment": comment,
                "items": self._buffer.chunks,
                "cmdline": list(sys.argv),
                "hostname": hostname,
                "username": _user(),
                "time": borg_time(start),
                "time_end": borg_time(end),
                "cwd": "/",
                "chunker_params": (CH_FIXED, chunk_size, 0),
                "size": self.totals.size,
                "csize": self.totals.csize,
                "nfiles": self.totals.files,
                "size_parts": 0,
                "csize_parts": 0,
                "nfiles_parts": 0,
            }
        )
        data = self._key.pack_and_authenticate_metadata(record.as_dict(), context=b"archive")
        id_ = self._key.id_hash(data)
        self._cache.add_chunk(id_, data, self._stats)
        return id_, [*self._buffer.chunks, id_]


def _nanoseconds(moment: datetime) -> int:
    """As Borg keeps times; before 1970 there is none."""
    return max(0, int(moment.timestamp()) * 10**9 + moment.microsecond * 1000)


def borg_time(moment: datetime) -> str:
    """UTC without zone, as Borg keeps it."""
    return moment.astimezone(UTC).strftime(ISO_FORMAT)


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):
        return str(os.getuid())
