"""The rule per guest, what is refused and why, and the forecast."""

from __future__ import annotations

from dataclasses import replace

import pytest
from proxmox_samples import (
    CONTAINER,
    GIB,
    GUEST,
    LVMTHIN,
    MARK,
    MIB,
    OFF,
    OLD,
    PLACE,
    POINT,
    REPOSITORY,
    SCSI0,
    T2_POINT,
    TARGET,
    gathered,
    with_disk,
)

from vmconsole.errors import BackupFailed, GuestBusy, OutOfSpace
from vmconsole.hypervisors.proxmox.api import LOCKS
from vmconsole.hypervisors.proxmox.facts import FleecingPlace, PlanFacts, PveGuest, StorageFacts
from vmconsole.hypervisors.proxmox.plan import make_plan
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.interfaces import ExportOptions, ExportPlan
from vmconsole.model.guest import GuestState
from vmconsole.model.point import Mode, RestorePoint


def plan(
    guest: PveGuest = GUEST,
    points: tuple[RestorePoint, ...] = (POINT,),
    options: ExportOptions | None = None,
    fleecing: FleecingPlace | None = PLACE,
    storages: tuple[StorageFacts, ...] = (LVMTHIN,),
    **settings: object,
) -> ExportPlan:
    return make_plan(
        gathered(guest, fleecing, storages),
        "pve",
        ProxmoxSettings(**settings),  # type: ignore[arg-type]  # handed on as they are
        REPOSITORY,
        points,
        options or ExportOptions(),
    )


def facts(made: ExportPlan) -> PlanFacts:
    found = made.facts
    assert isinstance(found, PlanFacts)
    return found


def test_incremental_full_and_skipped_side_by_side() -> None:
    made = plan()
    assert [(disk.id, disk.mode, disk.bytes_expected) for disk in made.disks] == [
        ("scsi0", Mode.INCREMENTAL, 12 * MIB),
        ("scsi1", Mode.INCREMENTAL, 12 * MIB),
        ("ide2", Mode.SKIPPED, 0),
        ("tpmstate0", Mode.FULL, 4 * MIB),
    ]
    assert made.disks[2].reason == "CD-ROM"
    assert made.method == "access"
    assert facts(made).bases == dict.fromkeys(("scsi0", "scsi1"), TARGET)
    assert facts(made).old_sizes == {"scsi0": 10 * GIB, "scsi1": 4 * GIB}
    assert facts(made).target == TARGET
    assert facts(made).fleecing == PLACE
    assert (made.guest.host, made.guest.node, made.guest.id, made.guest.uuid) == (
        "pve",
        "pve1",
        "100",
        GUEST.uuid,
    )
    assert made.warnings == ()


def test_a_wish_for_a_full_read_and_excluded_disks() -> None:
    made = plan(options=ExportOptions(full_reason="asked for", exclude_disks=("scsi1",)))
    assert [disk.mode for disk in made.disks] == [Mode.FULL, Mode.SKIPPED, Mode.SKIPPED, Mode.FULL]
    assert made.disks[0].reason == made.disks[3].reason == "asked for"
    assert "excluded" in made.disks[1].reason
    assert not facts(made).bases


THREADED = with_disk(OLD, replace(OLD.disk("scsi1"), iothread=True))
NEW = replace(OLD, qemu=(9, 0, 0))


@pytest.mark.parametrize(
    ("guest", "settings", "method", "words"),
    [
        # containers
        (CONTAINER, {}, "vzdump", "containers"),
        (replace(CONTAINER, state=GuestState.OFF), {}, "vzdump", "containers"),
        (CONTAINER, {"export": "qmp"}, "vzdump", "containers"),
        # templates and machines that are off
        (replace(OFF, template=True), {}, "offline", "template"),
        (OFF, {}, "offline", "off"),
        (OFF, {"export": "vzdump"}, "offline", "off"),
        (OFF, {"export": "qmp"}, "offline", "off"),
        # backup-access commands
        (GUEST, {}, "access", "backup-access"),
        (GUEST, {"export": "qmp"}, "access", "backup-access"),
        (replace(GUEST, state=GuestState.PAUSED), {}, "access", "backup-access"),
        (with_disk(GUEST, replace(SCSI0, iothread=True)), {}, "access", "backup-access"),
        (GUEST, {"export": "vzdump"}, "vzdump", 'export = "vzdump"'),
        # QEMU's own
        (OLD, {}, "transaction", "no backup-access commands"),
        (OLD, {"export": "qmp"}, "transaction", "no backup-access commands"),
        (OLD, {"export": "vzdump"}, "vzdump", 'export = "vzdump"'),
        (replace(OLD, qemu=(7, 1, 0)), {}, "transaction", "no backup-access"),
        (replace(OLD, qemu=(8, 1, 5)), {}, "transaction", "no backup-access"),
        (replace(THREADED, qemu=(9, 0, 0)), {}, "transaction", "no backup-access"),
        (replace(THREADED, qemu=(9, 0, 0)), {"export": "qmp"}, "transaction", "no backup-access"),
        # where that can kill the guest, or is not there yet
        (
            replace(THREADED, qemu=(8, 1, 5)),
            {},
            "vzdump",
            "disk scsi1 has an iothread, and QEMU 8.1.5 can crash",
        ),
        (replace(THREADED, qemu=(7, 2, 10)), {}, "vzdump", "QEMU 7.2.10 can crash"),
        (replace(OLD, qemu=(7, 0, 0)), {}, "vzdump", "QEMU 7.0.0 is too old"),
        (replace(OLD, qemu=(6, 2, 0)), {}, "vzdump", "too old"),
        (replace(OLD, qemu=None), {}, "vzdump", "of unknown version"),
        (replace(THREADED, qemu=None), {}, "vzdump", "of unknown version"),
    ],
)
def test_the_method(guest: PveGuest, settings: dict[str, object], method: str, words: str) -> None:
    made = plan(guest, **settings)
    assert made.method == method
    assert words in made.method_reason
    assert (facts(made).fleecing is not None) is (method in ("access", "transaction"))


def test_several_threaded_disks_are_all_named() -> None:
    guest = with_disk(THREADED, replace(OLD.disk("scsi0"), iothread=True))
    assert "disks scsi0, scsi1 have an iothread" in plan(replace(guest, qemu=(8, 0, 2))).method_reason


def test_an_excluded_iothread_disk_does_not_count() -> None:
    guest = replace(THREADED, qemu=(8, 1, 5))
    assert plan(guest, options=ExportOptions(exclude_disks=("scsi1",))).method == "transaction"


@pytest.mark.parametrize("qemu", [(8, 1, 5), (6, 2, 0), None])
def test_qmp_alone_refuses_what_only_vzdump_can_do(qemu: tuple[int, ...] | None) -> None:
    with pytest.raises(BackupFailed, match=r"web \(100\) on pve/pve1 can only be read by vzdump") as caught:
        plan(replace(THREADED, qemu=qemu), export="qmp")
    assert "auto" in caught.value.hint


def test_increments_of_both_methods() -> None:
    made = plan(OLD, (T2_POINT,))
    assert made.mode is Mode.INCREMENTAL
    assert facts(made).bases == dict.fromkeys(("scsi0", "scsi1"), MARK)
    assert plan(OLD, (POINT,)).mode is Mode.FULL
    assert "another way (access)" in plan(OLD, (POINT,)).reason
    assert plan(GUEST, export="vzdump").mode is Mode.FULL
    assert plan(OFF).mode is Mode.FULL


# --- space ------------------------------------------------------------------------------------

THICK = FleecingPlace("storage", "san", 20 * GIB, "lvm")
FOLDER = FleecingPlace("folder", "/var/tmp/fleecing", 20 * GIB)


@pytest.mark.parametrize(
    ("fleecing", "reserve"),
    [
        (FOLDER, True),
        (THICK, True),
        (replace(FOLDER, free=14 * GIB), False),
        (PLACE, False),
        (replace(PLACE, type="zfspool"), False),
        (replace(PLACE, type="rbd"), False),
    ],
)
def test_whole_disks_are_reserved_where_they_can_be(fleecing: FleecingPlace, reserve: bool) -> None:
    made = plan(OLD, fleecing=fleecing)
    assert facts(made).reserve is reserve
    assert ("reserved" in made.method_reason) is reserve
    assert ("the backup breaks, not the guest" in made.method_reason) is not reserve


def test_what_proxmox_commands_need() -> None:
    """Thin space and files take what is overwritten; a thick volume takes its size at once."""
    assert plan(fleecing=replace(PLACE, free=2 * GIB)).method == "access"
    assert not facts(plan(fleecing=FOLDER)).reserve
    with pytest.raises(
        OutOfSpace, match=r"san on node pve1 of pve has 10\.0 GiB free.*needs 15\.0 GiB"
    ) as caught:
        plan(fleecing=replace(THICK, free=10 * GIB))
    assert "fleecing" in caught.value.hint
    with pytest.raises(OutOfSpace, match=r"needs 1\.0 GiB"):
        plan(fleecing=replace(PLACE, free=GIB - 1))
    assert plan(fleecing=replace(PLACE, free=5), fleecing_min_free=0).warnings


def test_little_space_is_a_warning() -> None:
    made = plan(points=(), fleecing=replace(PLACE, free=GIB + MIB))
    assert any("only 1.0 GiB free" in warning for warning in made.warnings)
    assert plan(points=(), fleecing=replace(PLACE, free=2 * GIB)).warnings == ()


@pytest.mark.parametrize(
    ("fleecing", "words", "hint"),
    [
        (None, "No storage on node pve1 of pve can take", "fleecing ="),
        (
            FleecingPlace("folder", "/none", -1),
            "folder /none on node pve1 of pve cannot be looked at",
            "mkdir",
        ),
        (
            FleecingPlace("storage", "gone", -1, ""),
            "storage gone is not available on node pve1",
            "pvesm status",
        ),
    ],
)
def test_no_place_for_fleecing(fleecing: FleecingPlace | None, words: str, hint: str) -> None:
    for guest in (GUEST, OLD):
        with pytest.raises(BackupFailed, match=words) as caught:
            plan(guest, fleecing=fleecing)
        assert hint in caught.value.hint
    assert plan(OFF, fleecing=fleecing).method == "offline"
    assert plan(GUEST, fleecing=fleecing, export="vzdump").method == "vzdump"


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [*LOCKS, "strange"])
def test_locked_by_proxmox(lock: str) -> None:
    for guest in (GUEST, OFF, CONTAINER):
        with pytest.raises(GuestBusy, match=rf"is locked by Proxmox \({lock}\)") as caught:
            plan(replace(guest, lock=lock))
        assert caught.value.hint
        assert "VMID" not in caught.value.hint
    assert ("qm unlock" in caught.value.hint) is False


@pytest.mark.parametrize(
    ("guest", "words", "hint"),
    [
        (replace(GUEST, migrating=True), "is migrating", "new node"),
        (replace(GUEST, busy="a backup by Proxmox"), "held by a backup by Proxmox", "Let it finish"),
        (
            replace(GUEST, busy="a run of vmconsole (its node vmc-fl0)"),
            "a run of vmconsole",
            "doctor --clean",
        ),
        (replace(GUEST, state=GuestState.OTHER), "neither running, paused nor off", "qm status 100"),
        (replace(CONTAINER, vzdump=True), "a vzdump is running on that node", "one at a time"),
        (replace(THREADED, qemu=(8, 0, 2), vzdump=True), "a vzdump is running", "one at a time"),
    ],
)
def test_a_guest_that_is_held(guest: PveGuest, words: str, hint: str) -> None:
    with pytest.raises(GuestBusy, match=words) as caught:
        plan(guest)
    assert hint in caught.value.hint
    assert caught.value.subject == guest.name


def test_a_vzdump_of_another_guest_does_not_matter_to_qmp() -> None:
    assert plan(replace(GUEST, vzdump=True)).method == "access"


def test_nothing_to_back_up_and_sizes_nobody_knows() -> None:
    with pytest.raises(BackupFailed, match="no disk"):
        plan(options=ExportOptions(exclude_disks=("scsi0", "scsi1", "tpmstate0")))
    with pytest.raises(BackupFailed, match="no disk"):
        plan(replace(GUEST, disks=()))
    with pytest.raises(BackupFailed, match=r"size of disk scsi0 \(local-lvm:vm-100-disk-0\)"):
        plan(with_disk(GUEST, replace(SCSI0, size=0)))
    assert (
        plan(replace(CONTAINER, disks=tuple(replace(d, size=0) for d in CONTAINER.disks))).method == "vzdump"
    )


def test_a_disk_that_qemu_does_not_have() -> None:
    with pytest.raises(BackupFailed, match=r"scsi1.*its QEMU does not have it") as caught:
        plan(with_disk(GUEST, replace(GUEST.disk("scsi1"), node="", device="")))
    assert "qm pending 100" in caught.value.hint


@pytest.mark.parametrize(
    ("storages", "words"),
    [
        (
            (),
            "Storage local-lvm, which disk scsi0 of web .100. on pve/pve1 is on, is not defined on node pve1",
        ),
        ((replace(LVMTHIN, enabled=False),), "is disabled"),
        ((replace(LVMTHIN, active=False),), "is not online"),
    ],
)
def test_a_storage_that_is_missing(storages: tuple[StorageFacts, ...], words: str) -> None:
    with pytest.raises(BackupFailed, match=words) as caught:
        plan(OFF, storages=storages)
    assert "pvesm status" in caught.value.hint
    with pytest.raises(BackupFailed):
        plan(CONTAINER, storages=storages)
    # A running machine's volumes are open already.
    assert plan(GUEST, storages=storages).method == "access"
    # A path of the host is on no storage.
    path = replace(SCSI0, volume="/dev/disk/by-id/wwn-1", node="")
    assert plan(replace(OFF, disks=(path,)), storages=storages).method == "offline"


# --- containers and warnings -------------------------------------------------------------------


def test_a_container_is_one_tar() -> None:
    made = plan(CONTAINER)
    tar, share = made.disks
    assert (tar.id, tar.format, tar.mode, tar.bytes_expected) == ("rootfs", "tar", Mode.FULL, 12 * GIB)
    assert (share.id, share.mode, share.reason) == ("mp1", Mode.SKIPPED, "a folder of the host")
    assert made.guest.kind is CONTAINER.kind
    assert made.warnings == ()
    assert plan(CONTAINER, options=ExportOptions(exclude_disks=("mp0",))).warnings


@pytest.mark.parametrize(
    ("guest", "options", "words"),
    [
        (replace(GUEST, agent=False), ExportOptions(), "does not answer"),
        (replace(GUEST, freeze=False), ExportOptions(), "switched off"),
        (replace(GUEST, paused_by_error=True), ExportOptions(), "I/O error"),
        (replace(GUEST, shared_uuid=(200,)), ExportOptions(), "same SMBIOS uuid as 200"),
        (replace(GUEST, agent=False), ExportOptions(freeze=False), ""),
        (replace(GUEST, agent=False, state=GuestState.PAUSED), ExportOptions(), ""),
        (OFF, ExportOptions(), ""),
    ],
)
def test_warnings(guest: PveGuest, options: ExportOptions, words: str) -> None:
    found = plan(guest, options=options).warnings
    assert any(words in warning for warning in found) if words else found == ()


def test_vzdump_reads_what_is_excluded() -> None:
    made = plan(GUEST, options=ExportOptions(exclude_disks=("scsi1",)), export="vzdump")
    assert any("reads excluded disks as well" in warning for warning in made.warnings)
