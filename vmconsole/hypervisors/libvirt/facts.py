"""What planning and every export method know about one guest. Gathered by gather.py, never guessed.

`ExportPlan.facts` of every libvirt plan is a `PlanFacts`. `Cut.facts` of every libvirt export is
what `point_facts()` makes, and comes back through `RestorePoint.facts` as `PointFacts.read()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmconsole.model.guest import GuestState, Tracking

POINT_FACTS_VERSION = 1


@dataclass(frozen=True, slots=True)
class ImageBitmap:
    """A persistent bitmap as the qcow2 file's header lists it (qemu-img info).

    in_use: the file was not closed properly, or is open now; so it proves damage only when the
    guest is off.
    """

    name: str
    in_use: bool = False
    inconsistent: bool = False
    granularity: int = 65536


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """One disk of a guest. Sizes in bytes.

    id: the target device (`vda`). kind: libvirt's disk type: file, block, network …
    source: path (volumes resolved to theirs) or `protocol:name`. format: driver type, qcow2, raw …
    compat: qcow2 version as qemu-img says it (`1.1`, `0.10`), empty when unknown.
    allocated: bytes in use in all layers, size when unknown. chain: backing files, nearest first.
    """

    id: str
    kind: str
    source: str
    format: str
    size: int
    allocated: int = 0
    compat: str = ""
    chain: tuple[str, ...] = ()
    bitmaps: tuple[ImageBitmap, ...] = ()
    internal_snapshots: int = 0
    iothread: bool = False
    included: bool = True
    reason: str = ""
    """Why it is excluded, or cannot be tracked; empty when neither."""
    tracking: Tracking = Tracking.NONE


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """A checkpoint as libvirt knows it.

    created: seconds since the epoch, the host's clock. disks: those with a bitmap.
    dirty: bytes per disk recorded as changed; a disk that is missing here although it is in
    `disks` has a broken or missing bitmap. Empty when the guest is off: libvirt cannot say.
    xml: `checkpoint-dumpxml --no-domain`.
    """

    name: str
    created: int
    disks: tuple[str, ...]
    dirty: Mapping[str, int]
    xml: str


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """One guest at one moment.

    xml: the live XML of a running guest, else the same as inactive_xml; both without secrets.
    domain_id: libvirt's number of the running guest, -1 when off. run_folder: the folder
    `domain-<id>-<name>` that QEMU may write its sockets into, empty when unknown.
    process: `PID:START` of QEMU (START as in /proc/PID/stat, field 22), empty when off or unknown.
    qemu: version of the *running* QEMU, None when unknown. job: what libvirt calls the job that runs,
    empty when none does; job_xml: its XML when it is a backup. snapshots: libvirt's, by name.
    paused_by_error: stopped by an I/O error.
    """

    uuid: str
    name: str
    state: GuestState
    xml: str
    inactive_xml: str
    domain_id: int = -1
    run_folder: str = ""
    process: str = ""
    qemu: tuple[int, ...] | None = None
    agent: bool = False
    paused_by_error: bool = False
    transient: bool = False
    job: str = ""
    job_xml: str = ""
    snapshots: tuple[str, ...] = ()
    checkpoints: tuple[CheckpointFacts, ...] = ()
    disks: tuple[DiskFacts, ...] = ()
    nvram: str = ""
    tpm: bool = False

    @property
    def running(self) -> bool:
        """There is a QEMU process, paused or not."""
        return self.domain_id >= 0

    def checkpoint(self, name: str) -> CheckpointFacts | None:
        return next((item for item in self.checkpoints if item.name == name), None)

    def disk(self, disk: str) -> DiskFacts:
        return next(item for item in self.disks if item.id == disk)


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What the plan's maker hands to the export.

    repository: id, hex. bases: per incremental disk, the checkpoint (bitmap) to read from.
    old_sizes: per incremental disk, its size at the parent, in bytes; what is beyond is new.
    scratch: folder for scratch files, push targets and overlays; scratch_free: bytes free there.
    """

    guest: GuestFacts
    repository: str
    bases: Mapping[str, str]
    scratch: str
    scratch_free: int
    old_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """Where a disk's contents were at the cut of a restore point."""

    kind: str
    source: str
    format: str


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What an earlier restore point recorded about the host.

    checkpoints: name → creation time (seconds since the epoch). For an offline point: the older
    checkpoint that goes on recording.
    """

    method: str = ""
    checkpoints: Mapping[str, int] = field(default_factory=dict)
    disks: Mapping[str, DiskRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> PointFacts:
        """Read RestorePoint.facts; anything not understood is left out, so that it proves nothing."""
        if document.get("libvirt") != POINT_FACTS_VERSION:
            return cls()
        checkpoints = document.get("checkpoints")
        disks = document.get("disks")
        return cls(
            method=str(document.get("method", "")),
            checkpoints={
                str(name): item["created"]
                for name, item in (checkpoints.items() if isinstance(checkpoints, Mapping) else ())
                if isinstance(item, Mapping) and isinstance(item.get("created"), int)
            },
            disks={
                str(name): DiskRecord(str(item["kind"]), str(item["source"]), str(item["format"]))
                for name, item in (disks.items() if isinstance(disks, Mapping) else ())
                if isinstance(item, Mapping) and {"kind", "source", "format"} <= item.keys()
            },
        )


def point_facts(method: str, guest: GuestFacts, checkpoints: tuple[CheckpointFacts, ...]) -> dict[str, Any]:
    """The JSON that goes into guest.json.

    checkpoints: those that record on from this cut: the new one, or the kept ones of an offline point.
    """
    return {
        "libvirt": POINT_FACTS_VERSION,
        "method": method,
        "name": guest.name,
        "checkpoints": {item.name: {"created": item.created, "xml": item.xml} for item in checkpoints},
        "disks": {
            disk.id: {"kind": disk.kind, "source": disk.source, "format": disk.format}
            for disk in guest.disks
            if disk.included
        },
    }
