"""Exports of running guests from real QEMU, in both of Proxmox's layouts, by both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pve.bench import MIB, Bench
from pve.qemu import QEMU7, qemu10
from vmconsole.errors import VmconsoleError
from vmconsole.hypervisors.proxmox.facts import PveDisk
from vmconsole.model.point import Mode

pytestmark = pytest.mark.rig

WAYS = {
    "access": {"access": True},
    "reserved": {"access": False, "reserve": True},
    "filter": {"access": False, "reserve": False},
}
MACHINES = {
    "7.2-drive": {"layout": "drive", "program": QEMU7},
    "7.2-blockdev": {"layout": "blockdev", "program": QEMU7},
    "10-drive-iothread": {"layout": "drive", "iothread": True},
    "10-blockdev-iothread": {"layout": "blockdev", "iothread": True},
}


@pytest.fixture(params=[f"{way}+{machine}" for way in WAYS for machine in MACHINES])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    way, _, machine = request.param.partition("+")
    options = {"program": qemu10(), **MACHINES[machine]} if machine.startswith("10") else MACHINES[machine]
    with Bench(tmp_path, **WAYS[way], **options) as made:
        yield made


def test_full_increment_failure_increment(bench: Bench) -> None:
    """Also what changed before and during a failed run is in the next increment."""
    for key in bench.keys:
        bench.write(key, 1, 0, 256 << 10)
    bench.write("scsi0", 2, 20 * MIB, 3 * MIB)
    bench.write("virtio1", 2, 41 * MIB, MIB)

    first = bench.backup(meanwhile=lambda: bench.write("scsi0", 3, 20 * MIB, MIB))
    assert {disk.plan.mode for disk in first.disks} == {Mode.FULL}
    assert all(bench.same(key) for key in bench.keys)
    assert not bench.leftovers()

    bench.zero("scsi0", 21 * MIB, 64 << 10)
    bench.write("virtio1", 4, 8 * MIB, 64 << 10)
    second = bench.backup(meanwhile=lambda: bench.write("virtio1", 5, 30 * MIB, 64 << 10))
    assert {disk.plan.mode for disk in second.disks} == {Mode.INCREMENTAL}
    assert all(bench.same(key) for key in bench.keys)
    assert sum(disk.bytes_dirty for disk in second.disks) <= 16 * MIB

    bench.write("virtio1", 6, 50 * MIB, 64 << 10)
    with pytest.raises(VmconsoleError, match="archive"):
        bench.backup(commit=False, meanwhile=lambda: bench.write("scsi0", 7, 60 * MIB, 64 << 10))
    assert not bench.leftovers()

    bench.write("efidisk0", 8, 4096, 4096)
    last = bench.backup()
    assert {disk.plan.mode for disk in last.disks} == {Mode.INCREMENTAL}
    assert all(bench.same(key) for key in bench.keys)
    assert not bench.leftovers()
    assert not bench.journal.entries
    assert bench.qemu.alive()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", ["drive", "blockdev"])
def test_a_running_guest_runs_on(way: str, layout: str, tmp_path: Path) -> None:
    """It is paused for the cut at most, and goes on; what it wrote meanwhile is in the next increment."""
    with Bench(tmp_path, layout=layout, program=qemu10(), paused=False, **WAYS[way]) as bench:
        bench.backup(meanwhile=lambda: bench.write("scsi0", 5, 7 * MIB, MIB))
        assert bench.qemu.monitor("query-status")["status"] == "running"
        bench.backup()
        assert all(bench.same(key) for key in bench.keys)
        assert bench.qemu.monitor("query-status")["status"] == "running"
        assert not bench.leftovers()


@pytest.mark.parametrize("way", WAYS)
def test_the_state_of_a_tpm_is_read_beside_the_disks(way: str, tmp_path: Path) -> None:
    with Bench(tmp_path, layout="blockdev", program=qemu10(), keys=("scsi0",), **WAYS[way]) as bench:
        folder = bench.state / "storage/local/images" / str(bench.vmid)
        folder.mkdir(parents=True)
        (folder / "tpm.raw").write_bytes(b"\x07" * (4 * MIB))
        bench.loose = (
            PveDisk("tpmstate0", f"local:{bench.vmid}/tpm.raw", 4 * MIB, "raw", allocated=4 * MIB),
        )
        for _ in range(2):
            export = bench.backup()
            assert bytes(bench.copies[bench.points[0].archive]["tpmstate0"]) == b"\x07" * (4 * MIB)
            assert bench.same("scsi0")
        assert [disk.plan.mode for disk in export.disks] == [Mode.INCREMENTAL, Mode.FULL]
        assert not bench.leftovers()


@pytest.mark.parametrize("way", WAYS)
def test_many_disks_and_hostile_folders(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "a,b 'c\" $(id) =é"
    folder.mkdir()
    keys = ("scsi0", "scsi1", "virtio0", "virtio15", "sata0")
    with Bench(
        tmp_path, program=qemu10(), keys=keys, fleecing=str(folder), size=8 * MIB, **WAYS[way]
    ) as bench:
        for number, key in enumerate(keys):
            bench.write(key, number + 1, number * MIB, MIB)
        bench.backup(meanwhile=lambda: bench.write("sata0", 9, 0, 8 * MIB))
        assert all(bench.same(key) for key in keys)
        bench.backup()
        assert all(bench.same(key) for key in keys)
        assert not bench.leftovers()
