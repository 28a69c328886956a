"""Whole backups with the command line, into Borg, from a cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from lab.domain import MIB
from lab.waiting import wait_for

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.world import PveWorld

DISKS = (
    PveDiskSpec("scsi0", size=24 * MIB, fs="ext4", iothread=True),
    PveDiskSpec("virtio1", size=16 * MIB, format="raw", storage="fast"),
)


def test_full_increment_and_after_a_move(
    pve: PveCluster, pve_world: PveWorld, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    vm = make_vm(DISKS)
    vm.pattern("virtio1", 0, MIB, 1)
    first = pve_world.backup(vm)
    assert first.point["mode"] == "full"
    vm.pattern("virtio1", 8 * MIB, MIB, 2)
    now = hashlib.sha256(vm.raw_copy("virtio1", tmp_path / "now").read_bytes()).hexdigest()
    second = pve_world.backup(vm)
    assert second.point["mode"] == "incremental"
    assert pve_world.borg_sha256(second.archive, "virtio1") == now
    pve.migrate(vm, "pve2")
    third = pve_world.backup(vm)
    assert third.point["mode"] == "full"
    assert pve_world.borg_sha256(third.archive, "virtio1") == now
    assert vm.leftovers() == []
    wait_for(lambda: not [*pve.one.leftovers(), *pve.two.leftovers()], "the nodes to be as before", 10)
    assert pve_world.journal() == []
