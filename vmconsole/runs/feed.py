"""The read step where all disks of a guest come in one stream (see Feed)."""

from __future__ import annotations

from vmconsole.errors import BackupFailed
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


def skipped(plan: DiskPlan) -> DiskPoint:
    """The record of a disk that is not in the archive."""
    return DiskPoint(plan.id, "", plan.size, plan.format, Mode.SKIPPED, plan.reason, plan.source)


def read_feed(
    plan: ExportPlan, export: Export, feed: Feed, archive: ArchiveWriter, context: Context
) -> list[DiskPoint]:
    """Every disk in full, at once. The sha256 of a disk is not known then: its bytes come out of order."""
    disks = {disk.plan.id: disk for disk in export.disks}
    opened = {key: _open(disk.plan, archive) for key, disk in disks.items()}
    progress = Thinned(plan.guest.name, export, context)
    totals = {key: _expected(disk.plan) for key, disk in disks.items()}

    def report(key: str, done: int) -> None:
        # How large a tar becomes is a guess.
        totals[key] = max(totals[key], done + 1)
        progress.report(key, done, totals[key])

    for key in disks:
        progress.report(key, 0, totals[key])
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
        sink.close()
        record = _record(disk, path, sink, fed[disk_plan.id])
        progress.report(record.id, record.size, record.size)
        records.append(record)
    return records


def _open(plan: DiskPlan, archive: ArchiveWriter) -> tuple[str, DiskWriter | IndexedStream]:
    """(member, where to write it)."""
    if plan.format == TAR:
        path = f"{FOLDER}/{plan.id}.tar"
        return path, IndexedStream(archive.stream(path), archive.stream(INDEX))
    path = f"disks/{plan.id}.raw"
    return path, archive.disk(path, plan.size)


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
