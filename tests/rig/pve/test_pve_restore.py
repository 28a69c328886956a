"""Whole guests with the command line: from a cluster, through Borg, and back onto a node under a new name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_world import sha256
from lab.domain import MIB
from lab.waiting import wait_for

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from pve.world import PveWorld

DISKS = (
    PveDiskSpec("scsi0", size=24 * MIB, fs="ext4", iothread=True),
    PveDiskSpec("virtio1", size=16 * MIB, format="raw", storage="fast"),
)


def made(pve: PveCluster, before: set[int]) -> int:
    (vmid,) = pve.guests() - before
    return vmid


def test_a_machine_under_a_new_name(
    pve: PveCluster, pve_world: PveWorld, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    vm = make_vm(DISKS, more={"tags": "prod", "onboot": "1"})
    vm.pattern("virtio1", 3 * MIB, 2 * MIB, 1)
    archive = pve_world.backup(vm).archive
    files = pve_world.restore(archive)
    before = pve.guests()

    ran = pve_world.run(
        "restore", archive, "--host", "pve", "--as", "the copy", "--storage", "local", "--yes", expect=3
    )
    assert any("args" in warning for warning in ran.warnings)

    copy = pve.adopt(made(pve, before), DISKS)
    try:
        values = copy.conf.values
        assert values["name"] == "the-copy"
        assert "args" not in values
        assert "lock" not in values
        assert "onboot" not in values
        assert values["tags"] == "prod"
        assert "vmconsole" not in copy.conf.text
        assert values["smbios1"] != vm.conf.values["smbios1"]
        assert values["net0"].split(",")[0] != vm.conf.values["net0"].split(",")[0]
        for key, image in files.items():
            assert sha256(copy.raw_copy(key, tmp_path / f"{key}.check")) == sha256(image), key
        assert vm.state() == "running"
        assert pve_world.journal() == []
    finally:
        copy.remove()
    wait_for(lambda: not [*pve.one.leftovers(), *pve.two.leftovers()], "the nodes to be as before", 10)


def test_a_container_under_a_new_name(
    pve: PveCluster, pve_world: PveWorld, make_container: Callable[..., PveContainer]
) -> None:
    files = {"etc/hostname": b"dns\n", "srv/zeros": bytes(3 * MIB), "srv/data": bytes(range(256)) * 4096}
    container = make_container(files, name="dns", mounts={"/data": {"inside": b"mounted\n"}})
    archive = pve_world.run("backup", "pve/dns").archive
    before = pve.guests()

    pve_world.run("restore", archive, "--host", "pve", "--as", "dns2", "--yes", expect=(0, 3))

    copy = PveContainer(pve, made(pve, before))
    try:
        assert copy.conf.values["hostname"] == "dns2"
        assert copy.conf.values["unprivileged"] == "1"
        assert copy.files().items() >= container.files().items()
        assert copy.files("mp0") == {"inside": b"mounted\n"}
        assert pve_world.journal() == []
    finally:
        copy.remove()


@pytest.mark.parametrize("after", [0.0, 0.4])
def test_a_killed_restore_leaves_nothing(
    pve: PveCluster, pve_world: PveWorld, make_vm: Callable[..., PveGuest], after: float
) -> None:
    vm = make_vm([PveDiskSpec("scsi0", size=256 * MIB, format="raw")])
    for number in range(12):
        vm.pattern("scsi0", number * 16 * MIB, 12 * MIB, number)
    archive = pve_world.backup(vm).archive
    before = pve.guests()
    child = pve_world.start("restore", archive, "--host", "pve", "--as", "killed", "--yes")
    wait_for(lambda: pve.guests() - before, "the restore to begin", 60)
    time.sleep(after)
    child.kill()

    wait_for(lambda: not re.search("qmrestore", pve.one.ask("ps", "ax")), "qmrestore to give up", 30)
    pve_world.clean()
    assert pve.guests() == before
    assert pve_world.journal() == []
    wait_for(lambda: not [*pve.one.leftovers(), *pve.two.leftovers()], "the nodes to be as before", 10)
