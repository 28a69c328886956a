"""How nodes and machines are doing: real files, a real QEMU and its monitor, and nodes that fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxmox_fake import FakeCluster, FakeNode, status, unreachable
from qemu_process import PROGRAM, Qemu
from test_proxmox_gather import CONF, UUID
from test_proxmox_guestconf import DNS

from vmconsole.errors import HostUnreachable
from vmconsole.hypervisors.proxmox import vitals
from vmconsole.hypervisors.proxmox.identity import identify_found
from vmconsole.hypervisors.proxmox.look import look
from vmconsole.hypervisors.proxmox.vitals import FIND_AGAIN, VitalsLook, writes
from vmconsole.model.guest import HostLoad
from vmconsole.model.vitals import Vitals, WriteCounters

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")
needs_qemu = pytest.mark.skipif(PROGRAM is None, reason="QEMU is not installed")

IDLE = HostLoad(0.5, 0.25, 0.0)


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    """Machine 100 on pve1, which is asked; container 101 on pve2."""
    made = FakeCluster(tmp_path)
    made.main.write("/etc/pve/nodes/pve1/qemu-server/100.conf", CONF)
    made.main.write("/etc/pve/nodes/pve2/lxc/101.conf", DNS)
    for what, value in (("cpu", "50.00"), ("io", "25.00"), ("memory", "0.00")):
        made.main.write(f"/proc/pressure/{what}", f"some avg10={value} avg60=0.00 avg300=0.00 total=0\n")
    made.main.api = {"/cluster/status": status("pve1", "pve2")}
    return made


@pytest.fixture
def qemu(cluster: FakeCluster) -> Iterator[Qemu]:
    """Machine 100 runs, and has a fleecing image beside its disk."""
    disk, fleecing = cluster.main.write("/disk", b""), cluster.main.write("/fleecing", b"")
    for image in (disk, fleecing):
        with image.open("wb") as file:
            file.truncate(8 << 20)
    run = cluster.folder / "var/run/qemu-server"
    with Qemu(
        run,
        "-machine", "type=pc,accel=tcg",
        "-pidfile", str(run / "100.pid"),
        "-device", "virtio-scsi-pci,id=scsihw0",
        "-drive", f"file={disk},if=none,id=drive-scsi0,format=raw",
        "-drive", f"file={fleecing},if=none,id=drive-scsi0-fleecing,format=raw",
        "-device", "scsi-hd,bus=scsihw0.0,drive=drive-scsi0,id=scsi0",
    ) as process:  # fmt: skip
        yield process


@needs_qemu
def test_a_running_machine_is_asked_in_its_monitor(cluster: FakeCluster, qemu: Qemu) -> None:
    look_for = VitalsLook(cluster.nodes)
    found = look_for.take([UUID])
    assert found == Vitals(IDLE, {UUID: WriteCounters(0, 0.0)})
    before = len(cluster.main.commands)
    assert look_for.take([UUID]) == found
    assert len(cluster.main.commands) == before + 1, "where it is, is known: one command, one session"


@needs_qemu
def test_a_monitor_that_is_held_is_left_alone(
    cluster: FakeCluster, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "SESSION", 0.1)
    with cluster.main.open_unix("/var/run/qemu-server/100.qmp") as held:  # type: ignore[attr-defined]
        assert held.recv(10)
        assert VitalsLook(cluster.nodes).take([UUID]) == Vitals(IDLE)
    assert VitalsLook(cluster.nodes).take([UUID]).writes


def test_a_machine_that_is_off_is_not_looked_for_each_time(cluster: FakeCluster) -> None:
    now = [1000.0]
    look_for = VitalsLook(cluster.nodes, lambda: now[0])
    assert look_for.take([UUID]) == Vitals(IDLE)
    before = len(cluster.main.commands)
    assert look_for.take([UUID]) == Vitals(IDLE)
    assert len(cluster.main.commands) == before + 1
    now[0] += FIND_AGAIN
    look_for.take([UUID])
    assert len(cluster.main.commands) == before + 3


def test_of_containers_only_their_node_s_load_is_told(cluster: FakeCluster) -> None:
    second = cluster.machines["pve2"] = FakeNode(cluster.folder, "pve/pve2", cluster.main.api)
    places = identify_found(
        look(cluster.main, vitals.QUESTIONS),
        "shop",
    )
    (uuid,) = [found.uuid for place, found in places.items() if place.vmid == 101]
    assert VitalsLook(cluster.nodes).take([uuid]) == Vitals(IDLE)
    assert second.commands


def test_nobody_in_particular(cluster: FakeCluster) -> None:
    assert VitalsLook(cluster.nodes).take([]) == Vitals(IDLE)
    assert VitalsLook(cluster.nodes).take(["00000000-0000-4000-8000-000000000009"]) == Vitals(IDLE)


def test_a_node_that_went_away(cluster: FakeCluster) -> None:
    look_for = VitalsLook(cluster.nodes)
    cluster.main.down = unreachable()
    with pytest.raises(HostUnreachable):
        look_for.take([UUID])
    cluster.main.down = None
    assert look_for.take([UUID]) == Vitals(IDLE)


def test_what_qemu_says_of_its_disks() -> None:
    stats = {
        "wr_operations": 3,
        "wr_total_time_ns": 10**9,
        "flush_operations": 1,
        "flush_total_time_ns": 10**9,
    }
    disk = {"device": "drive-scsi0", "qdev": "scsi0", "stats": stats}
    assert writes([disk, disk]) == WriteCounters(8, 4.0)
    assert writes([disk, {**disk, "qdev": ""}, {**disk, "stats": {}}, "nonsense"]) == WriteCounters(4, 2.0)
    for nothing in (None, [], {}, [{}], [{"qdev": "scsi0", "stats": None}]):
        assert writes(nothing) is None
