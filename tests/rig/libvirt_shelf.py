"""A stand-in for a repository: raw images that exports are written into, and the points they make."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from lab.control import GuestSilent
from lab.guest import Guest
from libvirt_bench import Bench

from vmconsole.errors import VmconsoleError
from vmconsole.hypervisors.libvirt.host import LibvirtHost
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.interfaces import Context, DiskExport, Export, ExportOptions, ExportPlan
from vmconsole.model.extent import Content
from vmconsole.model.point import DiskPoint, RestorePoint
from vmconsole.remote.machine import Machine

REPOSITORY = "0123456789abcdef" * 4
MIB = 1024 * 1024


@dataclass
class Shelf:
    """points: newest first; `image` is a disk as of the newest. machine: how the host is reached, if
    not from inside."""

    bench: Bench
    folder: Path
    settings: LibvirtSettings = field(default_factory=lambda: LibvirtSettings(scratch_min_free=MIB))
    points: list[RestorePoint] = field(default_factory=list)
    repository: str = REPOSITORY
    machine: Machine | None = None
    count: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def host(self) -> LibvirtHost:
        machine = self.machine or self.bench.machine
        return LibvirtHost(self.bench.host.name, machine, self.settings, self.bench.context.clock)

    def plan(self, uuid: str, **options: object) -> ExportPlan:
        wishes = ExportOptions(**options)  # type: ignore[arg-type]  # handed on as they are
        return self.host.plan(uuid, self.repository, self.points, wishes)

    def open(self, uuid: str, **options: object) -> tuple[ExportPlan, Export, Context]:
        """Plan and cut, with a run id of its own."""
        plan = self.plan(uuid, **options)
        self.count += 1
        self.bench.run = f"{os.urandom(4).hex()}-{self.count}"
        context = self.bench.context
        return plan, self.host.export(plan, context), context

    def backup(self, uuid: str, **options: object) -> RestorePoint:
        """A whole backup as a run makes it."""
        plan, export, context = self.open(uuid, **options)
        try:
            for disk in export.disks:
                self.store(disk)
            export.check()
            export.release()
            point = self.keep(plan, export, context)
            export.advance()
        except BaseException:
            export.rollback()
            raise
        return point

    def keep(self, plan: ExportPlan, export: Export, context: Context) -> RestorePoint:
        """Commit: the point comes back as its guest.json would."""
        point = RestorePoint(
            archive=f"{plan.guest.name}-{context.run}",
            guest=plan.guest.name,
            uuid=plan.guest.uuid,
            host=plan.guest.host,
            hypervisor="libvirt",
            time=export.cut.time,
            consistency=export.cut.consistency,
            disks=tuple(_disk_point(disk) for disk in export.disks),
            freeze_ms=export.cut.freeze_ms,
            warnings=export.cut.warnings,
            facts=export.cut.facts,
        )
        point = RestorePoint.from_json(json.loads(json.dumps(point.to_json())))
        self.points.insert(0, point)
        return point

    def image(self, disk: str) -> Path:
        return self.folder / f"{disk}.raw"

    def store(self, disk: DiskExport) -> int:
        """Write what changed into the disk's image. Returns bytes read from the host."""
        extents = disk.extents()
        path = self.image(disk.plan.id)
        if not disk.plan.parent:
            path.unlink(missing_ok=True)
        path.touch()
        count = 0
        with path.open("r+b") as file:
            file.truncate(disk.plan.size)
            for extent in extents:
                if extent.content is Content.ZERO:
                    for offset in range(extent.offset, extent.end, MIB):
                        file.seek(offset)
                        file.write(bytes(min(MIB, extent.end - offset)))
            data = [extent for extent in extents if extent.content is Content.DATA]
            for offset, buffer in disk.read(data):
                file.seek(offset)
                file.write(buffer)
                count += len(buffer)
        return count


def _disk_point(disk: DiskExport) -> DiskPoint:
    plan = disk.plan
    return DiskPoint(
        id=plan.id,
        path=f"disks/{plan.id}.raw",
        size=plan.size,
        format=plan.format,
        mode=plan.mode,
        reason=plan.reason,
        source=plan.source,
        parent=plan.parent,
        bitmap=disk.bitmap,
        process=disk.process,
        bytes_dirty=disk.bytes_dirty,
    )


def same(shelf: Shelf, guest: Guest, disk: str, tmp_path: Path) -> bool:
    """Whether the stored image is the disk as it is now. Nothing may write to it meanwhile."""
    return shelf.image(disk).read_bytes() == guest.raw_copy(disk, tmp_path / f"{disk}.now").read_bytes()


def problem(export: Export) -> VmconsoleError | None:
    """What check() says."""
    try:
        export.check()
    except VmconsoleError as error:
        return error
    return None


def started(guest: Guest) -> bool:
    try:
        return guest.sh("[ -e /var/run/ready ] && echo yes", check=False, timeout=0.5) == "yes\n"
    except GuestSilent:
        return False


def only_our_checkpoint(guest: Guest, shelf: Shelf) -> str:
    (name,) = guest.checkpoints()
    assert name.startswith("vmconsole-01234567-")
    assert shelf.points[0].disks[0].bitmap == name
    return name
