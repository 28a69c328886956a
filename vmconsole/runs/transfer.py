"""Moving one disk from an export into an archive: the read step."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence

from vmconsole.errors import ProtocolError
from vmconsole.interfaces import Cancel, DiskExport, DiskWriter
from vmconsole.model.extent import Content, Extent

# Hashing zeros costs about a second per two GiB; beyond this a digest costs the guest too long a cut.
MAX_HASHED_ZEROS = 16 * 1024**3
_ZEROS = bytes(1024 * 1024)


def copy_disk(
    export: DiskExport,
    writer: DiskWriter,
    cancel: Cancel,
    progress: Callable[[int, int], None],
    *,
    digest: bool,
) -> tuple[int, str]:
    """Bring one disk into the archive. Returns (bytes read from the host, sha256 hex or "").

    progress(done, total) is called for every piece; the caller thins it out.
    digest: compute the sha256 of the whole disk; only possible when nothing is CLEAN.
    """
    extents = export.extents()
    total = sum(extent.length for extent in extents if extent.content is Content.DATA)
    hasher = _OrderedHash(extents) if digest and _worth_hashing(extents) else None
    # The export may pull ranges from a reader thread of its own.
    gate = threading.Lock()
    done = 0
    progress(done, total)

    def ranges() -> Iterator[Extent]:
        # What needs no reading is passed on as it comes up, not all at once: the writer then holds
        # only the few partial chunks near the read position.
        for extent in extents:
            cancel.check()
            if extent.content is Content.DATA:
                yield extent
                continue
            with gate:
                if extent.content is Content.CLEAN:
                    writer.reuse(extent.offset, extent.length)
                else:
                    writer.zero(extent.offset, extent.length)

    for offset, buffer in export.read(ranges()):
        cancel.check()
        with gate:
            writer.data(offset, buffer)
        if hasher is not None:
            hasher.feed(offset, buffer)
        done += len(buffer)
        progress(done, total)
    if done != total:
        raise ProtocolError(f"Disk {export.plan.id}: {done} bytes arrived where {total} were asked for.")
    return done, hasher.finish() if hasher is not None else ""


def _worth_hashing(extents: Sequence[Extent]) -> bool:
    zeros = sum(extent.length for extent in extents if extent.content is Content.ZERO)
    clean = any(extent.content is Content.CLEAN for extent in extents)
    return not clean and zeros <= MAX_HASHED_ZEROS


class _OrderedHash:
    """sha256 over a disk whose data arrives slightly out of order."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._zeros = [extent for extent in extents if extent.content is Content.ZERO]
        self._zeros.reverse()
        self._early: dict[int, bytes | bytearray | memoryview] = {}
        self._position = 0
        self._sha = hashlib.sha256()

    def feed(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        self._early[offset] = buffer
        self._advance()

    def finish(self) -> str:
        self._advance()
        if self._early or self._zeros:
            raise ProtocolError("The host's answers left a gap in the disk.")
        return self._sha.hexdigest()

    def _advance(self) -> None:
        while True:
            if self._zeros and self._zeros[-1].offset == self._position:
                length = self._zeros.pop().length
                self._position += length
                while length:
                    piece = min(length, len(_ZEROS))
                    self._sha.update(memoryview(_ZEROS)[:piece])
                    length -= piece
            elif (buffer := self._early.pop(self._position, None)) is not None:
                self._sha.update(buffer)
                self._position += len(buffer)
            else:
                return
