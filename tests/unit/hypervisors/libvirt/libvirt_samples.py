"""Facts about a guest and a restore point of it that fit together, for tests to spoil one at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from vmconsole.hypervisors.libvirt.facts import (
    CheckpointFacts,
    DiskFacts,
    GuestFacts,
    ImageBitmap,
    point_facts,
)
from vmconsole.hypervisors.libvirt.gather import Gathered
from vmconsole.model.guest import GuestState, Tracking
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint

RECORDED = Path(__file__).parent / "recorded"
REPOSITORY = "deadbeef" * 8
MIB = 1024**2
GIB = 1024**3

VDA = DiskFacts(
    "vda",
    "file",
    "/i/vda.qcow2",
    "qcow2",
    10 * GIB,
    allocated=4 * GIB,
    compat="1.1",
    tracking=Tracking.BITMAP,
)
VDB = replace(VDA, id="vdb", source="/i/vdb.qcow2")
RAW = DiskFacts("vdc", "file", "/i/vdc.raw", "raw", GIB, GIB, reason="raw disks cannot record changes")
CDROM = DiskFacts("sda", "file", "", "raw", 0, included=False, reason="CD-ROM")

CHECKPOINT = CheckpointFacts(
    "vmconsole-deadbeef-run1", 1000, ("vda", "vdb"), {"vda": 5 * MIB, "vdb": 0}, "<domaincheckpoint/>"
)
GUEST = GuestFacts(
    uuid="c65fe78e-c6ce-4704-9bb3-2fd993e4a2d7",
    name="labA1",
    state=GuestState.RUNNING,
    xml=(RECORDED / "domain.xml").read_text(),
    inactive_xml="",
    domain_id=3,
    run_folder="/var/lib/libvirt/qemu/domain-3-labA1",
    process="10:20",
    qemu=(7, 2, 22),
    agent=True,
    checkpoints=(CHECKPOINT,),
    disks=(VDA, VDB, RAW, CDROM),
)
OFF = replace(
    GUEST,
    state=GuestState.OFF,
    domain_id=-1,
    checkpoints=(replace(CHECKPOINT, dirty={}),),
    disks=tuple(
        replace(disk, bitmaps=(ImageBitmap(CHECKPOINT.name),)) if disk.tracking is Tracking.BITMAP else disk
        for disk in GUEST.disks
    ),
)


def gathered(guest: GuestFacts = GUEST, free: int = 100 * GIB) -> Gathered:
    return Gathered(guest, "/i", free)


def disk_point(disk: DiskFacts, bitmap: str = CHECKPOINT.name) -> DiskPoint:
    return DiskPoint(
        disk.id, f"disks/{disk.id}.raw", disk.size, disk.format, Mode.FULL,
        source=disk.source, bitmap=bitmap if disk.tracking is Tracking.BITMAP else "", bytes_dirty=MIB,
    )  # fmt: skip


POINT = RestorePoint(
    archive="labA1.c65fe78e-20260101T000000Z",
    guest="labA1",
    uuid=GUEST.uuid,
    host="kvm1",
    hypervisor="libvirt",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    consistency=Consistency.APPLICATION,
    disks=(disk_point(VDA), disk_point(VDB), disk_point(RAW)),
    facts=point_facts("pull", GUEST, (CHECKPOINT,)),
)


def with_disk(guest: GuestFacts, disk: DiskFacts) -> GuestFacts:
    return replace(guest, disks=tuple(disk if item.id == disk.id else item for item in guest.disks))


def with_checkpoint(guest: GuestFacts, **changes: object) -> GuestFacts:
    return replace(guest, checkpoints=(replace(guest.checkpoints[0], **changes),))  # type: ignore[arg-type]  # spoiled on purpose
