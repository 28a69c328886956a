"""Pull-mode export against the real libvirt: what is stored is what the guest had, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.leftovers import leftovers
from lab.lockstep import check_lockstep
from lab.session import Lab
from lab.waiting import wait_for
from libvirt_bench import Bench
from libvirt_shelf import Shelf, only_our_checkpoint, same

from vmconsole.errors import BackupFailed, GuestNotFound, HostError, OutOfSpace
from vmconsole.hypervisors.libvirt import journal
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.model.guest import GuestState, Tracking
from vmconsole.model.point import Consistency, Mode

pytestmark = pytest.mark.rig

DISKS = (DiskSpec("vda", fs="ext4"), DiskSpec("vdb"), DiskSpec("vdc", size=32 * MIB, format="raw"))
MakeGuest = Callable[..., Guest]


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[Guest]:
    """A running guest whose tests leave it as they found it, but for its checkpoints."""
    with lab.guest("prod db <1>", DISKS, title="The database #prod #db") as guest:
        yield guest


@pytest.fixture
def guest(shared: Guest) -> Iterator[Guest]:
    yield shared
    for name in shared.checkpoints():
        shared.virsh("checkpoint-delete", name)


@pytest.fixture
def shelf(lab: Lab, tmp_path: Path) -> Shelf:
    return Shelf(Bench(lab.host), tmp_path / "shelf")


# --- what is stored ---


def test_inventory_tells_what_can_be_backed_up_and_how(guest: Guest, shelf: Shelf) -> None:
    inventory = shelf.host.inventory()

    assert inventory.reachable
    assert inventory.load.cpu is not None
    (found,) = [item for item in inventory.guests if item.uuid == guest.uuid]
    assert (found.name, found.state, found.agent) == ("prod db <1>", GuestState.RUNNING, True)
    assert found.tags == ("prod", "db")
    disks = {disk.id: disk for disk in found.disks}
    assert disks["vda"].tracking is Tracking.BITMAP
    assert disks["vda"].size == 64 * MIB
    assert disks["vdc"].tracking is Tracking.NONE
    assert "raw" in disks["vdc"].reason
    assert all(check.ok for check in shelf.host.check())


def test_full_then_increments_with_overwritten_and_zeroed_ranges(
    guest: Guest, shelf: Shelf, tmp_path: Path
) -> None:
    guest.pattern("vdb", 3 * MIB, 4 * MIB, seed=1)
    guest.pattern("vdc", 3 * MIB, 4 * MIB, seed=1)
    first = shelf.backup(guest.uuid)

    assert {disk.id: disk.mode for disk in first.disks} == dict.fromkeys(("vda", "vdb", "vdc"), Mode.FULL)
    assert first.disks[0].reason == "no restore point yet"
    assert first.consistency is Consistency.APPLICATION
    assert first.freeze_ms is not None
    assert 0 < first.freeze_ms < 10_000
    assert same(shelf, guest, "vdb", tmp_path)
    assert same(shelf, guest, "vdc", tmp_path)

    guest.pattern("vdb", 5 * MIB, MIB, seed=2)
    for offset, how in ((3 * MIB, "write"), (4 * MIB, "zeroout"), (6 * MIB, "discard")):
        guest.zero("vdb", offset, 512 * 1024, how)
    second = shelf.backup(guest.uuid)

    modes = {disk.id: disk.mode for disk in second.disks}
    assert modes == {"vda": Mode.INCREMENTAL, "vdb": Mode.INCREMENTAL, "vdc": Mode.FULL}
    vdb = second.disks[1]
    assert vdb.parent == first.archive
    assert vdb.bytes_dirty == MIB + 3 * 512 * 1024
    assert same(shelf, guest, "vdb", tmp_path)

    shelf.backup(guest.uuid)
    assert shelf.points[0].disks[1].bytes_dirty == 0
    assert same(shelf, guest, "vdb", tmp_path)
    only_our_checkpoint(guest, shelf)
    assert leftovers(guest) == [f"checkpoint {guest.checkpoints()[0]}"]
    assert not shelf.bench.journal.entries


def test_all_disks_are_cut_at_one_instant_while_the_guest_writes(guest: Guest, shelf: Shelf) -> None:
    guest.lockstep_start("vda", "vdb", "vdc")
    try:
        for _ in range(2):
            step = guest.lockstep_step()
            shelf.backup(guest.uuid, freeze=False)
            check_lockstep([shelf.image(disk) for disk in ("vda", "vdb", "vdc")], at_least=step)
    finally:
        guest.lockstep_stop()
    assert shelf.points[0].mode is Mode.INCREMENTAL
    assert shelf.points[0].consistency is Consistency.CRASH
    assert shelf.points[0].freeze_ms is None


def test_a_grown_disk_is_read_where_it_grew(make_guest: MakeGuest, shelf: Shelf, tmp_path: Path) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB)])
    guest.pattern("vda", MIB, MIB, seed=1)
    shelf.backup(guest.uuid)

    guest.virsh("blockresize", "vda", f"{24 * MIB}B")
    plan = shelf.plan(guest.uuid)
    assert plan.mode is Mode.INCREMENTAL
    assert plan.disks[0].bytes_expected == 8 * MIB
    guest.pattern("vda", 20 * MIB, MIB, seed=2)
    shelf.backup(guest.uuid)

    assert shelf.image("vda").stat().st_size == 24 * MIB
    assert same(shelf, guest, "vda", tmp_path)


def test_the_archive_holds_the_description_and_the_checkpoint(guest: Guest, shelf: Shelf) -> None:
    _, export, _ = shelf.open(guest.uuid)
    try:
        assert b"<uuid>" + guest.uuid.encode() in export.files["config/libvirt.xml"]
        assert b"<domaincheckpoint>" in export.files["config/checkpoint.xml"]
    finally:
        export.rollback()
    assert leftovers(guest) == []


# --- what a plan proves ---


def test_disks_that_cannot_be_tracked_are_read_in_full_beside_the_others(
    make_guest: MakeGuest, shelf: Shelf
) -> None:
    guest = make_guest(
        disks=[DiskSpec("vda", size=16 * MIB), DiskSpec("vdb", size=16 * MIB, format="qcow2-v2")]
    )
    shelf.backup(guest.uuid)

    plan = shelf.plan(guest.uuid)

    assert [disk.mode for disk in plan.disks] == [Mode.INCREMENTAL, Mode.FULL]
    assert "version 2" in plan.disks[1].reason
    shelf.backup(guest.uuid)


def test_a_new_disk_is_full_and_tracked_from_then_on(make_guest: MakeGuest, lab: Lab, shelf: Shelf) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB)])
    shelf.backup(guest.uuid)
    new = lab.folder("hotplug") / "new.qcow2"
    lab.host.run(["qemu-img", "create", "-q", "-f", "qcow2", str(new), "16M"])
    guest.virsh("attach-disk", str(new), "vdb", "--subdriver", "qcow2", "--live", "--config")

    assert [(disk.mode, disk.reason) for disk in shelf.plan(guest.uuid).disks] == [
        (Mode.INCREMENTAL, ""),
        (Mode.FULL, "disk was added"),
    ]
    shelf.backup(guest.uuid)
    assert [disk.mode for disk in shelf.plan(guest.uuid).disks] == [Mode.INCREMENTAL] * 2


def test_foreign_checkpoints_and_those_of_other_repositories_stay(guest: Guest, shelf: Shelf) -> None:
    for name in ("foreign", "vmconsole-ffffffff-run"):
        guest.virsh(
            "checkpoint-create", "/dev/stdin",
            stdin=f"<domaincheckpoint><name>{name}</name><disks><disk name='vda'/><disk name='vdb'/>"
            "<disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>",
        )  # fmt: skip
    shelf.backup(guest.uuid)
    shelf.backup(guest.uuid)

    assert set(guest.checkpoints()) == {"foreign", "vmconsole-ffffffff-run", shelf.points[0].disks[0].bitmap}
    assert shelf.points[0].mode is Mode.INCREMENTAL


def test_another_repository_starts_in_full_and_does_not_disturb(
    guest: Guest, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.backup(guest.uuid)
    other = Shelf(shelf.bench, tmp_path / "other", repository="f" * 64)

    assert other.plan(guest.uuid).mode is Mode.FULL
    other.backup(guest.uuid)

    assert shelf.plan(guest.uuid).mode is Mode.INCREMENTAL
    assert len(guest.checkpoints()) == 2


def test_a_checkpoint_made_anew_under_the_same_name_proves_nothing(guest: Guest, shelf: Shelf) -> None:
    point = shelf.backup(guest.uuid)
    name = only_our_checkpoint(guest, shelf)
    guest.virsh("checkpoint-delete", name)
    gone = shelf.plan(guest.uuid)
    assert gone.mode is Mode.FULL
    assert "gone" in gone.reason
    # libvirt's times have whole seconds.
    wait_for(lambda: int(lab_time(guest)) > point.facts["checkpoints"][name]["created"], "the next second", 5)
    guest.virsh(
        "checkpoint-create", "/dev/stdin",
        stdin=f"<domaincheckpoint><name>{name}</name><disks><disk name='vda'/><disk name='vdb'/>"
        "<disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>",
    )  # fmt: skip
    assert "not the one" in shelf.plan(guest.uuid).reason


def lab_time(guest: Guest) -> str:
    return guest.host.run(["date", "+%s"]).stdout


def test_after_qemu_was_killed_the_next_backup_is_full_and_the_one_after_incremental(
    make_guest: MakeGuest, shelf: Shelf, tmp_path: Path
) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB), DiskSpec("vdb", size=16 * MIB)])
    shelf.backup(guest.uuid)
    guest.poweroff()
    guest.start()
    assert shelf.plan(guest.uuid).mode is Mode.INCREMENTAL  # a clean restart keeps the bitmap
    shelf.backup(guest.uuid)

    guest.kill_qemu()
    guest.start()
    plan = shelf.plan(guest.uuid)
    assert plan.mode is Mode.FULL
    assert "bitmap is broken or missing" in plan.reason
    guest.pattern("vdb", MIB, MIB, seed=9)
    shelf.backup(guest.uuid)

    only_our_checkpoint(guest, shelf)
    assert shelf.plan(guest.uuid).mode is Mode.INCREMENTAL
    assert same(shelf, guest, "vdb", tmp_path)


def test_a_bitmap_missing_on_one_disk_makes_only_that_disk_full(make_guest: MakeGuest, shelf: Shelf) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB), DiskSpec("vdb", size=16 * MIB)])
    shelf.backup(guest.uuid)
    name = only_our_checkpoint(guest, shelf)
    guest.poweroff()
    guest.host.run(["qemu-img", "bitmap", "--remove", str(guest.images["vdb"]), name])
    guest.start()

    plan = shelf.plan(guest.uuid)
    assert [disk.mode for disk in plan.disks] == [Mode.INCREMENTAL, Mode.FULL]
    shelf.backup(guest.uuid)

    new = only_our_checkpoint(guest, shelf)
    assert new != name
    guest.poweroff()
    listed = guest.host.run(["qemu-img", "info", str(guest.images["vda"])]).stdout
    assert new in listed
    assert name not in listed  # no bitmap goes on recording for nobody


def test_a_guest_that_is_unknown_or_misnamed_is_said_to_be(shelf: Shelf) -> None:
    with pytest.raises(GuestNotFound):
        shelf.plan("00000000-0000-0000-0000-000000000000")
    with pytest.raises(GuestNotFound):
        shelf.plan("--all; reboot")


def test_an_iothread_disk_on_an_old_qemu_is_never_exported_over_nbd(
    make_guest: MakeGuest, shelf: Shelf
) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB, iothread=1)], iothreads=1)

    assert shelf.plan(guest.uuid).method == "push"
    shelf.settings = LibvirtSettings(scratch_min_free=10**15, method="pull")
    with pytest.raises(OutOfSpace):
        shelf.plan(guest.uuid)


# --- freezing ---


def test_a_hung_agent_costs_seconds_and_its_late_freeze_is_undone(
    make_guest: MakeGuest, shelf: Shelf
) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB, fs="ext4")])
    guest.agent_hang()

    point = shelf.backup(guest.uuid, agent_timeout=2)

    assert point.consistency is Consistency.CRASH
    assert any("could not be frozen" in warning for warning in point.warnings)
    entry = shelf.bench.journal.entry()
    assert entry.kind == journal.FREEZE_KIND
    with pytest.raises(HostError):
        shelf.host.clean(entry)
    guest.agent_wake()
    wait_for(guest.agent_answers, "the agent to wake", 30)
    assert "thawed" in shelf.host.clean(entry)
    assert not guest.frozen()


def test_a_guest_frozen_by_somebody_else_is_not_thawed(guest: Guest, shelf: Shelf) -> None:
    guest.virsh("domfsfreeze")
    try:
        point = shelf.backup(guest.uuid)
        assert point.consistency is Consistency.CRASH
        assert guest.frozen()
    finally:
        guest.virsh("domfsthaw")
    assert not shelf.bench.journal.entries


def test_a_freeze_beyond_its_budget_is_ended_by_the_host_and_labelled(
    make_guest: MakeGuest, shelf: Shelf
) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB, fs="ext4")], agent_program="fake,freeze-delay=3")

    point = shelf.backup(guest.uuid, freeze_budget=1, agent_timeout=8)

    assert point.consistency is Consistency.CRASH
    assert any("budget of 1 s" in warning for warning in point.warnings)
    assert not guest.frozen()


def test_a_paused_guest_is_cut_without_freezing(guest: Guest, shelf: Shelf, tmp_path: Path) -> None:
    guest.virsh("suspend")
    try:
        point = shelf.backup(guest.uuid)
        assert point.consistency is Consistency.CRASH
        assert point.freeze_ms is None
        assert guest.state() == "paused"
    finally:
        guest.virsh("resume")


def test_excluded_disks_are_left_out(guest: Guest, shelf: Shelf) -> None:
    point = shelf.backup(guest.uuid, exclude_disks=("vdb", "vdc"))
    assert [disk.id for disk in point.disks] == ["vda"]
    with pytest.raises(BackupFailed, match="no disk"):
        shelf.plan(guest.uuid, exclude_disks=("vda", "vdb", "vdc"))
