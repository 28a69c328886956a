"""The read step where all disks of a guest come in one stream (see Feed)."""

from __future__ import annotations

from collections.abc import Sequence

from vmconsole.errors import BackupFailed, ProtocolError
from vmconsole.interfaces import (
    ArchiveWriter,
    Context,
    DiskExport,
    DiskPlan,
    DiskWriter,
    Export,
    ExportPlan,
    Fed,
    Feed,
)
from vmconsole.model.point import TAR, DiskPoint, Mode
from vmconsole.runs.progress import Thinned
from vmconsole.runs.tarindex import IndexedStream

FOLDER = "container"
INDEX = f"{FOLDER}/index.jsonl.zst"
ALL = "all disks"
"""In progress events, in place of a disk's id."""


def skipped(plan: DiskPlan) -> DiskPoint:
    """The record of a disk that is not in the archive."""
    return DiskPoint(plan.id, "", plan.size, plan.format, Mode.SKIPPED, plan.reason, plan.source)


def read_feed(
    plan: ExportPlan, export: Export, feed: Feed, archive: ArchiveWriter, context: Context
) -> list[DiskPoint]:
    """Every disk in full, at once. The sha256 of a disk is not known then: its bytes come out of order."""
    disks = {disk.plan.id: disk for disk in export.disks}
    opened = {key: _open(disk.plan, archive) for key, disk in disks.items()}
    report = _Whole(Thinned(plan.guest.name, export, context), export.disks)
    fed = feed.run({key: sink for key, (_, sink) in opened.items()}, report, context.cancel)
    records = []
    for disk_plan in plan.disks:
        if disk_plan.mode is Mode.SKIPPED:
            records.append(skipped(disk_plan))
            continue
        if disk_plan.id not in opened or disk_plan.id not in fed:
            raise BackupFailed(
                f"{plan.guest.name}: disk {disk_plan.id} did not come.", subject=plan.guest.name
            )
        disk, (path, sink) = disks[disk_plan.id], opened[disk_plan.id]
        _close(sink, plan.guest.name)
        records.append(_record(disk, path, sink, fed[disk_plan.id]))
    report.end()
    return records


class _Whole:
    """Progress of all disks as one: they come mixed."""

    def __init__(self, progress: Thinned, disks: Sequence[DiskExport]) -> None:
        self._report = progress.of(disks[0].plan.id if len(disks) == 1 else ALL)
        self._done = {disk.plan.id: 0 for disk in disks}
        self._sum = 0
        self._total = sum(_expected(disk.plan) for disk in disks)
        self._report(0, self._total)

    def __call__(self, disk: str, done: int) -> None:
        self._sum += done - self._done[disk]
        self._done[disk] = done
        # How large a tar becomes is a guess.
        self._total = max(self._total, self._sum + 1)
        self._report(self._sum, self._total)

    def end(self) -> None:
        self._report(self._sum, self._sum)


def _open(plan: DiskPlan, archive: ArchiveWriter) -> tuple[str, DiskWriter | IndexedStream]:
    """(member, where to write it)."""
    if plan.format == TAR:
        path = f"{FOLDER}/{plan.id}.tar"
        return path, IndexedStream(archive.stream(path), archive.stream(INDEX))
    path = f"disks/{plan.id}.raw"
    return path, archive.disk(path, plan.size)


def _close(sink: DiskWriter | IndexedStream, guest: str) -> None:
    try:
        sink.close()
    except ProtocolError as error:
        # The host calls it a success, so there is nobody else to ask.
        raise BackupFailed(
            f"{guest}: {error.message}", hint="Run the backup again.", subject=guest
        ) from error


def _expected(plan: DiskPlan) -> int:
    return max(1, plan.bytes_expected if plan.format == TAR else plan.size)


def _record(disk: DiskExport, path: str, sink: DiskWriter | IndexedStream, fed: Fed) -> DiskPoint:
    plan = disk.plan
    return DiskPoint(
        id=plan.id,
        path=path,
        size=sink.size if isinstance(sink, IndexedStream) else plan.size,
        format=plan.format,
        mode=plan.mode,
        reason=plan.reason,
        source=plan.source,
        bitmap=disk.bitmap,
        process=disk.process,
        bytes_dirty=fed.bytes_dirty,
        bytes_read=fed.bytes_read,
        bytes_stored=sink.bytes_stored,
        sha256=sink.sha256 if isinstance(sink, IndexedStream) else "",
    )
