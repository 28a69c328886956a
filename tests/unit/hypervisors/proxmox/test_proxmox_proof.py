"""When an increment is right, and every reason why it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from proxmox_samples import (
    CONTAINER,
    GIB,
    GUEST,
    MARK,
    MIB,
    OFF,
    OLD,
    POINT,
    PROCESS,
    REPOSITORY,
    SCSI0,
    T2_BITMAPS,
    T2_POINT,
    TARGET,
    TPM,
    point,
)

from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.facts import BlockBitmap, PointFacts, PveDisk, PveGuest
from vmconsole.hypervisors.proxmox.proof import Verdict, judge
from vmconsole.model.point import DiskPoint, Mode, RestorePoint

OLD_SCSI0 = OLD.disk("scsi0")


def access(
    guest: PveGuest = GUEST, disk: PveDisk = SCSI0, points: tuple[RestorePoint, ...] = (POINT,)
) -> Verdict:
    return judge(guest, disk, points, REPOSITORY, "access")


def transaction(
    guest: PveGuest = OLD, disk: PveDisk = OLD_SCSI0, points: tuple[RestorePoint, ...] = (T2_POINT,)
) -> Verdict:
    return judge(guest, disk, points, REPOSITORY, "transaction")


def test_proven() -> None:
    found = access()
    assert found.proven
    assert (found.parent, found.base, found.old_size, found.expected) == (
        POINT.archive, TARGET, 10 * GIB, 12 * MIB,
    )  # fmt: skip
    found = transaction()
    assert found.proven
    assert (found.parent, found.base, found.expected) == (T2_POINT.archive, MARK, 3 * MIB)


def test_a_grown_disk() -> None:
    larger = replace(OLD_SCSI0, size=11 * GIB)
    found = transaction(disk=larger)
    assert (found.old_size, found.expected) == (10 * GIB, GIB + 3 * MIB)
    # With Proxmox's commands only what the bitmap calls dirty can be read.
    assert access(disk=replace(SCSI0, size=11 * GIB)).reason == "disk was made larger"


def test_the_newest_archive_was_deleted() -> None:
    """Proxmox's bitmap began at the run whose archive is gone: nothing proves the one before."""
    newer = BlockBitmap(names.bitmap(REPOSITORY, "run2"), recording=False)
    disk = replace(SCSI0, bitmaps=(SCSI0.bitmaps[0], newer))
    newest = point(run="run2")
    assert access(disk=disk, points=(newest, POINT)).parent == newest.archive
    assert access(disk=disk).reason == "QEMU's bitmap does not begin at the last restore point"


def test_a_run_that_died_before_its_bitmap_took_over() -> None:
    newest = point(run="run2")
    assert access(points=(newest, POINT)).parent == POINT.archive


@pytest.mark.parametrize(
    ("guest", "disk", "method", "words"),
    [
        (CONTAINER, CONTAINER.disks[0], "vzdump", "containers are read whole"),
        (replace(OFF, template=True), SCSI0, "offline", "a template does not change"),
        (OFF, SCSI0, "offline", "the guest is off"),
        (GUEST, SCSI0, "vzdump", "vzdump reads everything"),
        (GUEST, TPM, "access", "does not record changes of this disk"),
        (replace(GUEST, process=""), SCSI0, "access", "cannot be told from an earlier one"),
    ],
)
def test_never(guest: PveGuest, disk: PveDisk, method: str, words: str) -> None:
    assert words in judge(guest, disk, (POINT,), REPOSITORY, method).reason


def with_record(made: RestorePoint, **changes: object) -> RestorePoint:
    """The point with fields of its disk scsi0 changed."""
    disks = tuple(
        replace(item, **changes) if item.id == "scsi0" else item  # type: ignore[arg-type]
        for item in made.disks
    )
    return replace(made, disks=disks)


def with_facts(made: RestorePoint, **changes: object) -> RestorePoint:
    return replace(made, facts={**made.facts, **changes})


POINTS = [
    ((), "no restore point yet"),
    ((replace(POINT, disks=()),), "disk was added"),
    ((with_record(POINT, mode=Mode.SKIPPED),), "disk was added"),
    ((with_facts(POINT, method="vzdump"),), "made another way (vzdump)"),
    ((with_facts(POINT, proxmox=99),), "made another way (unknown)"),
    ((replace(POINT, facts={}),), "made another way (unknown)"),
    ((with_facts(POINT, disks={}),), "does not say where the disk was"),
    ((with_facts(POINT, disks=7),), "does not say where the disk was"),
    (
        (with_facts(POINT, disks={"scsi0": {"volume": "nas:100/old.raw", "format": "raw"}}),),
        "another volume now (was nas:100/old.raw)",
    ),
    ((with_record(POINT, bitmap=""),), "left no bitmap"),
    ((with_record(POINT, bitmap="vmc-01234567-run1"),), "belongs to another repository"),
    ((with_record(POINT, process="boot-2:4711:99"),), "stopped, restarted or moved"),
    ((with_record(POINT, process=""),), "stopped, restarted or moved"),
    ((with_record(POINT, size=11 * GIB),), "made smaller"),
    (
        (with_record(POINT, bitmap=names.bitmap(REPOSITORY, "run0")),),
        "does not begin at the last restore point",
    ),
]


@pytest.mark.parametrize(("points", "words"), POINTS)
def test_points_that_prove_nothing(points: tuple[RestorePoint, ...], words: str) -> None:
    found = access(points=points)
    assert words in found.reason
    assert not found.proven
    assert found.base == found.parent == ""


@pytest.mark.parametrize(
    ("bitmaps", "words"),
    [
        ((), "does not begin"),
        ((BlockBitmap(MARK),), "the bitmap is gone from QEMU"),
        ((BlockBitmap(TARGET, inconsistent=True), BlockBitmap(MARK)), "inconsistent"),
        ((BlockBitmap(TARGET, busy=True), BlockBitmap(MARK)), "in use"),
        ((BlockBitmap(TARGET, recording=False), BlockBitmap(MARK)), "does not record"),
    ],
)
def test_bitmaps_of_proxmox_that_will_not_do(bitmaps: tuple[BlockBitmap, ...], words: str) -> None:
    assert words in access(disk=replace(SCSI0, bitmaps=bitmaps)).reason


@pytest.mark.parametrize(
    ("bitmaps", "words"),
    [
        ((), "the bitmap of the last restore point is gone"),
        ((replace(T2_BITMAPS[0], inconsistent=True),), "inconsistent"),
        ((replace(T2_BITMAPS[0], busy=True),), "in use"),
        ((replace(T2_BITMAPS[0], recording=False),), "does not record"),
    ],
)
def test_bitmaps_of_ours_that_will_not_do(bitmaps: tuple[BlockBitmap, ...], words: str) -> None:
    assert words in transaction(disk=replace(OLD_SCSI0, bitmaps=bitmaps)).reason


def test_the_reason_is_that_of_the_newest_point() -> None:
    newest = with_record(point(run="run2"), process="boot-2:1:1")
    oldest = with_record(POINT, bitmap="")
    assert "stopped, restarted" in access(points=(newest, oldest)).reason


def test_old_points_are_not_searched_for_ever() -> None:
    useless = tuple(with_record(point(run=f"r{n}"), bitmap="") for n in range(20))
    assert not access(points=(*useless, POINT)).proven


def test_more_dirty_than_the_disk_is_the_disk() -> None:
    bitmaps = (BlockBitmap(TARGET, count=99 * GIB), BlockBitmap(MARK))
    assert access(disk=replace(SCSI0, bitmaps=bitmaps)).expected == 10 * GIB


@pytest.mark.parametrize(
    "document", [{}, {"proxmox": 1, "disks": [1]}, {"proxmox": 1, "disks": {"a": {"volume": 1}}}]
)
def test_facts_of_any_shape(document: dict[str, object]) -> None:
    assert PointFacts.read(document).disks == {}


def test_what_a_point_records() -> None:
    facts = PointFacts.read(POINT.facts)
    assert (facts.method, facts.target) == ("access", TARGET)
    assert set(facts.disks) == {"scsi0", "scsi1", "tpmstate0"}
    assert RestorePoint.from_json(POINT.to_json(), archive_id="aa") == POINT
    assert isinstance(POINT.disks[0], DiskPoint)
    assert POINT.disks[0].process == PROCESS
