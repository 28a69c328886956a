"""The backup of one guest, step by step (ARCHITECTURE.md, How a run works)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from vmconsole.errors import BackupFailed, Cancelled, NotTogether, VmconsoleError
from vmconsole.events import GuestPlanned, PointMade, Warned, step
from vmconsole.interfaces import (
    ArchiveWriter,
    Context,
    DiskExport,
    Export,
    ExportOptions,
    ExportPlan,
    RepositoryWriter,
    Together,
)
from vmconsole.model.guest import Guest, GuestState
from vmconsole.model.point import DiskPoint, Mode, RestorePoint, archive_name
from vmconsole.runs.feed import read_feed, skipped
from vmconsole.runs.progress import Thinned
from vmconsole.runs.transfer import copy_disk
from vmconsole.runs.work import Target

_VZDUMP = "vzdump"
"""The method of ExportPlan that works through the host's own backup program."""


def guest_points(uuid: str, points: Sequence[RestorePoint]) -> list[RestorePoint]:
    """The guest's points, in the order given (newest first)."""
    return [point for point in points if point.uuid == uuid]


def with_full_rule(
    options: ExportOptions, points: Sequence[RestorePoint], full_every: int, chunk_size: int
) -> ExportOptions:
    """Ask for a full read where an increment is not wanted: the deliberate one, or another chunk size.

    full_every 0 means never for the former.
    """
    if options.full_reason or not points:
        return options
    if points[0].chunk_size != chunk_size:
        return replace(options, full_reason="the repository's chunk size was changed")
    if full_every > 0 and points[0].fulls_ago + 1 >= full_every:
        return replace(options, full_reason=f"every {full_every} runs everything is read again")
    return options


def back_up(target: Target, repository_id: str, writer: RepositoryWriter, context: Context) -> RestorePoint:
    """Make one restore point. On any error nothing is left on the host or in the repository.

    Raises BackupFailed, HostError, RepositoryError, Cancelled.
    """
    guest, hypervisor, repository = target.guest, target.hypervisor, target.repository
    began = context.clock.monotonic()
    all_points = writer.points()
    points = guest_points(guest.uuid, all_points)
    with step(context.events, context.run, guest.name, "plan"):
        asked = with_full_rule(target.options, points, target.full_every, repository.chunk_size)
        plan = hypervisor.plan(guest.uuid, repository_id, points, asked)
    if context.together is not None:
        _join(plan, context.together)
    announce(plan, context)
    export = hypervisor.export(plan, context)
    archive: ArchiveWriter | None = None
    try:
        for warning in export.cut.warnings:
            context.events(Warned(context.run, guest.name, warning))
        together = context.together.result() if context.together is not None else {}
        name = _free_name(plan, export, {point.archive for point in all_points})
        archive = writer.archive(name)
        with step(context.events, context.run, guest.name, "read"):
            if export.feed is not None:
                disks = read_feed(plan, export, export.feed, archive, context)
            else:
                disks = _read_disks(plan, export, archive, points, context)
        with step(context.events, context.run, guest.name, "release"):
            export.release()
        context.cancel.check()
        point = _point(
            plan, export, name, disks, hypervisor.kind.value, repository.chunk_size, points, context.run
        )
        point = replace(
            point,
            seconds=context.clock.monotonic() - began,
            group=target.group,
            schedule=target.schedule,
            together=together,
        )
        with step(context.events, context.run, guest.name, "commit"):
            archive_id = archive.commit(point, export.files)
    except BaseException as error:
        # Also for KeyboardInterrupt and SystemExit: the guest comes first.
        better = _host_side_reason(export, error)
        if archive is not None:
            archive.abort()
        export.rollback()
        if better is not None:
            raise better from error
        raise
    point = replace(point, archive_id=archive_id)
    _advance(export, guest, context)
    context.events(
        PointMade(
            context.run,
            guest.name,
            point.archive,
            point.mode.value,
            point.consistency.value,
            context.clock.monotonic() - began,
            point.total("bytes_read"),
            point.total("bytes_stored"),
        )
    )
    return point


def _join(plan: ExportPlan, together: Together) -> None:
    """Raises NotTogether for a guest that nobody else can cut at a moment of their choice."""
    guest = plan.guest
    if plan.method == _VZDUMP:
        raise NotTogether(
            f"{guest.name} is read by vzdump, which freezes and cuts it by itself.",
            hint='Leave it out of the group, or give the group when_not_together = "apart".',
            subject=guest.name,
        )
    if guest.state is GuestState.OFF or guest.template:
        together.off()


def announce(plan: ExportPlan, context: Context) -> None:
    """Say the forecast, and what the user should know before it is carried out."""
    context.events(
        GuestPlanned(
            context.run,
            plan.guest.name,
            plan.guest.host,
            plan.mode.value,
            plan.reason,
            plan.method,
            plan.method_reason,
            plan.bytes_expected,
        )
    )
    for warning in plan.warnings:
        context.events(Warned(context.run, plan.guest.name, warning))


def _read_disks(
    plan: ExportPlan,
    export: Export,
    archive: ArchiveWriter,
    points: Sequence[RestorePoint],
    context: Context,
) -> list[DiskPoint]:
    parents = {point.archive: point for point in points}
    exported = {disk.plan.id: disk for disk in export.disks}
    records = []
    for disk_plan in plan.disks:
        if disk_plan.mode is Mode.SKIPPED:
            records.append(skipped(disk_plan))
            continue
        disk = exported[disk_plan.id]
        records.append(_read_disk(disk, plan.guest.name, parents, export, archive, context))
    return records


def _read_disk(
    disk: DiskExport,
    guest: str,
    parents: dict[str, RestorePoint],
    export: Export,
    archive: ArchiveWriter,
    context: Context,
) -> DiskPoint:
    plan = disk.plan
    path = f"disks/{plan.id}.raw"
    parent = parents[plan.parent] if plan.mode is Mode.INCREMENTAL else None
    parent_disk = _disk_of(parent, plan.id) if parent is not None else None
    writer = archive.disk(
        path, plan.size, (parent.archive, parent_disk.path) if parent and parent_disk else None
    )
    report = Thinned(guest, export, context).of(plan.id)
    bytes_read, sha256 = copy_disk(disk, writer, context.cancel, report, digest=plan.mode is Mode.FULL)
    writer.close()
    return DiskPoint(
        id=plan.id,
        path=path,
        size=plan.size,
        format=plan.format,
        mode=plan.mode,
        reason=plan.reason,
        source=plan.source,
        parent=parent.archive_id if parent else "",
        bitmap=disk.bitmap,
        process=disk.process,
        bytes_dirty=disk.bytes_dirty,
        bytes_read=bytes_read,
        bytes_stored=writer.bytes_stored,
        sha256=sha256,
    )


def _point(
    plan: ExportPlan,
    export: Export,
    name: str,
    disks: Sequence[DiskPoint],
    hypervisor_kind: str,
    chunk_size: int,
    points: Sequence[RestorePoint],
    run: str,
) -> RestorePoint:
    cut = export.cut
    incremental = any(disk.mode is Mode.INCREMENTAL for disk in disks)
    return RestorePoint(
        archive=name,
        guest=plan.guest.name,
        uuid=plan.guest.uuid,
        host=plan.guest.host,
        hypervisor=hypervisor_kind,
        time=cut.time,
        consistency=cut.consistency,
        disks=tuple(disks),
        run=run,
        reason=plan.reason,
        freeze_ms=cut.freeze_ms,
        chunk_size=chunk_size,
        fulls_ago=points[0].fulls_ago + 1 if incremental and points else 0,
        warnings=(*plan.warnings, *cut.warnings),
        facts=dict(cut.facts),
    )


def _free_name(plan: ExportPlan, export: Export, taken: set[str]) -> str:
    moment = export.cut.time
    while (name := archive_name(plan.guest.name, plan.guest.uuid, moment)) in taken:
        moment += timedelta(seconds=1)
    return name


def _disk_of(point: RestorePoint, disk_id: str) -> DiskPoint:
    for disk in point.stored_disks:
        if disk.id == disk_id:
            return disk
    raise BackupFailed(f"The parent {point.archive} has no disk {disk_id}.", subject=point.guest)


def _host_side_reason(export: Export, error: BaseException) -> VmconsoleError | None:
    """A broken stream is a symptom: ask the host whether the guest stopped or the scratch space ran out."""
    if isinstance(error, Cancelled) or not isinstance(error, VmconsoleError):
        return None
    if isinstance(error, BackupFailed):
        return None
    try:
        export.check()
    except BackupFailed as reason:
        return reason
    except VmconsoleError:
        return None
    return None


def _advance(export: Export, guest: Guest, context: Context) -> None:
    try:
        with step(context.events, context.run, guest.name, "advance"):
            export.advance()
    except VmconsoleError as error:
        # The restore point is safe and the new bitmap records; only tidying up failed.
        with suppress(VmconsoleError):
            context.events(
                Warned(
                    context.run,
                    guest.name,
                    f"The restore point is safe, but the old bitmap could not be removed: {error.message}",
                    "It is removed at the next backup, or now with: vmconsole doctor --clean",
                )
            )
