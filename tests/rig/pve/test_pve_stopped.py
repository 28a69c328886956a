"""Exports of guests that are off, and of templates, through qemu-nbd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pve.bench import MIB, Bench, read
from vmconsole.errors import GuestBusy
from vmconsole.hypervisors.proxmox.facts import PveGuest, StorageFacts
from vmconsole.hypervisors.proxmox.gather import Gathered
from vmconsole.hypervisors.proxmox.plan import make_plan
from vmconsole.hypervisors.proxmox.stopped import OfflineExport, open_offline_export
from vmconsole.interfaces import ExportOptions
from vmconsole.model.guest import GuestState
from vmconsole.model.point import Consistency

pytestmark = pytest.mark.rig


@pytest.fixture
def bench(tmp_path: Path):
    with Bench(tmp_path, keys=("scsi0", "virtio1")) as made:
        made.write("scsi0", 1, MIB, 2 * MIB)
        made.write("virtio1", 2, 0, MIB)
        made.truth = {key: made.content(key) for key in made.keys}
        yield made


def turn_off(bench: Bench) -> PveGuest:
    """Volumes as Proxmox has them on a storage of files."""
    guest = bench.guest()
    bench.qemu.stop()
    (bench.state / "status").write_text("stopped")
    folder = bench.state / "storage/local/images" / str(bench.vmid)
    folder.mkdir(parents=True)
    disks = []
    for disk, drive in zip(guest.disks, bench.qemu.drives, strict=True):
        (folder / drive.path.name).symlink_to(drive.path)
        volume = f"local:{bench.vmid}/{drive.path.name}"
        disks.append(replace(disk, volume=volume, device="", node="", top="", throttle=""))
    return replace(guest, state=GuestState.OFF, process="", qemu=None, disks=tuple(disks))


def open_export(bench: Bench, guest: PveGuest) -> OfflineExport:
    storages = {"local": StorageFacts("local", "dir", active=True)}
    plan = make_plan(Gathered(guest, storages, None), "pve", bench.settings, "5a" * 32, [], ExportOptions())
    assert plan.method == "offline"
    return open_offline_export(bench.nodes, bench.settings, plan, bench.context())


def test_a_guest_that_is_off_is_read_and_unlocked(bench: Bench) -> None:
    export = open_export(bench, turn_off(bench))
    assert (bench.state / f"{bench.vmid}.lock").read_text() == "backup\n"
    copies = {disk.plan.id: bytes(read(disk, {})) for disk in export.disks}
    export.release()
    export.advance()

    assert copies == bench.truth
    assert export.cut.consistency is Consistency.OFFLINE
    assert not (bench.state / f"{bench.vmid}.lock").exists()
    calls = (bench.state / "calls").read_text().splitlines()
    for disk in export.disks:
        assert calls.index(f"activate {disk.plan.source}") < calls.index(f"deactivate {disk.plan.source}")
    assert calls[-1] == f"qm unlock {bench.vmid}"
    assert not bench.journal.entries


def test_a_guest_that_was_started_meanwhile_is_not_stored(bench: Bench) -> None:
    export = open_export(bench, turn_off(bench))
    (bench.state / "status").write_text("running")
    with pytest.raises(GuestBusy, match="started"):
        export.release()
    export.rollback()
    assert not (bench.state / f"{bench.vmid}.lock").exists()
    assert not bench.journal.entries


def test_a_guest_that_is_locked_is_left_alone(bench: Bench) -> None:
    guest = turn_off(bench)
    (bench.state / f"{bench.vmid}.lock").write_text("backup\n")
    with pytest.raises(GuestBusy, match="VM is locked"):
        open_export(bench, guest)
    assert (bench.state / f"{bench.vmid}.lock").read_text() == "backup\n"
    assert not bench.journal.entries
