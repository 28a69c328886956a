"""What ext3's and ext4's journal holds and the file system does not yet.

A backup of a guest that was not frozen finds them so: without this, folders would be shown as they were minutes ago,
or half changed. The layout: https://docs.kernel.org/filesystems/ext4/journal.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vmconsole.guestfs.device import Stream

_MAGIC = 0xC03B3998
_HEADER = struct.Struct(">III")
_SUPER = struct.Struct(">IIIIIII")
_FEATURES = struct.Struct(">III")
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_64BIT, _CSUM_V2, _CSUM_V3 = 0x2, 0x8, 0x10
_ESCAPED, _SAME_UUID, _LAST = 1, 2, 8
_MOST = 64 * 1024 * 1024
"""Bytes of changed blocks that are kept: journals hold no more than a few times this, and rarely."""


@dataclass(slots=True)
class _Transaction:
    """places: block of the file system to block of the journal, and whether its beginning was escaped."""

    places: dict[int, tuple[int, bool]] = field(default_factory=dict)
    revoked: list[int] = field(default_factory=list)


def replayed(journal: Stream) -> dict[int, bytes]:
    """The blocks that whole transactions changed, by their numbers. Raises ValueError for what is no journal."""
    superblock = journal.read_at(0, 1024)
    magic, _, _, size, count, first, sequence = _SUPER.unpack_from(superblock)
    (start,) = struct.unpack_from(">I", superblock, 28)
    _, features, _ = _FEATURES.unpack_from(superblock, 36)
    if magic != _MAGIC or not 1024 <= size <= 65536 or not 0 < first < count:
        raise ValueError("not a journal")
    if start == 0:
        return {}
    log = _Log(journal, size, count, first, features)
    done = list(log.transactions(start, sequence))
    # A block that a later transaction gave up must not come back from an earlier one.
    revoked: dict[int, int] = {}
    for number, transaction in enumerate(done):
        for block in transaction.revoked:
            revoked[block] = number
    found: dict[int, bytes] = {}
    for number, transaction in enumerate(done):
        for block, (place, escaped) in transaction.places.items():
            if revoked.get(block, -1) >= number:
                continue
            content = log.block(place)
            found[block] = struct.pack(">I", _MAGIC) + content[4:] if escaped else content
            if len(found) * size > _MOST:
                raise ValueError("a journal of more than is kept in memory")
    return found


class _Log:
    """size: bytes of a block. count: blocks, of which those from first on are a ring."""

    def __init__(self, journal: Stream, size: int, count: int, first: int, features: int) -> None:
        self._journal, self._size, self._count, self._first = journal, size, count, first
        self._features = features

    def block(self, number: int) -> bytes:
        return self._journal.read_at(number * self._size, self._size)

    def transactions(self, start: int, sequence: int) -> Iterator[_Transaction]:
        """The ones that have their commit, until the first that has not."""
        at, current, seen = start, _Transaction(), 0
        while seen < self._count:
            content = self.block(at)
            if len(content) < self._size:
                return
            magic, kind, number = _HEADER.unpack_from(content)
            if magic != _MAGIC or number != sequence:
                return
            at, seen = self._next(at), seen + 1
            if kind == _DESCRIPTOR:
                for block, escaped in self._tags(content):
                    current.places[block] = (at, escaped)
                    at, seen = self._next(at), seen + 1
            elif kind == _REVOKE:
                current.revoked += self._revoked(content)
            elif kind == _COMMIT:
                yield current
                current, sequence = _Transaction(), sequence + 1
            else:
                return

    def _next(self, at: int) -> int:
        return self._first if at + 1 >= self._count else at + 1

    def _tags(self, content: bytes) -> Iterator[tuple[int, bool]]:
        wide = bool(self._features & _64BIT)
        newest = bool(self._features & _CSUM_V3)
        length = 16 if newest else 12 if wide else 8
        end = self._size - (4 if self._features & (_CSUM_V2 | _CSUM_V3) else 0)
        at = _HEADER.size
        while at + length <= end:
            if newest:
                low, flags, high = struct.unpack_from(">III", content, at)
            else:
                low, _, flags = struct.unpack_from(">IHH", content, at)
                high = struct.unpack_from(">I", content, at + 8)[0] if wide else 0
            yield (high << 32 if wide else 0) | low, bool(flags & _ESCAPED)
            if flags & _LAST:
                return
            at += length + (0 if flags & _SAME_UUID else 16)

    def _revoked(self, content: bytes) -> list[int]:
        (used,) = struct.unpack_from(">I", content, 12)
        form = ">Q" if self._features & _64BIT else ">I"
        step = struct.calcsize(form)
        return [
            struct.unpack_from(form, content, at)[0]
            for at in range(16, min(used, self._size) - step + 1, step)
        ]
