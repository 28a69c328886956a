"""Guests with a disk in an iothread, which QEMU before 9.0 must not serve over NBD: push and snapshot."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.images import pattern_bytes
from lab.leftovers import host_leftovers
from lab.lockstep import check_lockstep
from lab.session import Lab
from lab.waiting import wait_for
from libvirt_bench import Bench, Vault, block_disk, loop_device, make_plan_for

from vmconsole.errors import Cancelled, HostError, OutOfSpace
from vmconsole.hypervisors.libvirt import overlay, push
from vmconsole.hypervisors.libvirt.clean import clean_export
from vmconsole.hypervisors.libvirt.host import METHODS
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.served.qemunbd import Image, serve, write_options
from vmconsole.interfaces import Export, ExportPlan
from vmconsole.model.extent import Content
from vmconsole.model.point import Consistency, Mode

pytestmark = pytest.mark.rig

BOTH = pytest.mark.parametrize("method", ["push", "snapshot"])
DISKS = (
    DiskSpec("vda", fs="ext4", iothread=1),
    DiskSpec("vdb", iothread=1),
    DiskSpec("vdc", size=32 * MIB, format="raw"),
)
ONE = (DiskSpec("vda", iothread=1),)


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab.host)


def open_export(bench: Bench, plan: ExportPlan) -> Export:
    return METHODS[plan.method](bench.virsh, LibvirtSettings(), plan, bench.context)


def saved(vault: Vault, disk: str) -> bytes:
    return vault.disks[vault.points[0].archive, disk]


def leftovers(guest: Guest) -> list[str]:
    """Files of ours beside the images, servers, jobs."""
    assert guest.folder is not None
    files = [file.name for file in guest.folder.iterdir() if "vmconsole" in file.name]
    servers = [line for line in guest.host.processes().values() if "qemu-nbd" in line]
    return [*files, *servers, *([guest.job()] if guest.job() else [])]


def sources(guest: Guest) -> list[str]:
    return [element.get("file", "") for element in guest.xml().iterfind("devices/disk/source")]


@BOTH
def test_full_and_increments_of_one_instant(
    make_guest: Callable[..., Guest], bench: Bench, tmp_path: Path, method: str
) -> None:
    """The guest writes all the time; every point holds one instant of all disks, and zeros over data."""
    guest = make_guest(disks=DISKS, iothreads=1)
    guest.pattern("vdb", 0, 4 * MIB, seed=1)
    guest.pattern("vdc", 0, 4 * MIB, seed=1)
    guest.lockstep_start("vda", "vdb", "vdc")
    vault = Vault()
    steps = 0
    for number, mode in enumerate((Mode.FULL, Mode.INCREMENTAL, Mode.INCREMENTAL)):
        bench.run = f"run-{number}"
        if number == 1:
            guest.zero("vdb", MIB, MIB)
            guest.zero("vdb", 2 * MIB, MIB, how="discard")
            guest.zero("vdb", 3 * MIB, 65536, how="zeroout")
        if number == 2:
            guest.pattern("vdb", MIB, 65536, seed=2)
        plan = make_plan_for(bench, guest.uuid, vault, method=method)
        assert plan.mode is mode
        steps = guest.lockstep_step()
        export = open_export(bench, plan)
        assert export.cut.consistency is Consistency.APPLICATION
        if mode is Mode.INCREMENTAL:
            kinds = {extent.content for extent in export.disks[1].extents()}
            assert Content.CLEAN in kinds
        before = guest.lockstep_step()
        point = vault.store(plan, export)

        images = []
        for disk in DISKS:
            images.append(tmp_path / disk.id)
            images[-1].write_bytes(saved(vault, disk.id))
        check_lockstep(images, at_least=steps)
        # The guest wrote on while it was read.
        assert guest.lockstep_step() > before
        assert leftovers(guest) == []
        assert sources(guest) == [str(guest.images[disk.id]) for disk in DISKS]
        assert guest.checkpoints() == [point.disks[0].bitmap]
        assert not bench.journal.entries
    guest.lockstep_stop()

    bench.run = "run-last"
    plan = make_plan_for(bench, guest.uuid, vault, method=method)
    vault.store(plan, open_export(bench, plan))
    guest.agent("guest-ping")
    guest.poweroff()
    for disk in ("vdb", "vdc"):
        assert saved(vault, disk) == guest.raw_copy(disk, tmp_path / "now").read_bytes()
    assert saved(vault, "vdb")[2 * MIB : 3 * MIB] == bytes(MIB)


@BOTH
def test_a_rollback_leaves_the_host_as_it_was(
    make_guest: Callable[..., Guest], bench: Bench, tmp_path: Path, method: str
) -> None:
    guest = make_guest(disks=DISKS, iothreads=1)
    vault = Vault()
    plan = make_plan_for(bench, guest.uuid, vault, method=method)
    vault.store(plan, open_export(bench, plan))
    kept = guest.checkpoints()
    guest.pattern("vdb", 0, MIB, seed=3)

    bench.run = "run-2"
    plan = make_plan_for(bench, guest.uuid, vault, method=method)
    export = open_export(bench, plan)
    vault.read(plan, export)
    guest.pattern("vdb", 8 * MIB, MIB, seed=4)
    export.rollback()
    export.rollback()

    assert leftovers(guest) == []
    assert guest.checkpoints() == kept
    assert sources(guest) == [str(guest.images[disk.id]) for disk in DISKS]
    assert not bench.journal.entries

    # Nothing that was written meanwhile is lost to the next increment.
    bench.run = "run-3"
    plan = make_plan_for(bench, guest.uuid, vault, method=method)
    assert plan.mode is Mode.INCREMENTAL
    vault.store(plan, open_export(bench, plan))
    guest.poweroff()
    assert saved(vault, "vdb") == guest.raw_copy("vdb", tmp_path / "now").read_bytes()


# --- crash safety of the snapshot method: the guest's last writes are in our overlay ---


def hold_an_export(bench: Bench, plan: ExportPlan, pipe: Any) -> None:
    """In a process of its own: open an export, say so, wait to be killed."""
    open_export(bench, plan)
    pipe.send(bench.journal.entries)
    signal.pause()


def open_and_die(bench: Bench, plan: ExportPlan, meanwhile: Callable[[], None] = lambda: None) -> None:
    """A process opens the export and is killed after `meanwhile`; its journal stays, as a database would."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold_an_export, args=(bench, plan, theirs))
    process.start()
    try:
        assert ours.poll(60)
        bench.journal.entries.update(ours.recv())
        meanwhile()
    finally:
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        ours.close()
        theirs.close()


def kill_helpers(guest: Guest) -> None:
    """Everything of ours that runs on the host, as a crash of the host would."""
    for pid in guest.host.run(["pgrep", "-f", "vmconsole-guard hold|qemu-nbd"]).stdout.split():
        guest.host.run(["kill", "-9", pid], check=False)


@pytest.fixture
def stranded(make_guest: Callable[..., Guest], bench: Bench) -> SimpleNamespace:
    """A guest with one good point, and a plan for the next by snapshot."""
    guest = make_guest(disks=DISKS[:2], iothreads=1)
    vault = Vault()
    plan = make_plan_for(bench, guest.uuid, vault, method="snapshot")
    vault.store(plan, open_export(bench, plan))
    guest.pattern("vdb", 0, MIB, seed=3)
    bench.run = "run-dead"
    plan = make_plan_for(bench, guest.uuid, vault, method="snapshot")
    base = guest.checkpoints()
    originals = sources(guest)
    return SimpleNamespace(guest=guest, vault=vault, plan=plan, base=base, originals=originals)


def next_increment_is_right(bench: Bench, guest: Guest, vault: Vault, tmp_path: Path) -> None:
    bench.run = "run-next"
    plan = make_plan_for(
        bench, guest.uuid, vault, method="snapshot" if guest.state() == "running" else "auto"
    )
    assert plan.mode is Mode.INCREMENTAL
    vault.store(plan, open_export(bench, plan))
    # The guest goes on writing to the file system on vda as long as it runs.
    for disk in ("vda", "vdb") if plan.method == "offline" else ("vdb",):
        assert saved(vault, disk) == guest.raw_copy(disk, tmp_path / "now").read_bytes()


def settled(guest: Guest, originals: list[str]) -> bool:
    return sources(guest) == originals and not leftovers(guest)


def test_the_host_merges_by_itself_when_vmconsole_is_killed(
    stranded: SimpleNamespace, bench: Bench, tmp_path: Path
) -> None:
    guest = stranded.guest

    open_and_die(bench, stranded.plan, lambda: guest.pattern("vdb", 8 * MIB, MIB, seed=4))

    wait_for(lambda: settled(guest, stranded.originals), "the host to merge the overlays", 60)
    wait_for(lambda: guest.checkpoints() == stranded.base, "the new checkpoint to go", 30)
    assert "Cleaned up" in clean_export(bench.machine, bench.journal.entry())
    guest.agent("guest-ping")
    next_increment_is_right(bench, guest, stranded.vault, tmp_path)


def die_with_everything(stranded: SimpleNamespace, bench: Bench) -> None:
    """Nothing of ours is alive, the guest works on our overlays and has written to them."""
    guest = stranded.guest

    def meanwhile() -> None:
        guest.pattern("vdb", 8 * MIB, MIB, seed=4)
        kill_helpers(guest)

    open_and_die(bench, stranded.plan, meanwhile)
    assert all("vmconsole" in path for path in sources(guest))


def test_cleaning_up_merges_what_a_running_guest_wrote(
    stranded: SimpleNamespace, bench: Bench, tmp_path: Path
) -> None:
    guest = stranded.guest
    die_with_everything(stranded, bench)

    clean_export(bench.machine, bench.journal.entry())
    assert settled(guest, stranded.originals)
    assert not [line for line in host_leftovers(guest.host) if line.startswith("file")]
    assert guest.checkpoints() == stranded.base
    clean_export(bench.machine, bench.journal.entry())

    next_increment_is_right(bench, guest, stranded.vault, tmp_path)


def test_cleaning_up_merges_what_a_guest_wrote_that_is_off_now(
    stranded: SimpleNamespace, bench: Bench, tmp_path: Path
) -> None:
    """Also what its bitmaps recorded: an increment of the switched-off guest is right."""
    guest = stranded.guest
    die_with_everything(stranded, bench)
    guest.poweroff()

    clean_export(bench.machine, bench.journal.entry())

    assert settled(guest, stranded.originals)
    next_increment_is_right(bench, guest, stranded.vault, tmp_path)
    guest.start()
    assert guest.sh("labtool pattern /dev/vdb 0 4096 9") is not None


def test_after_a_crash_of_qemu_the_bitmap_is_not_trusted(
    stranded: SimpleNamespace, bench: Bench, tmp_path: Path
) -> None:
    """The overlay's bitmaps are broken then; the base's would look whole and lack what they held."""
    guest, vault = stranded.guest, stranded.vault
    die_with_everything(stranded, bench)
    guest.sync()
    guest.kill_qemu()

    clean_export(bench.machine, bench.journal.entry())

    assert settled(guest, stranded.originals)
    plan = make_plan_for(bench, guest.uuid, vault)
    assert [disk.mode for disk in plan.disks] == [Mode.FULL, Mode.FULL]
    vault.store(plan, open_export(bench, plan))
    assert saved(vault, "vdb") == guest.raw_copy("vdb", tmp_path / "now").read_bytes()
    assert saved(vault, "vdb")[8 * MIB : 9 * MIB] == pattern_bytes(8 * MIB, MIB, 4)


def test_an_overlay_below_the_users_own_snapshot_is_merged_without_touching_that(
    stranded: SimpleNamespace, bench: Bench, tmp_path: Path
) -> None:
    guest = stranded.guest
    die_with_everything(stranded, bench)
    users = [f"{disk},file={guest.folder}/users-{disk}.qcow2" for disk in ("vda", "vdb")]
    guest.virsh(
        "snapshot-create-as", "--disk-only", "--no-metadata", "--diskspec", users[0], "--diskspec", users[1]
    )
    guest.pattern("vdb", 9 * MIB, MIB, seed=5)

    clean_export(bench.machine, bench.journal.entry())

    assert sources(guest) == [f"{guest.folder}/users-vda.qcow2", f"{guest.folder}/users-vdb.qcow2"]
    assert leftovers(guest) == []
    guest.poweroff()
    whole = tmp_path / "whole"
    guest.images["vdb"] = guest.folder / "users-vdb.qcow2"
    data = guest.raw_copy("vdb", whole).read_bytes()
    assert data[8 * MIB : 9 * MIB] == pattern_bytes(8 * MIB, MIB, 4)
    assert data[9 * MIB : 10 * MIB] == pattern_bytes(9 * MIB, MIB, 5)


def test_the_overlay_of_a_guest_that_is_gone_is_named_and_kept(
    stranded: SimpleNamespace, bench: Bench
) -> None:
    guest = stranded.guest
    die_with_everything(stranded, bench)
    overlays = [Path(path) for path in sources(guest)]
    guest.destroy()
    guest.virsh("undefine", "--checkpoints-metadata")

    said = clean_export(bench.machine, bench.journal.entry())

    assert str(overlays[0]) in said
    assert all(path.exists() for path in overlays)


def test_a_guest_switched_off_during_the_read_is_merged_by_the_run_itself(
    stranded: SimpleNamespace, bench: Bench, tmp_path: Path
) -> None:
    guest = stranded.guest
    export = open_export(bench, stranded.plan)
    guest.pattern("vdb", 8 * MIB, MIB, seed=4)
    guest.poweroff()

    export.rollback()

    assert settled(guest, stranded.originals)
    assert not bench.journal.entries
    next_increment_is_right(bench, guest, stranded.vault, tmp_path)


# --- cancelling and space ---


def test_cancelling_while_qemu_copies_leaves_nothing(
    make_guest: Callable[..., Guest], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = make_guest(disks=ONE, iothreads=1)
    plan = make_plan_for(bench, guest.uuid, Vault(), method="push")
    monkeypatch.setattr(push, "job_info", lambda text: bench.cancel.set() or {"Job type": "Unbounded"})

    with pytest.raises(Cancelled):
        open_export(bench, plan)

    assert leftovers(guest) == []
    assert guest.checkpoints() == []
    assert not bench.journal.entries


def test_a_copy_that_does_not_fit_is_given_up_and_the_guest_goes_on(lab: Lab, bench: Bench) -> None:
    small = lab.folder("small-scratch")
    lab.host.tmpfs(small, 6)
    with lab.guest(disks=ONE, iothreads=1) as guest:
        guest.pattern("vda", 0, 16 * MIB, seed=1)
        plan = make_plan_for(bench, guest.uuid, Vault(), method="push")
        plan = replace(plan, facts=replace(plan.facts, scratch=str(small)))

        with pytest.raises(OutOfSpace):
            METHODS["push"](bench.virsh, LibvirtSettings(scratch_min_free=0), plan, bench.context)

        assert not list(lab.host.path(small).iterdir())
        assert leftovers(guest) == []
        assert guest.state() == "running"
        assert guest.checkpoints() == []
        guest.pattern("vda", 0, MIB, seed=2)


def test_overlays_are_never_put_into_memory(lab: Lab, make_guest: Callable[..., Guest], bench: Bench) -> None:
    memory = lab.folder("memory")
    lab.host.tmpfs(memory, 64)
    guest = make_guest(disks=ONE, iothreads=1)
    plan = make_plan_for(bench, guest.uuid, Vault(), method="snapshot")
    plan = replace(plan, facts=replace(plan.facts, scratch=str(memory)))

    export = open_export(bench, plan)
    try:
        assert not list(lab.host.path(memory).iterdir())
        assert all(path.startswith(str(guest.folder)) for path in sources(guest))
    finally:
        export.rollback()


def test_a_block_device_gets_an_overlay_and_is_merged_back(
    lab: Lab, make_guest: Callable[..., Guest], bench: Bench
) -> None:
    with loop_device(lab.folder("block")) as device:
        guest = make_guest(disks=ONE, iothreads=1, devices_xml=block_disk("vdb", device))
        guest.pattern("vdb", 0, MIB, seed=1)
        vault = Vault()
        plan = make_plan_for(bench, guest.uuid, vault, method="snapshot")
        export = open_export(bench, plan)
        guest.pattern("vdb", MIB, MIB, seed=2)
        vault.store(plan, export)

        assert saved(vault, "vdb")[: 2 * MIB] == pattern_bytes(0, MIB, 1) + bytes(MIB)
        disk = guest.xml("--inactive").find("devices/disk/target[@dev='vdb']/..")
        assert disk is not None
        assert (disk.get("type"), disk.find("source").get("dev")) == ("block", device)  # type: ignore[union-attr]
        assert disk.find("driver").get("type") == "raw"  # type: ignore[union-attr]
        guest.poweroff()
        assert Path(device).read_bytes()[: 2 * MIB] == pattern_bytes(0, MIB, 1) + pattern_bytes(MIB, MIB, 2)
        assert leftovers(guest) == []
        guest.remove()


def test_overlays_that_fill_their_folder_end_the_backup_and_are_merged(
    make_guest: Callable[..., Guest], bench: Bench, tmp_path: Path
) -> None:
    guest = make_guest(disks=ONE, iothreads=1)
    guest.pattern("vda", 0, MIB, seed=1)
    plan = make_plan_for(bench, guest.uuid, Vault(), method="snapshot")
    no_room = LibvirtSettings(scratch_min_free=2**60)
    export = METHODS["snapshot"](bench.virsh, no_room, plan, bench.context)
    guest.pattern("vda", 0, MIB, seed=2)

    with pytest.raises(OutOfSpace):
        wait_for(lambda: export.check(), "the guard to say that the folder is full", 30)
    with pytest.raises(OutOfSpace):
        export.release()
    export.rollback()

    assert settled(guest, [str(guest.images["vda"])])
    assert guest.checkpoints() == []
    assert not bench.journal.entries
    assert guest.raw_copy("vda", tmp_path / "now").read_bytes()[:MIB] == pattern_bytes(0, MIB, 2)


def test_an_overlay_that_a_qemu_has_open_is_never_removed(
    make_guest: Callable[..., Guest], bench: Bench, lab: Lab
) -> None:
    """Though no definition names it: libvirt may be in the middle of making the snapshot."""
    guest = make_guest(disks=ONE, iothreads=1)
    file = lab.folder("open") / "vmconsole-open.overlay"
    bench.host.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), "1M"])
    below = overlay.Overlay("vda", str(file), str(guest.images["vda"]), "qcow2", "file", "<source></source>")
    servers = serve(bench.machine, [Image("vda", write_options(str(file), "qcow2"), writable=True)])

    with pytest.raises(HostError, match="being put in place"):
        overlay.merge(bench.virsh, guest.uuid, guest.name, [below])
    assert file.exists()

    servers.stop()
    overlay.merge(bench.virsh, guest.uuid, guest.name, [below])
    assert not list(file.parent.iterdir())
