"""Is an increment of this disk right? Proven per disk, or refused with the reason.

A bitmap that has recorded since the cut of a restore point, or since earlier, names at least
everything that changed since that point. So an increment over that point is right when
- the point is of this repository and says which bitmap (checkpoint) it left for this disk,
- that checkpoint exists, was created at the recorded second, and covers the disk,
- libvirt finds its bitmap whole (it can size it; for a guest that is off: the image's own header),
- the disk is still the recorded image, or an overlay on it, and is not smaller,
- no snapshot exists that could be reverted to behind the bitmap's back.

The identity of the QEMU process is recorded but not compared: libvirt's bitmaps are stored in the
image when QEMU ends and are marked broken when it ends without doing so, so that a restart is
harmless exactly when the bitmap is whole.

Any point will do, not only the newest: if a run died after its archive was committed and before
its checkpoint took over, the point before it and its checkpoint still match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.facts import DiskFacts, GuestFacts, PointFacts
from vmconsole.model.guest import Tracking
from vmconsole.model.point import DiskPoint, Mode, RestorePoint

MAX_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """reason: why not, empty when proven. parent: archive name; base: checkpoint.

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


def judge(guest: GuestFacts, disk: DiskFacts, points: Sequence[RestorePoint], repository: str) -> Verdict:
    """The newest point over which an increment is proven right; else the newest one's reason why not."""
    general = _general(guest, disk, points)
    if general:
        return Verdict(reason=general)
    verdicts = []
    for point in points[:MAX_CANDIDATES]:
        verdict = _over(guest, disk, point, repository)
        if verdict.proven:
            return verdict
        verdicts.append(verdict)
    return verdicts[0]


def _general(guest: GuestFacts, disk: DiskFacts, points: Sequence[RestorePoint]) -> str:
    if disk.tracking is not Tracking.BITMAP:
        return disk.reason or "the host cannot record changes of this disk"
    if not points:
        return "no restore point yet"
    if guest.snapshots or disk.internal_snapshots:
        return "the guest has snapshots, and going back to one would not be recorded"
    return ""


def _over(guest: GuestFacts, disk: DiskFacts, point: RestorePoint, repository: str) -> Verdict:
    record = next((item for item in point.stored_disks if item.id == disk.id), None)
    if record is None:
        return Verdict(reason="disk was added")
    reason = _image_reason(disk, record, PointFacts.read(point.facts)) or _bitmap_reason(
        guest, disk, record, PointFacts.read(point.facts), repository
    )
    if reason:
        return Verdict(reason=reason)
    checkpoint = guest.checkpoint(record.bitmap)
    dirty = checkpoint.dirty.get(disk.id, record.bytes_dirty) if checkpoint else record.bytes_dirty
    return Verdict(
        parent=point.archive,
        base=record.bitmap,
        old_size=record.size,
        expected=min(disk.size, dirty + disk.size - record.size),
    )


def _image_reason(disk: DiskFacts, record: DiskPoint, facts: PointFacts) -> str:
    where = facts.disks.get(disk.id)
    if where is None:
        return "the last restore point does not say where the disk was"
    same = (where.kind, where.source, where.format) == (disk.kind, disk.source, disk.format)
    if not same and where.source not in disk.chain:
        return f"disk is another image now (was {where.source})"
    if disk.size < record.size:
        return "disk was made smaller"
    return ""


def _bitmap_reason(
    guest: GuestFacts, disk: DiskFacts, record: DiskPoint, facts: PointFacts, repository: str
) -> str:
    if record.mode is Mode.SKIPPED or not record.bitmap:
        return "the last restore point left no bitmap"
    if not names.belongs_to(record.bitmap, repository):
        return "the last restore point's bitmap belongs to another repository"
    checkpoint = guest.checkpoint(record.bitmap)
    if checkpoint is None:
        return "the checkpoint of the last restore point is gone from the host"
    if checkpoint.created != facts.checkpoints.get(record.bitmap):
        return "the checkpoint on the host is not the one the restore point knows"
    if disk.id not in checkpoint.disks:
        return "the checkpoint on the host does not cover this disk"
    if guest.running:
        return (
            "" if disk.id in checkpoint.dirty else "bitmap is broken or missing (QEMU or the host crashed?)"
        )
    bitmap = next((item for item in disk.bitmaps if item.name == record.bitmap), None)
    if bitmap is None:
        return "bitmap is missing from the image"
    return "bitmap is broken (QEMU or the host crashed?)" if bitmap.in_use or bitmap.inconsistent else ""
