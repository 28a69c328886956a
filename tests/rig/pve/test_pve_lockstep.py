"""Full and incremental backups of machines that write all the time, by every way."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e_world import Ran, sha256
from lab.domain import MIB
from lab.images import pattern_bytes
from lab.lockstep import check_lockstep

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.ways import WAYS, Way, way
from pve.world import PveWorld

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]

BUDGET_MS = 10_000
"""The default."""
ZEROS = {"write": 0, "zeroout": 5 * MIB, "discard": 10 * MIB}
"""How 4 MiB of data become zeros, and where."""


@dataclass(frozen=True, slots=True)
class Bench:
    vm: PveGuest
    world: PveWorld
    way: Way


@pytest.fixture(scope="module", params=WAYS)
def bench(
    request: pytest.FixtureRequest, pve: PveCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    chosen = WAYS[request.param]
    disks = (
        PveDiskSpec("scsi0", size=32 * MIB, fs="ext4", iothread=chosen.iothread),
        PveDiskSpec("virtio1", size=32 * MIB, format="raw", iothread=chosen.iothread),
    )
    with way(pve, chosen, disks, tmp_path_factory.mktemp("lockstep")) as (vm, world):
        yield Bench(vm, world, chosen)


def part(image: Path, offset: int, length: int) -> bytes:
    with image.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def sound_file_system(image: Path) -> None:
    """Nothing to repair and no journal to replay, as after an unmount: it was frozen at the cut."""
    done = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "recover" not in (done.stdout + done.stderr).lower()


def goes(ran: Ran, chosen: Way) -> None:
    """It went this way and no other."""
    (planned,) = ran.events("guest_planned")
    assert planned["method"] == chosen.method
    if chosen.method == "transaction":
        assert ("space for whole disks is reserved" in planned["method_reason"]) == chosen.reserve


def test_full_and_increment_of_two_disks_in_lockstep_with_zeros_over_data(bench: Bench) -> None:
    vm, world = bench.vm, bench.world
    vm.pattern("virtio1", 0, 24 * MIB, 1)
    vm.lockstep_start("scsi0", "virtio1")
    try:
        before_full = vm.lockstep_step()
        full = world.backup(vm)
        for how, offset in ZEROS.items():
            vm.zero("virtio1", offset, 4 * MIB, how)
        vm.pattern("virtio1", MIB, 65536, 2)
        vm.pattern("virtio1", 20 * MIB, MIB, 3)
        vm.write_file("scsi0", "new.txt", b"after the full\n")
        before_increment = vm.lockstep_step()
        increment = world.backup(vm)
    finally:
        vm.lockstep_stop()

    assert [full.point["mode"], increment.point["mode"]] == ["full", "incremental"]
    for ran, at_least in ((full, before_full), (increment, before_increment)):
        goes(ran, bench.way)
        images = world.restore(ran.archive)
        check_lockstep([images["scsi0"], images["virtio1"]], at_least)
        sound_file_system(images["scsi0"])
        for disk, image in images.items():
            assert world.borg_sha256(ran.archive, disk) == sha256(image)
    expected = bytearray(pattern_bytes(0, 24 * MIB, 1))
    for offset in ZEROS.values():
        expected[offset : offset + 4 * MIB] = bytes(4 * MIB)
    expected[MIB : MIB + 65536] = pattern_bytes(MIB, 65536, 2)
    expected[20 * MIB : 21 * MIB] = pattern_bytes(20 * MIB, MIB, 3)
    assert part(images["virtio1"], 0, 24 * MIB) == expected
    world.borg_check("--verify-data")

    newest, oldest = world.points(vm)
    for point in (newest, oldest):
        assert point["consistency"] == "application"
        assert 0 < point["freeze_ms"] < BUDGET_MS
    assert MIB <= newest["bytes_read"] <= 1.1 * newest["bytes_dirty"]
    # Proxmox's bitmaps count in pieces of 4 MiB.
    assert newest["bytes_dirty"] <= 40 * MIB
    assert {disk["parent"] for disk in newest["disks"]} == {oldest["archive_id"]}
    assert vm.leftovers() == []
    assert world.journal() == []


def test_a_disk_that_grew_while_running(bench: Bench, tmp_path: Path) -> None:
    """Proxmox's bitmap does not follow a disk that grows, so that one is read whole; QEMU's own goes on."""
    vm, world = bench.vm, bench.world
    world.backup(vm)
    top = vm.top("virtio1")
    with vm.monitor() as qmp:
        qmp("block_resize", **{"node-name": top, "size": 40 * MIB})
    vm.pattern("virtio1", 34 * MIB, 2 * MIB, 4)
    increment = world.backup(vm)

    disks = {disk["id"]: disk for disk in world.newest(vm)["disks"]}
    assert disks["scsi0"]["mode"] == "incremental"
    assert disks["virtio1"]["mode"] == ("full" if bench.way.method == "access" else "incremental")
    assert disks["virtio1"]["size"] == 40 * MIB
    images = world.restore(increment.archive, "virtio1")
    assert part(images["virtio1"], 34 * MIB, 2 * MIB) == pattern_bytes(34 * MIB, 2 * MIB, 4)
    assert sha256(images["virtio1"]) == sha256(vm.raw_copy("virtio1", tmp_path / "now"))
    after = world.backup(vm)
    assert after.point["mode"] == "incremental"
    assert sha256(world.restore(after.archive, "virtio1")["virtio1"]) == sha256(images["virtio1"])
    assert vm.leftovers() == []
