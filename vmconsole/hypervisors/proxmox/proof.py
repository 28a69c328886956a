"""Is an increment of this disk right? Proven per disk, or refused with the reason. Pure.

A bitmap in QEMU that has recorded since the cut of a restore point, or since earlier, names at least
everything that changed since that point. Bitmaps here live in QEMU's memory alone, so an increment
over a point is right when
- the point is of this repository, was made by the same method, and of the same volume,
- the QEMU process is the one of the point's cut (boot, PID, start time): its memory was never lost,
- the point's own bitmap, whose name holds the run's id, is on the disk's node in QEMU,
- the bitmap to be read is there, records, and is neither in use nor inconsistent,
- the disk has the same size; by the method `transaction` it may have grown.

By `transaction`, the point's own bitmap (names.bitmap) is the one that records and is read. By
`access`, Proxmox keeps a single bitmap per target (names.target), which says nothing of the point it
began at: were the newest archive deleted from the repository, it would pass for a record since the
one before. There, the point's own bitmap is a mark beside it: empty, disabled, set once the target's
bitmap has taken over, and removed before the next one takes over.

Any point will do, not only the newest: if a run died after its archive was committed and before its
bitmap took over, the point before it still matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.facts import BlockBitmap, PointFacts, PveDisk, PveGuest
from vmconsole.model.guest import GuestKind
from vmconsole.model.point import DiskPoint, Mode, RestorePoint

MAX_CANDIDATES = 20
ACCESS = "access"
TRANSACTION = "transaction"
VZDUMP = "vzdump"
OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Verdict:
    """reason: why not, empty when proven. parent: archive name; base: bitmap to read.

    old_size: of the disk at the parent, expected: to be read; both in bytes.
    """

    reason: str = ""
    parent: str = ""
    base: str = ""
    old_size: int = 0
    expected: int = 0

    @property
    def proven(self) -> bool:
        return not self.reason


def judge(
    guest: PveGuest, disk: PveDisk, points: Sequence[RestorePoint], repository: str, method: str
) -> Verdict:
    """The newest point over which an increment is proven right; else the newest one's reason why not."""
    general = _general(guest, disk, points, method)
    if general:
        return Verdict(reason=general)
    verdicts = []
    for point in points[:MAX_CANDIDATES]:
        verdict = _over(guest, disk, point, repository, method)
        if verdict.proven:
            return verdict
        verdicts.append(verdict)
    return verdicts[0]


def _general(guest: PveGuest, disk: PveDisk, points: Sequence[RestorePoint], method: str) -> str:
    if guest.kind is GuestKind.CONTAINER:
        return "containers are read whole every time"
    if guest.template:
        return "a template does not change and is read whole"
    if method == OFFLINE:
        return "the guest is off, and QEMU's record of changes ended with it"
    if method == VZDUMP:
        return "vzdump reads everything every time"
    if not disk.node:
        return "QEMU does not record changes of this disk"
    if not points:
        return "no restore point yet"
    if not guest.process:
        return "the guest's QEMU process cannot be told from an earlier one"
    return ""


def _over(guest: PveGuest, disk: PveDisk, point: RestorePoint, repository: str, method: str) -> Verdict:
    record = next((item for item in point.stored_disks if item.id == disk.key), None)
    if record is None:
        return Verdict(reason="disk was added")
    base = names.target(repository) if method == ACCESS else record.bitmap
    reason = (
        _point_reason(disk, PointFacts.read(point.facts), method)
        or _record_reason(guest, record, repository)
        or _size_reason(disk, record, method)
        or _bitmap_reason(disk, record.bitmap, base)
    )
    bitmap = disk.bitmap(base)
    if reason or bitmap is None:
        return Verdict(reason=reason)
    return Verdict(
        parent=point.archive,
        base=base,
        old_size=record.size,
        expected=min(disk.size, bitmap.count + disk.size - record.size),
    )


def _point_reason(disk: PveDisk, facts: PointFacts, method: str) -> str:
    if facts.method != method:
        how = facts.method or "unknown"
        return f"the last restore point was made another way ({how})"
    before = facts.disks.get(disk.key)
    if before is None:
        return "the last restore point does not say where the disk was"
    if before.volume != disk.volume:
        return f"disk is another volume now (was {before.volume})"
    return ""


def _record_reason(guest: PveGuest, record: DiskPoint, repository: str) -> str:
    if record.mode is Mode.SKIPPED or not record.bitmap:
        return "the last restore point left no bitmap"
    if not record.bitmap.startswith(names.bitmap_prefix(repository)):
        return "the last restore point's bitmap belongs to another repository"
    if record.process != guest.process:
        return "the guest was stopped, restarted or moved to another node since the last restore point"
    return ""


def _size_reason(disk: PveDisk, record: DiskPoint, method: str) -> str:
    if disk.size < record.size:
        return "disk was made smaller"
    if disk.size > record.size and method == ACCESS:
        return "disk was made larger"
    return ""


def _bitmap_reason(disk: PveDisk, own: str, base: str) -> str:
    if disk.bitmap(own) is None:
        return (
            "the bitmap of the last restore point is gone from QEMU"
            if own == base
            else "QEMU's bitmap does not begin at the last restore point"
        )
    bitmap = disk.bitmap(base)
    return _unusable(bitmap) if bitmap else "the bitmap is gone from QEMU"


def _unusable(bitmap: BlockBitmap) -> str:
    if bitmap.inconsistent:
        return "the bitmap is inconsistent"
    if bitmap.busy:
        return "the bitmap is in use by something that was left behind"
    return "" if bitmap.recording else "the bitmap does not record"
