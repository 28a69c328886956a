"""Moving one disk from an export into an archive: the read step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from vmconsole.errors import ProtocolError
from vmconsole.interfaces import Cancel, DiskExport, DiskWriter
from vmconsole.model.extent import Content, Extent
from vmconsole.runs.digest import DiskDigest, worth_hashing


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
    digest: compute the sha256 of the whole disk, when that is possible and worth it: see digest.py.
    """
    extents = export.extents()
    total = sum(extent.length for extent in extents if extent.content is Content.DATA)
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

    with ExitStack() as stack:
        hasher = stack.enter_context(DiskDigest(extents)) if digest and worth_hashing(extents) else None
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
