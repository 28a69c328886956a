"""Backups of guests that are off, on a real libvirt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.images import pattern_bytes
from lab.session import Lab
from libvirt_bench import REPOSITORY, Bench, Vault, block_disk, loop_device, make_plan_for

from vmconsole.errors import GuestBusy
from vmconsole.hypervisors.libvirt import jobxml, names
from vmconsole.hypervisors.libvirt.offline import OfflineExport, open_offline_export
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.interfaces import ExportPlan
from vmconsole.model.extent import Content
from vmconsole.model.point import Consistency, Mode

pytestmark = pytest.mark.rig

DISKS = (DiskSpec("vda"), DiskSpec("vdb", size=32 * MIB, format="raw"))
SEED = 11


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab.host)


def export(bench: Bench, plan: ExportPlan) -> OfflineExport:
    return open_offline_export(bench.virsh, LibvirtSettings(), plan, bench.context)


def begin_recording(guest: Guest, name: str) -> None:
    """As an online backup does at its cut."""
    guest.virsh("checkpoint-create", "/dev/stdin", stdin=jobxml.checkpoint(name, ["vda"]))


def same_as_image(vault: Vault, guest: Guest, tmp_path: Path) -> bool:
    archive = vault.points[0].archive
    return all(
        vault.disks[archive, disk] == guest.raw_copy(disk, tmp_path / disk).read_bytes()
        for disk in guest.images
    )


def test_full_then_increments_across_a_life_of_the_guest(
    make_guest: Callable[..., Guest], bench: Bench, tmp_path: Path
) -> None:
    """The base recorded before the offline full goes on recording; increments after it lose nothing."""
    guest = make_guest(disks=DISKS)
    checkpoint = names.checkpoint_name(REPOSITORY, "run-0")
    begin_recording(guest, checkpoint)
    guest.pattern("vda", 0, 3 * MIB, SEED)
    guest.pattern("vdb", MIB, MIB, SEED)
    guest.poweroff()
    vault = Vault()

    plan = make_plan_for(bench, guest.uuid, vault)
    assert (plan.method, plan.mode) == ("offline", Mode.FULL)
    point = vault.store(plan, export(bench, plan))

    assert point.consistency is Consistency.OFFLINE
    assert [disk.bitmap for disk in point.disks] == [checkpoint, ""]
    assert same_as_image(vault, guest, tmp_path)

    guest.start()
    guest.pattern("vda", 10 * MIB, MIB, SEED + 1)
    guest.zero("vda", MIB, MIB)
    guest.poweroff()
    plan = make_plan_for(bench, guest.uuid, vault)
    assert [disk.mode for disk in plan.disks] == [Mode.INCREMENTAL, Mode.FULL]
    second = export(bench, plan)
    extents = second.disks[0].extents()
    assert any(item.content is Content.CLEAN for item in extents)
    point = vault.store(plan, second)
    assert point.disks[0].bitmap == checkpoint
    assert point.disks[0].bytes_dirty < 8 * MIB
    assert same_as_image(vault, guest, tmp_path)

    # Nothing was changed on the host: the guest starts, and its bitmap is whole.
    guest.start()
    assert guest.checkpoints() == [checkpoint]
    assert 'size="' in guest.virsh("checkpoint-dumpxml", checkpoint, "--size").replace("'", '"')
    assert bench.journal.count == 0


def test_a_guest_that_starts_is_not_hindered_and_the_read_is_discarded(
    make_guest: Callable[..., Guest], bench: Bench
) -> None:
    guest = make_guest(disks=DISKS)
    checkpoint = names.checkpoint_name(REPOSITORY, "run-0")
    begin_recording(guest, checkpoint)
    guest.poweroff()
    vault = Vault()
    plan = make_plan_for(bench, guest.uuid, vault)
    reading = export(bench, plan)
    reading.check()
    reading.disks[0].extents()

    guest.start()

    with pytest.raises(GuestBusy, match="was started while it was read"):
        reading.check()
    with pytest.raises(GuestBusy):
        reading.release()
    reading.rollback()
    reading.rollback()
    # The start met no lock, so the bitmap survived it.
    assert 'size="' in guest.virsh("checkpoint-dumpxml", checkpoint, "--size").replace("'", '"')
    assert not [line for line in bench.host.processes().values() if "qemu-nbd" in line]


def test_a_guest_that_ran_in_between_is_noticed(make_guest: Callable[..., Guest], bench: Bench) -> None:
    """Off at the beginning, off at the end, and written to in the meantime."""
    guest = make_guest(disks=DISKS)
    guest.poweroff()
    vault = Vault()
    plan = make_plan_for(bench, guest.uuid, vault)
    reading = export(bench, plan)

    guest.start()
    guest.pattern("vdb", 0, MIB, SEED)
    guest.poweroff()

    with pytest.raises(GuestBusy):
        reading.release()
    reading.rollback()


def test_a_guest_that_started_after_planning_is_refused(
    make_guest: Callable[..., Guest], bench: Bench
) -> None:
    guest = make_guest(disks=DISKS, start=False)
    plan = make_plan_for(bench, guest.uuid, Vault())
    guest.start(wait=False)

    with pytest.raises(GuestBusy):
        export(bench, plan)
    assert not [line for line in bench.host.processes().values() if "qemu-nbd" in line]


def test_changes_recorded_in_two_layers_are_all_found(
    make_guest: Callable[..., Guest], bench: Bench, lab: Lab, tmp_path: Path
) -> None:
    """An external snapshot splits the bitmap: its older half stays in the backing file."""
    guest = make_guest(disks=DISKS[:1])
    checkpoint = names.checkpoint_name(REPOSITORY, "run-0")
    begin_recording(guest, checkpoint)
    guest.poweroff()
    vault = Vault()
    plan = make_plan_for(bench, guest.uuid, vault)
    vault.store(plan, export(bench, plan))
    guest.start()
    guest.pattern("vda", 5 * MIB, MIB, SEED)
    overlay = guest.folder / "overlay.qcow2"
    guest.virsh("snapshot-create-as", "--disk-only", "--no-metadata", "--diskspec", f"vda,file={overlay}")
    guest.pattern("vda", 7 * MIB, MIB, SEED)
    guest.poweroff()

    plan = make_plan_for(bench, guest.uuid, vault)
    vault.store(plan, export(bench, plan))

    guest.images["vda"] = overlay
    assert same_as_image(vault, guest, tmp_path)


@pytest.fixture
def device(lab: Lab) -> Iterator[str]:
    with loop_device(lab.folder("block")) as path:
        yield path


def test_a_block_device_is_read_and_a_write_to_it_noticed(
    make_guest: Callable[..., Guest], bench: Bench, device: str
) -> None:
    """The times of its node tell nothing; whoever writes to it is noticed all the same."""
    guest = make_guest(disks=DISKS[:1], devices_xml=block_disk("vdb", device), start=False)
    Path(device).write_bytes(pattern_bytes(0, MIB, SEED))
    vault = Vault()
    plan = make_plan_for(bench, guest.uuid, vault)
    vault.store(plan, export(bench, plan))
    assert saved(vault, "vdb") == pattern_bytes(0, MIB, SEED) + bytes(15 * MIB)

    reading = export(bench, plan)
    reading.check()
    with Path(device).open("r+b", buffering=0) as file:
        file.seek(4 * MIB)
        file.write(b"x" * 4096)
        os.fsync(file.fileno())
    with pytest.raises(GuestBusy):
        reading.release()
    reading.rollback()


def saved(vault: Vault, disk: str) -> bytes:
    return vault.disks[vault.points[0].archive, disk]
