"""From a cluster to a libvirt host and back, with the command line and through one repository."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_world import _table, sha256
from lab.access import SshAccess, ssh_access
from lab.domain import MIB
from lab.session import Lab

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.world import PveWorld


class BothWorld(PveWorld):
    """hosts.kvm is a lab host beside the cluster."""

    def __init__(self, folder: Path, cluster: PveCluster, access: SshAccess) -> None:
        self.kvm = access
        super().__init__(folder, cluster)

    def configure(self) -> None:
        super().configure()
        more = {
            "kind": "libvirt",
            "address": self.kvm.sshd.address,
            "identity_files": [str(self.kvm.sshd.client_key_path)],
            "known_hosts": str(self.kvm.settings.known_hosts),
            "ssh_config": "ssh_config",
            "scratch_reserve": "64 MiB",
        }
        with self.config.open("a") as file:
            file.write("\n" + _table("hosts.kvm", more))


@pytest.fixture
def both(lab: Lab, pve: PveCluster, tmp_path: Path) -> Iterator[BothWorld]:
    with (
        ssh_access(lab.host, lab.folder("across-ssh"), {}) as access,
        BothWorld(tmp_path / "world", pve, access) as world,
    ):
        yield world


def test_there_and_back(
    lab: Lab, pve: PveCluster, both: BothWorld, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    disks = (
        PveDiskSpec("scsi0", size=24 * MIB, fs="ext4", iothread=True),
        PveDiskSpec("virtio1", size=16 * MIB, format="raw", storage="fast"),
    )
    vm = make_vm(disks, more={"kvm": "0"})
    vm.pattern("virtio1", 3 * MIB, 2 * MIB, 1)
    archive = both.backup(vm).archive
    files = both.restore(archive)
    place = lab.folder(f"across-{os.urandom(4).hex()}")

    there = both.run(
        "restore", archive, "--host", "kvm", "--as", "moved", "--storage", str(place), "--yes", expect=3
    )
    assert any("args" in warning for warning in there.warnings)
    moved = lab.adopt(next(uuid for uuid, name in lab.host.domains().items() if name == "moved"))
    try:
        names = {disk.get("dev"): disk.get("bus") for disk in moved.xml().iterfind("devices/disk/target")}
        assert names == {"sda": "scsi", "vdb": "virtio"}
        second = both.run("backup", "kvm/moved", expect=(0, 3)).archive
    finally:
        moved.remove()
    again = both.restore(second)
    assert {sha256(again["sda"]), sha256(again["vdb"])} == {sha256(path) for path in files.values()}

    before = pve.guests()
    both.run("restore", second, "--host", "pve", "--as", "home", "--storage", "fast", "--yes", expect=(0, 3))
    (vmid,) = pve.guests() - before
    home = pve.adopt(vmid)
    try:
        assert home.conf.values["scsihw"].startswith("virtio-scsi")
        for key in ("scsi0", "virtio1"):
            copy = home.raw_copy(key, tmp_path / f"{key}.check")
            assert sha256(copy) == sha256(files[key]), key
    finally:
        home.remove()
    assert both.journal() == []
