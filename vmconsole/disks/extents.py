"""What a backup has to do with each range of a disk, worked out from a host's maps of it.

A map is what NBD block status returns: (offset, length, flags) of neighbouring ranges. Everything
here is one pass over the maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from vmconsole.errors import ProtocolError
from vmconsole.model.extent import Content, Extent

Run = tuple[int, int, int]

_ZERO: Final = 2
"""Of `base:allocation`. A hole (1) without it reads as anything: only this bit promises zeros."""
_DIRTY: Final = 1
"""Of `qemu:dirty-bitmap:…`."""


def full_extents(allocation: Iterable[Run] | None, size: int) -> list[Extent]:
    """For a full read: DATA and ZERO. Without a map everything is DATA.

    Raises ProtocolError unless the map covers the disk exactly.
    """
    cuts = _walk(allocation, size, 0, "allocation")
    return _merged(
        (offset, end, Content.ZERO if flags & _ZERO else Content.DATA) for offset, end, flags in cuts
    )


def incremental_extents(
    allocation: Iterable[Run] | None, dirty: Iterable[Run], size: int, old_size: int
) -> list[Extent]:
    """For an increment on a parent of old_size bytes: DATA, ZERO and CLEAN.

    Dirty ranges that read as zeros now are ZERO, which must be stored as such. What the disk has
    grown by is dirty whatever the bitmap says. Raises ProtocolError unless both maps cover the
    disk exactly.
    """
    return _merged(_classified(allocation, dirty, size, old_size))


def _classified(
    allocation: Iterable[Run] | None, dirty: Iterable[Run], size: int, old_size: int
) -> Iterator[tuple[int, int, Content]]:
    bitmap = _walk(dirty, size, _DIRTY, "dirty bitmap")
    content = _walk(allocation, size, 0, "allocation")
    position, dirty_end, zero_end = 0, 0, 0
    is_dirty, is_zero = True, False
    while position < size:
        while dirty_end <= position:
            _, dirty_end, flags = next(bitmap)
            is_dirty = bool(flags & _DIRTY)
        while zero_end <= position:
            _, zero_end, flags = next(content)
            is_zero = bool(flags & _ZERO)
        end = min(dirty_end, zero_end)
        grown = position >= old_size
        if not grown:
            end = min(end, old_size)
        if not (is_dirty or grown):
            yield position, end, Content.CLEAN
        else:
            yield position, end, Content.ZERO if is_zero else Content.DATA
        position = end
    for rest in (bitmap, content):
        for _ in rest:
            pass


def _walk(runs: Iterable[Run] | None, size: int, default: int, what: str) -> Iterator[Run]:
    """(offset, end, flags) of a map, checked as it is read."""
    if runs is None:
        if size:
            yield 0, size, default
        return
    position = 0
    for offset, length, flags in runs:
        if offset != position or length <= 0 or offset + length > size:
            raise ProtocolError(
                f"The host's {what} map is wrong: a range of {length} bytes at {offset}"
                f" where {position} was next, on a disk of {size} bytes."
            )
        position += length
        yield offset, position, flags
    if position != size:
        raise ProtocolError(f"The host's {what} map ends at {position}, the disk at {size} bytes.")


def _merged(pieces: Iterable[tuple[int, int, Content]]) -> list[Extent]:
    """Neighbours of the same content become one."""
    extents: list[Extent] = []
    start, last_end, last = 0, 0, Content.DATA
    for offset, end, content in pieces:
        if content is not last or offset != last_end:
            if last_end > start:
                extents.append(Extent(start, last_end - start, last))
            start, last = offset, content
        last_end = end
    if last_end > start:
        extents.append(Extent(start, last_end - start, last))
    return extents


def require_cover(extents: Iterable[Extent], size: int) -> None:
    """Raise ProtocolError unless the extents cover [0, size) in order, without gap or overlap."""
    position = 0
    for extent in extents:
        if extent.offset != position or extent.length <= 0:
            raise ProtocolError(
                f"The map of the disk has a gap or an overlap: {extent.length} bytes at {extent.offset}"
                f" where {position} was next."
            )
        position = extent.end
    if position != size:
        raise ProtocolError(f"The map of the disk ends at {position}, the disk at {size} bytes.")


def bytes_of(extents: Iterable[Extent], *contents: Content) -> int:
    """Bytes in extents of these contents."""
    return sum(extent.length for extent in extents if extent.content in contents)


def dirty_bytes(extents: Iterable[Extent]) -> int:
    """Bytes that are not CLEAN."""
    return bytes_of(extents, Content.DATA, Content.ZERO)


def ranges(extents: Iterable[Extent], *contents: Content) -> Iterator[tuple[int, int]]:
    """(offset, length) of the extents of these contents."""
    return ((extent.offset, extent.length) for extent in extents if extent.content in contents)


def split(extents: Iterable[Extent], chunk: int) -> Iterator[Extent]:
    """Cut at multiples of chunk bytes, so that no piece reaches into a second chunk."""
    for extent in extents:
        offset = extent.offset
        while offset < extent.end:
            end = min(extent.end, offset - offset % chunk + chunk)
            yield Extent(offset, end - offset, extent.content)
            offset = end
