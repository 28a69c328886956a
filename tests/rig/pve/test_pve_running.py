"""Exports of running guests from real QEMU, in both of Proxmox's layouts, by both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pve.bench import MIB, Bench
from pve.qemu import QEMU7, qemu10
from vmconsole.errors import VmconsoleError
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
