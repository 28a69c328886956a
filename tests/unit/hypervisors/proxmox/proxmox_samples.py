"""A running guest, the restore point before, and what else plans are made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.facts import (
    BlockBitmap,
    FleecingPlace,
    PlanFacts,
    PveDisk,
    PveGuest,
    StorageFacts,
    point_facts,
)
from vmconsole.hypervisors.proxmox.gather import Gathered
from vmconsole.model.guest import GuestKind, GuestState
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint

MIB = 1 << 20
GIB = 1 << 30
REPOSITORY = "deadbeef00112233445566778899aabb"
UUID = "8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01"
PROCESS = "boot-1:4711:99"
TARGET = names.target(REPOSITORY)
MARK = names.bitmap(REPOSITORY, "run1")

CONF = """\
agent: 1
name: web
scsi0: local-lvm:vm-100-disk-0,size=10G
scsi1: local-lvm:vm-100-disk-1,size=4G
ide2: local:iso/x.iso,media=cdrom,size=600M
tpmstate0: local-lvm:vm-100-disk-2,size=4M,version=v2.0
scsihw: virtio-scsi-pci
"""


def disk(key: str, number: int, size: int, *bitmaps: BlockBitmap, **more: object) -> PveDisk:
    found = PveDisk(
        key=key,
        volume=f"local-lvm:vm-100-disk-{number}",
        size=size,
        format="raw",
        allocated=size,
        device=f"drive-{key}",
        node=f"f{key}",
        throttle=f"drive-{key}",
        top=f"drive-{key}",
        bitmaps=bitmaps,
    )
    return replace(found, **more)  # type: ignore[arg-type]


BITMAPS = (
    BlockBitmap(TARGET, count=12 * MIB, granularity=4 * MIB),
    BlockBitmap(MARK, recording=False, granularity=1 << 30),
    BlockBitmap("pbs-incremental-dirty-bitmap", count=7),
)
SCSI0 = disk("scsi0", 0, 10 * GIB, *BITMAPS)
SCSI1 = disk("scsi1", 1, 4 * GIB, *BITMAPS)
CDROM = PveDisk("ide2", "local:iso/x.iso", 600 * MIB, "raw", included=False, reason="CD-ROM")
TPM = PveDisk("tpmstate0", "local-lvm:vm-100-disk-2", 4 * MIB, "raw", allocated=4 * MIB)

GUEST = PveGuest(
    uuid=UUID,
    vmid=100,
    name="web",
    node="pve1",
    kind=GuestKind.VM,
    state=GuestState.RUNNING,
    template=False,
    conf=CONF,
    agent=True,
    process=PROCESS,
    qemu=(10, 0, 2),
    machine="pc-q35-10.0+pve0",
    blockdev=True,
    backup_access=True,
    disks=(SCSI0, SCSI1, CDROM, TPM),
)

T2_BITMAPS = (BlockBitmap(MARK, count=3 * MIB),)
OLD = replace(
    GUEST,
    backup_access=False,
    qemu=(9, 0, 2),
    disks=(replace(SCSI0, bitmaps=T2_BITMAPS), replace(SCSI1, bitmaps=T2_BITMAPS), CDROM, TPM),
)
"""A guest whose QEMU has no backup-access commands."""

OFF = replace(GUEST, state=GuestState.OFF, process="", qemu=None, backup_access=False, agent=False)
CONTAINER = replace(
    OFF,
    kind=GuestKind.CONTAINER,
    vmid=101,
    name="dns",
    state=GuestState.RUNNING,
    conf="hostname: dns\nrootfs: local-lvm:vm-101-disk-0,size=4G\nmp0: local-lvm:vm-101-disk-1,mp=/srv,backup=1\n",
    disks=(
        PveDisk("rootfs", "local-lvm:vm-101-disk-0", 4 * GIB, "raw", allocated=4 * GIB),
        PveDisk("mp0", "local-lvm:vm-101-disk-1", 8 * GIB, "raw", allocated=8 * GIB),
        PveDisk("mp1", "/mnt/share", 0, "raw", included=False, reason="a folder of the host"),
    ),
)


def point(
    method: str = "access", guest: PveGuest = GUEST, *, run: str = "run1", **more: object
) -> RestorePoint:
    """What a backup of this guest left in the repository."""
    facts = PlanFacts(guest=guest, repository=REPOSITORY, target=TARGET)
    made = RestorePoint(
        archive=f"web.8c7e5a52-{run}",
        guest="web",
        uuid=UUID,
        host="pve",
        hypervisor="proxmox",
        time=datetime(2026, 11, 20, 2, tzinfo=UTC),
        consistency=Consistency.APPLICATION,
        disks=tuple(
            DiskPoint(
                item.key,
                f"disks/{item.key}.raw",
                item.size,
                item.format,
                Mode.FULL,
                bitmap=names.bitmap(REPOSITORY, run) if item.node else "",
                process=guest.process,
            )
            for item in guest.disks
            if item.included
        ),
        run=run,
        facts=point_facts(method, facts),
        archive_id="aa",
    )
    return replace(made, **more)  # type: ignore[arg-type]


POINT = point()
T2_POINT = point("transaction", OLD)

LVMTHIN = StorageFacts("local-lvm", "lvmthin", active=True, content=("images", "rootdir"), free=500 * GIB)
PLACE = FleecingPlace("storage", "local-lvm", 500 * GIB, "lvmthin")


def gathered(
    guest: PveGuest = GUEST,
    fleecing: FleecingPlace | None = PLACE,
    storages: tuple[StorageFacts, ...] = (LVMTHIN,),
) -> Gathered:
    return Gathered(guest, {item.name: item for item in storages}, fleecing)


def with_disk(guest: PveGuest, changed: PveDisk) -> PveGuest:
    return replace(guest, disks=tuple(changed if item.key == changed.key else item for item in guest.disks))
