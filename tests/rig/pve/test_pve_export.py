"""Exports over SSH of a guest that runs, freezes and writes, on a node with locks, storages and qmeventd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lab.domain import MIB
from lab.images import filesystem_problems, read_files
from lab.lockstep import check_lockstep
from lab.waiting import wait_for

from pve.access import host
from pve.bench import Clock, Journal, read
from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from vmconsole.errors import GuestBusy
from vmconsole.hypervisors.proxmox.host import ProxmoxHost
from vmconsole.interfaces import Cancel, Context, ExportOptions
from vmconsole.model.guest import HostKind
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint

REPOSITORY = "ab" * 32
DISKS = (
    PveDiskSpec("scsi0", size=24 * MIB, fs="ext4", content={"a.txt": b"hello"}, iothread=True),
    PveDiskSpec("virtio1", size=16 * MIB, format="raw", storage="fast"),
)
MACHINES: dict[str, dict[str, Any]] = {
    "pve9": {},
    "pve8.4": {"layout": "drive"},
    "pve9-older-machine": {"backup_access": False},
}


@dataclass
class Backups:
    """What a repository would hold."""

    product: ProxmoxHost
    journal: Journal = field(default_factory=Journal)
    points: list[RestorePoint] = field(default_factory=list)
    copies: dict[str, dict[str, bytearray]] = field(default_factory=dict)

    def context(self) -> Context:
        return Context(f"run{len(self.points):04}", lambda event: None, Cancel(), self.journal, Clock())

    def make(self, vm: PveGuest, meanwhile: Callable[[], None] = lambda: None) -> RestorePoint:
        plan = self.product.plan(vm.uuid, REPOSITORY, self.points, ExportOptions())
        export = self.product.export(plan, self.context())
        try:
            meanwhile()
            parent = self.copies.get(export.disks[0].plan.parent, {})
            copies = {disk.plan.id: read(disk, parent) for disk in export.disks}
            export.release()
        except BaseException:
            export.rollback()
            raise
        name = f"point-{len(self.points)}"
        self.copies[name] = copies
        disks = tuple(
            DiskPoint(
                id=disk.plan.id, path=f"disks/{disk.plan.id}", size=disk.plan.size, format=disk.plan.format,
                mode=disk.plan.mode, bitmap=disk.bitmap, process=disk.process,
            )
            for disk in export.disks
        )  # fmt: skip
        point = RestorePoint(
            archive=name, guest=vm.name, uuid=vm.uuid, host="pve", hypervisor=HostKind.PROXMOX.value,
            time=export.cut.time, consistency=export.cut.consistency, run=f"run{len(self.points):04}",
            facts=dict(export.cut.facts), disks=disks,
        )  # fmt: skip
        self.points.insert(0, point)
        export.advance()
        return point


@pytest.fixture
def backups(pve: PveCluster, tmp_path: Path) -> Iterator[Backups]:
    with host(pve, tmp_path) as product:
        yield Backups(product)


@pytest.mark.parametrize("machine", MACHINES)
def test_full_and_increment(
    pve: PveCluster, make_vm: Callable[..., PveGuest], backups: Backups, tmp_path: Path, machine: str
) -> None:
    vm = make_vm(DISKS, **MACHINES[machine])
    before = vm.raw_copy("virtio1", tmp_path / "before").read_bytes()
    first = backups.make(vm, meanwhile=lambda: vm.pattern("virtio1", 0, MIB, 1))
    assert bytes(backups.copies[first.archive]["virtio1"]) == before
    assert vm.leftovers() == []
    assert backups.journal.entries == {}
    assert pve.one.qmeventd.held() == set()
    after = vm.raw_copy("virtio1", tmp_path / "after").read_bytes()
    second = backups.make(vm)
    assert bytes(backups.copies[second.archive]["virtio1"]) == after
    assert {disk.mode for disk in second.disks} == {Mode.INCREMENTAL}
    assert second.consistency is Consistency.APPLICATION
    assert str(vm.vmid) in pve.one.qmeventd.history
    image = tmp_path / "scsi0"
    image.write_bytes(backups.copies[second.archive]["scsi0"])
    assert filesystem_problems(image) == ""
    assert read_files(image, ["a.txt"]) == {"a.txt": b"hello"}


def test_the_disks_are_cut_at_one_instant(
    make_vm: Callable[..., PveGuest], backups: Backups, tmp_path: Path
) -> None:
    vm = make_vm([PveDiskSpec("scsi0", size=16 * MIB), PveDiskSpec("scsi1", size=16 * MIB)])
    vm.lockstep_start("scsi0", "scsi1")
    point = backups.make(vm)
    images = []
    for key in ("scsi0", "scsi1"):
        images.append(tmp_path / key)
        images[-1].write_bytes(backups.copies[point.archive][key])
    check_lockstep(images)
    vm.lockstep_stop()


def test_a_locked_guest_is_refused_and_left_alone(
    pve: PveCluster, make_vm: Callable[..., PveGuest], backups: Backups
) -> None:
    vm = make_vm(DISKS)
    with pve.locked(vm.vmid):
        with pytest.raises(GuestBusy):
            backups.make(vm)
        assert vm.lock == "backup"
    assert vm.leftovers() == []


def test_one_that_is_off_is_read_under_its_lock(
    pve: PveCluster, make_vm: Callable[..., PveGuest], backups: Backups, tmp_path: Path
) -> None:
    vm = make_vm(DISKS, start=False)
    before = vm.raw_copy("virtio1", tmp_path / "before").read_bytes()

    def meanwhile() -> None:
        assert vm.lock == "backup"

    point = backups.make(vm, meanwhile)
    assert point.consistency is Consistency.OFFLINE
    assert bytes(backups.copies[point.archive]["virtio1"]) == before
    assert vm.leftovers() == []
    backups.product.close()
    wait_for(lambda: not pve.one.leftovers(), "watchers to end", 10)
