"""Restores: disks to sparse files, and whole guests to a host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vmconsole.errors import PointNotFound, RestoreFailed, UsageError
from vmconsole.events import DiskProgress, Restored, Warned, step
from vmconsole.interfaces import (
    Cancel,
    Clock,
    Context,
    DiskReader,
    GuestRestore,
    Hypervisor,
    RepositoryReader,
)
from vmconsole.model.extent import Content
from vmconsole.model.point import TAR, DiskPoint, RestorePoint

_PIECE = 4 * 1024 * 1024
_PROGRESS_SECONDS = 0.5


class Sink(Protocol):
    """Where a disk's bytes go; zeros are not written, the target is all zeros already."""

    def write(self, offset: int, data: bytes | memoryview, /) -> None: ...


class FileTarget(Sink, Protocol):
    """A new local file. close() makes it durable; abort() leaves nothing."""

    def close(self) -> None: ...

    def abort(self) -> None: ...


def choose_disks(point: RestorePoint, wanted: Sequence[str]) -> list[DiskPoint]:
    """The stored disks with those ids, or all. Raises PointNotFound."""
    stored = {disk.id: disk for disk in point.stored_disks}
    for name in wanted:
        if name not in stored:
            raise PointNotFound(
                f"{point.archive} has no disk {name!r}; it has {', '.join(stored) or 'none'}.",
                subject=point.archive,
            )
    return [stored[name] for name in wanted] if wanted else list(stored.values())


def file_name(disk: DiskPoint) -> str:
    """`vda.raw`; `rootfs.tar` for a container."""
    return f"{disk.id}.tar" if disk.format == TAR else f"{disk.id}.raw"


def file_destinations(
    point: RestorePoint, disks: Sequence[DiskPoint], to: Path
) -> list[tuple[DiskPoint, Path]]:
    """Where each disk will go: to itself for one disk, or file_name() inside the folder to.

    Raises UsageError when several disks cannot go into one file, RestoreFailed when a file is there.
    """
    if to.is_dir():
        places = [(disk, to / file_name(disk)) for disk in disks]
    elif len(disks) == 1:
        places = [(disks[0], to)]
    else:
        raise UsageError(
            f"{point.archive} has {len(disks)} disks and {to} is not a folder.",
            hint=f"Make the folder (mkdir {to}), or name one disk with --disk.",
            subject=str(to),
        )
    for _, place in places:
        if place.exists() or place.is_symlink():
            raise RestoreFailed(
                f"{place} exists; a restore never overwrites.", hint="Name another place.", subject=str(place)
            )
    return places


def restore_files(
    point: RestorePoint,
    places: Sequence[tuple[DiskPoint, Path]],
    reader: RepositoryReader,
    create: Callable[[Path, int], FileTarget],
    context: Context,
) -> None:
    """Write disks to sparse raw files, a container to its tar. A failed or stopped restore leaves no file behind."""
    for disk, place in places:
        began = context.clock.monotonic()
        with step(context.events, context.run, point.guest, f"restore {disk.id}"):
            source = reader.open_disk(point.archive, disk.path)
            target = create(place, disk.size)
            try:
                written = copy_out(point.guest, disk, source, target, context)
                target.close()
            except BaseException:
                target.abort()
                raise
        context.events(
            Restored(context.run, point.archive, str(place), written, context.clock.monotonic() - began)
        )


def restore_guest(
    point: RestorePoint,
    hypervisor: Hypervisor,
    request: GuestRestore,
    reader: RepositoryReader,
    context: Context,
    confirm: Callable[[Sequence[str]], None],
) -> None:
    """Make a new guest from a point. confirm sees what could not be carried over, before data moves."""
    began = context.clock.monotonic()
    files = reader.files(point.archive)
    with step(context.events, context.run, point.guest, "prepare"):
        target = hypervisor.create(point, files, request, context)
    written = 0
    try:
        for note in target.notes:
            context.events(Warned(context.run, request.name, note))
        confirm(target.notes)
        for disk in point.stored_disks:
            with step(context.events, context.run, point.guest, f"restore {disk.id}"):
                source = reader.open_disk(point.archive, disk.path)
                sink = target.open_disk(disk)
                written += copy_out(point.guest, disk, source, sink, context)
                sink.close()
        context.cancel.check()
        with step(context.events, context.run, point.guest, "define"):
            target.finish()
    except BaseException:
        target.rollback()
        raise
    context.events(
        Restored(
            context.run,
            point.archive,
            f"{hypervisor.name}/{request.name}",
            written,
            context.clock.monotonic() - began,
        )
    )


def preview_guest(
    point: RestorePoint,
    hypervisor: Hypervisor,
    request: GuestRestore,
    reader: RepositoryReader,
    cancel: Cancel,
    clock: Clock,
) -> Sequence[str]:
    """What restore_guest() would say before data moves, or raise; changes nothing."""
    context = Context("", lambda _: None, cancel, _NothingAcquired(), clock)
    return hypervisor.preview(point, reader.files(point.archive), request, context)


class _NothingAcquired:
    """The journal of those who only look."""

    def acquire(self, host: str, kind: str, payload: Mapping[str, str]) -> int:
        raise AssertionError(f"a preview would acquire {kind} on {host}: {payload}")

    def release(self, entry: int) -> None:
        pass


def copy_out(guest: str, disk: DiskPoint, source: DiskReader, sink: Sink, context: Context) -> int:
    """Copy what is not zero. Returns the bytes copied."""
    if source.size != disk.size:
        raise RestoreFailed(
            f"Disk {disk.id} is {source.size} bytes in the archive, its record says {disk.size}.",
            hint="Check the repository with: vmconsole repo check --verify-data",
            subject=guest,
        )
    extents = [extent for extent in source.extents() if extent.content is Content.DATA]
    total = sum(extent.length for extent in extents)
    done = 0
    said = context.clock.monotonic()
    context.events(DiskProgress(context.run, guest, disk.id, 0, total))
    for extent in extents:
        position = extent.offset
        while position < extent.end:
            context.cancel.check()
            data = source.read_at(position, min(_PIECE, extent.end - position))
            if not data:
                raise RestoreFailed(f"Disk {disk.id} ends at {position}, before its size.", subject=guest)
            sink.write(position, data)
            position += len(data)
            done += len(data)
            now = context.clock.monotonic()
            if now - said >= _PROGRESS_SECONDS:
                said = now
                context.events(DiskProgress(context.run, guest, disk.id, done, total))
    context.events(DiskProgress(context.run, guest, disk.id, done, total))
    return done
