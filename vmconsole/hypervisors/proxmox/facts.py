"""What planning and every export method know about one guest. Gathered by gather.py, never guessed.

`ExportPlan.facts` of every Proxmox plan is a `PlanFacts`. `Cut.facts` of every Proxmox export is what
`point_facts()` makes, and comes back through `RestorePoint.facts` as `PointFacts.read()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmconsole.hypervisors.proxmox.identity import Place
from vmconsole.model.guest import GuestKind, GuestState

POINT_FACTS_VERSION = 1

RESERVABLE = frozenset({"dir", "lvm"})
"""Storage types on which the full size of a volume can be set aside: files by fallocate, thick volumes."""
THICK = frozenset({"lvm", "iscsi", "iscsidirect"})
"""Storage types on which a new volume takes its full size at once."""


@dataclass(frozen=True, slots=True)
class BlockBitmap:
    """A dirty bitmap in QEMU. count: bytes it calls dirty."""

    name: str
    recording: bool = True
    busy: bool = False
    persistent: bool = False
    inconsistent: bool = False
    count: int = 0
    granularity: int = 65536


@dataclass(frozen=True, slots=True)
class PveDisk:
    """One disk of a guest. Sizes in bytes.

    key: `scsi0`, `efidisk0`, `rootfs` … volume: `STORAGE:NAME` or an absolute path. format: raw, qcow2 …
    size: 0 when unknown. allocated: bytes in use, size when unknown. included, reason: as DiskPlan.

    Of a running machine: device: what Proxmox's own commands call the disk (`drive-scsi0`), empty
    when QEMU does not have it (the TPM's state). node: the node that transactions and bitmaps work
    on, below the throttle. throttle: the throttle's node above it, empty where there is none. top:
    what the guest's device is attached to, throttle or node.
    path: of the volume on the node, where it was asked for.
    """

    key: str
    volume: str
    size: int = 0
    format: str = ""
    included: bool = True
    reason: str = ""
    allocated: int = 0
    iothread: bool = False
    device: str = ""
    node: str = ""
    throttle: str = ""
    top: str = ""
    bitmaps: tuple[BlockBitmap, ...] = ()
    path: str = ""

    @property
    def storage(self) -> str:
        name, colon, _ = self.volume.partition(":")
        return name if colon and not self.volume.startswith("/") else ""

    def bitmap(self, name: str) -> BlockBitmap | None:
        return next((item for item in self.bitmaps if item.name == name), None)


@dataclass(frozen=True, slots=True)
class PveGuest:
    """One guest at one moment.

    node: where it is. conf: its configuration file's text, byte for byte by guestconf.encode();
    digest: of that text. firewall: text of its firewall file, empty when it has none.
    lock: as its configuration says. agent: enabled, and it answers. freeze: freezing is not switched
    off. process: `BOOTID:PID:START` of QEMU, empty when off or unknown. qemu: version of the *running*
    QEMU. machine: its running machine type, `pc-q35-9.2+pve1`. blockdev: its disks are in the layout
    of machine version 10.0 and later. backup_access: it has Proxmox's backup-access commands.
    busy: whose backup, job or NBD server is in QEMU now, a phrase; empty when none. vzdump: a vzdump
    runs on the node, maybe for another guest. migrating: QEMU is sending it away.
    paused_by_error: stopped by an I/O error.
    """

    uuid: str
    vmid: int
    name: str
    node: str
    kind: GuestKind
    state: GuestState
    template: bool
    conf: str
    digest: str = ""
    firewall: str = ""
    lock: str = ""
    agent: bool = False
    freeze: bool = True
    process: str = ""
    qemu: tuple[int, ...] | None = None
    machine: str = ""
    blockdev: bool = False
    backup_access: bool = False
    busy: str = ""
    vzdump: bool = False
    migrating: bool = False
    paused_by_error: bool = False
    shared_uuid: tuple[int, ...] = ()
    disks: tuple[PveDisk, ...] = ()

    @property
    def running(self) -> bool:
        """There is a QEMU process, paused or not, or a running container."""
        return self.state in (GuestState.RUNNING, GuestState.PAUSED)

    @property
    def place(self) -> Place:
        return Place(self.vmid, self.kind, self.node)

    @property
    def qmp_path(self) -> str:
        return f"/var/run/qemu-server/{self.vmid}.qmp"

    def disk(self, key: str) -> PveDisk:
        return next(item for item in self.disks if item.key == key)


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """A storage as the guest's node sees it. free: bytes, -1 when it does not say."""

    name: str
    type: str
    active: bool
    enabled: bool = True
    shared: bool = False
    content: tuple[str, ...] = ()
    free: int = -1


@dataclass(frozen=True, slots=True)
class FleecingPlace:
    """Where the blocks go that a guest overwrites while it is read.

    kind: `storage` or `folder`. name: the storage's name, or an absolute path. free: bytes, -1 when
    it cannot be looked at. type: Proxmox's word for the storage, `dir` for a folder.
    """

    kind: str
    name: str
    free: int
    type: str = "dir"

    @property
    def reservable(self) -> bool:
        """The full size of a disk can be set aside there, so that it cannot run full."""
        return self.type in RESERVABLE

    @property
    def thick(self) -> bool:
        """A new volume there takes its full size at once."""
        return self.type in THICK


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What the plan's maker hands to the export.

    repository: id, hex. target: the target-id of backup-access-setup for it (names.target).
    bases: per incremental disk, the bitmap to read from. old_sizes: per incremental disk, its size
    at the parent, in bytes; what is beyond is new. fleecing: None when the method needs none.
    reserve: the full size of every disk is set aside there before the cut; otherwise the export must
    be one that breaks rather than the guest's writes when the place runs full.
    """

    guest: PveGuest
    repository: str
    target: str
    bases: Mapping[str, str] = field(default_factory=dict)
    old_sizes: Mapping[str, int] = field(default_factory=dict)
    fleecing: FleecingPlace | None = None
    reserve: bool = False


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """What a disk was at the cut of a restore point. node: its node in QEMU, may be empty."""

    volume: str
    format: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What an earlier restore point recorded about the guest. target: see PlanFacts."""

    method: str = ""
    target: str = ""
    disks: Mapping[str, DiskRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> PointFacts:
        """Read RestorePoint.facts; anything not understood is left out, so that it proves nothing."""
        if document.get("proxmox") != POINT_FACTS_VERSION:
            return cls()
        disks = document.get("disks")
        return cls(
            method=str(document.get("method", "")),
            target=str(document.get("target", "")),
            disks={
                str(key): DiskRecord(str(item["volume"]), str(item["format"]), str(item.get("node", "")))
                for key, item in (disks.items() if isinstance(disks, Mapping) else ())
                if isinstance(item, Mapping) and {"volume", "format"} <= item.keys()
            },
        )


def point_facts(method: str, facts: PlanFacts) -> dict[str, Any]:
    """The JSON that goes into guest.json."""
    guest = facts.guest
    return {
        "proxmox": POINT_FACTS_VERSION,
        "method": method,
        "target": facts.target,
        "vmid": guest.vmid,
        "node": guest.node,
        "name": guest.name,
        "kind": guest.kind.value,
        "template": guest.template,
        "machine": guest.machine,
        "qemu": list(guest.qemu) if guest.qemu else None,
        "disks": {
            disk.key: {"volume": disk.volume, "format": disk.format, "node": disk.node}
            for disk in guest.disks
            if disk.included
        },
    }
