"""Facts about one guest from the node it is on now: real files, a real QEMU, and pvesh from a table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from proxmox_fake import FakeCluster, FakeNode, status, unreachable
from proxmox_samples import GIB, LVMTHIN, SCSI0, TPM
from qemu_process import PROGRAM, Qemu
from test_proxmox_guestconf import DNS, WEB

from vmconsole.errors import (
    CommandFailed,
    GuestBusy,
    GuestNotFound,
    HostError,
    HostUnreachable,
    NotPermitted,
)
from vmconsole.hypervisors.proxmox.facts import FleecingPlace, StorageFacts
from vmconsole.hypervisors.proxmox.gather import Gathered, choose_fleecing, gather
from vmconsole.hypervisors.proxmox.guestconf import digest
from vmconsole.hypervisors.proxmox.look import Found
from vmconsole.hypervisors.proxmox.plan import make_plan
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.interfaces import ExportOptions
from vmconsole.model.guest import GuestKind, GuestState
from vmconsole.remote.machine import Completed

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")
needs_qemu = pytest.mark.skipif(PROGRAM is None, reason="QEMU is not installed")

UUID = "8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01"
CONF = """\
agent: 1
name: web
scsi0: local-lvm:vm-100-disk-0,size=8M
scsihw: virtio-scsi-pci
ide2: none,media=cdrom
smbios1: uuid=8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01
tpmstate0: local-lvm:vm-100-disk-1,size=4M
unused0: local-lvm:vm-100-disk-7
"""
STORAGES = [
    {"storage": "local-lvm", "type": "lvmthin", "active": 1, "enabled": 1, "shared": 0,
     "content": "rootdir,images", "avail": str(50 * GIB), "total": 100 * GIB, "used": 50 * GIB},
    {"storage": "nas", "type": "nfs", "active": 0, "enabled": 1, "shared": 1, "content": "images"},
]  # fmt: skip
CONTENT = [
    {"volid": "local-lvm:vm-100-disk-0", "size": 8 << 20, "used": 3 << 20, "format": "raw", "vmid": 100},
    {"volid": "local-lvm:vm-100-disk-1", "size": "4194304", "format": "raw", "vmid": "100"},
]


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    """Guest 100, off, on pve1, which is asked; container 101 on pve2."""
    made = FakeCluster(tmp_path)
    made.main.write("/etc/pve/nodes/pve1/qemu-server/100.conf", CONF)
    made.main.write("/etc/pve/nodes/pve2/lxc/101.conf", DNS)
    made.main.write("/etc/pve/firewall/100.fw", "[OPTIONS]\nenable: 1\n")
    made.main.write("/proc/sys/kernel/random/boot_id", "boot-1\n")
    made.main.api = {
        "/cluster/status": status("pve1", "pve2", "pve3", offline=("pve3",)),
        "/nodes/pve1/storage": STORAGES,
        "/nodes/pve2/storage": STORAGES,
        "/nodes/pve1/storage/local-lvm/content --vmid 100": CONTENT,
        "/nodes/pve2/lxc/101/status/current": {"status": "running", "vmid": "101"},
    }
    made.main.qm["guest cmd 100 ping"] = Completed(0, b"{}\n", b"")
    return made


@pytest.fixture
def qemu(cluster: FakeCluster) -> Iterator[Qemu]:
    """Guest 100 runs: scsi0 as Proxmox attaches it with -drive."""
    image = cluster.main.write("/disk", b"")
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run = cluster.folder / "var/run/qemu-server"
    with Qemu(
        run,
        "-machine", "type=pc,accel=tcg",
        "-pidfile", str(run / "100.pid"),
        "-device", "virtio-scsi-pci,id=scsihw0",
        "-drive", f"file={image},if=none,id=drive-scsi0,format=raw",
        "-device", "scsi-hd,bus=scsihw0.0,drive=drive-scsi0,id=scsi0",
    ) as process:  # fmt: skip
        yield process


def facts(cluster: FakeCluster, uuid: str = UUID, **settings: object) -> Gathered:
    return gather(cluster.nodes, ProxmoxSettings(**settings), uuid)  # type: ignore[arg-type]


@needs_qemu
def test_a_running_machine(cluster: FakeCluster, qemu: Qemu) -> None:
    found = facts(cluster)
    guest = found.guest
    start = Path(f"/proc/{qemu.process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert guest.process == f"boot-1:{qemu.process.pid}:{start}"
    assert (guest.uuid, guest.vmid, guest.name, guest.node) == (UUID, 100, "web", "pve1")
    assert (guest.kind, guest.state, guest.running) == (GuestKind.VM, GuestState.PAUSED, True)
    assert (guest.conf, guest.digest) == (CONF, digest(CONF))
    assert guest.firewall.startswith("[OPTIONS]")
    assert guest.agent
    assert guest.freeze
    assert guest.qemu is not None
    assert guest.qemu >= (5, 0, 0)
    assert not guest.backup_access
    assert not guest.blockdev
    assert not guest.vzdump
    assert guest.busy == ""
    scsi, cdrom, tpm = (guest.disk(key) for key in ("scsi0", "ide2", "tpmstate0"))
    assert [disk.key for disk in guest.disks] == ["ide2", "scsi0", "tpmstate0"]
    assert (scsi.size, scsi.device, scsi.included) == (8 << 20, "drive-scsi0", True)
    assert scsi.node.startswith("#block")
    assert (cdrom.included, cdrom.reason) == (False, "CD-ROM")
    assert (tpm.node, tpm.size) == ("", 4 << 20)
    assert found.fleecing == FleecingPlace("storage", "local-lvm", 50 * GIB, "lvmthin")
    made = make_plan(found, "pve", ProxmoxSettings(), "deadbeef00", (), ExportOptions())
    assert made.method in ("transaction", "vzdump")
    # Status of the cluster, where the guest is, its node's files, storages, volumes, and the agent.
    assert len(cluster.main.commands) == 6


@needs_qemu
def test_an_agent_that_does_not_answer(cluster: FakeCluster, qemu: Qemu) -> None:
    cluster.main.qm["guest cmd 100 ping"] = Completed(255, b"", b"QEMU guest agent is not running\n")
    assert not facts(cluster).guest.agent


@needs_qemu
def test_a_machine_whose_monitor_is_held(
    cluster: FakeCluster, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmconsole.hypervisors.proxmox.gather.PATIENCE", 0.3)
    holder = cluster.main.open_unix("/var/run/qemu-server/100.qmp")
    with pytest.raises(HostError, match=r"QEMU of web on pve did not answer in time"):
        facts(cluster)
    holder.close()


def test_a_machine_that_is_off(cluster: FakeCluster) -> None:
    guest = facts(cluster).guest
    assert (guest.state, guest.process, guest.qemu, guest.agent) == (GuestState.OFF, "", None, False)
    assert (guest.disk("scsi0").size, guest.disk("scsi0").allocated) == (8 << 20, 3 << 20)
    assert guest.disk("tpmstate0").size == 4 << 20
    assert ["qm", "guest", "cmd", "100", "ping"] not in cluster.main.commands


def test_a_pid_of_somebody_else_is_no_guest(cluster: FakeCluster) -> None:
    cluster.main.write("/var/run/qemu-server/100.pid", "1\n")
    assert facts(cluster).guest.state is GuestState.OFF


def test_a_container_on_another_node(cluster: FakeCluster) -> None:
    uuid = next(place for place in _identities(cluster) if place[1] == 101)[0]
    guest = facts(cluster, uuid).guest
    assert (guest.vmid, guest.node, guest.kind, guest.state) == (
        101,
        "pve2",
        GuestKind.CONTAINER,
        GuestState.RUNNING,
    )
    assert cluster.reached["pve2"] == "10.0.0.2"
    assert [disk.key for disk in guest.disks if disk.included] == ["mp0", "rootfs"]
    assert not guest.running or guest.process == ""


def _identities(cluster: FakeCluster) -> list[tuple[str, int]]:
    from vmconsole.hypervisors.proxmox.identity import QUESTIONS, identify_found
    from vmconsole.hypervisors.proxmox.look import look

    found = identify_found(look(cluster.main, QUESTIONS), "shop")
    return [(identity.uuid, place.vmid) for place, identity in found.items()]


def test_the_node_that_has_it_now_is_asked(cluster: FakeCluster) -> None:
    """The same guest, first here and then there."""
    assert facts(cluster).guest.node == "pve1"
    (cluster.folder / "etc/pve/nodes/pve1/qemu-server/100.conf").unlink()
    cluster.main.write("/etc/pve/nodes/pve2/qemu-server/100.conf", CONF)
    cluster.main.api["/nodes/pve2/storage/local-lvm/content --vmid 100"] = CONTENT
    assert facts(cluster).guest.node == "pve2"
    assert "pve2" in cluster.reached


def test_a_guest_on_a_node_that_is_offline(cluster: FakeCluster) -> None:
    (cluster.folder / "etc/pve/nodes/pve1/qemu-server/100.conf").rename(
        cluster.main.write("/etc/pve/nodes/pve3/qemu-server/100.conf", "")
    )
    with pytest.raises(HostUnreachable, match="Node pve3 of pve is offline") as caught:
        facts(cluster)
    assert caught.value.hint


def test_a_node_that_cannot_be_reached(cluster: FakeCluster) -> None:
    uuid = next(uuid for uuid, vmid in _identities(cluster) if vmid == 101)
    second = FakeNode(cluster.folder, "pve/pve2")
    second.down = unreachable("pve/pve2")
    cluster.machines["pve2"] = second
    with pytest.raises(HostUnreachable, match="pve/pve2 cannot be reached"):
        facts(cluster, uuid)


def test_no_such_guest_and_lost_quorum(cluster: FakeCluster) -> None:
    with pytest.raises(GuestNotFound, match="No guest on pve has the uuid"):
        facts(cluster, "00000000-0000-0000-0000-000000000001")
    cluster.main.api["/cluster/status"] = status("pve1", "pve2", quorate=0)
    cluster.clock.seconds += 60
    with pytest.raises(HostError, match="lost quorum") as caught:
        facts(cluster)
    assert "pvecm status" in caught.value.hint


def test_a_guest_that_moves_while_it_is_looked_at(cluster: FakeCluster) -> None:
    path = cluster.folder / "etc/pve/nodes/pve1/qemu-server/100.conf"
    looks: list[int] = []

    def leave() -> None:
        looks.append(1)
        if len(looks) == 2:
            path.unlink()

    cluster.main.before_look = leave
    with pytest.raises(GuestBusy, match=r"100 is not on pve any more: No such file") as caught:
        facts(cluster)
    assert "moving" in caught.value.hint


def test_a_guest_that_is_missed_once_is_looked_for_again(cluster: FakeCluster) -> None:
    path = cluster.folder / "etc/pve/nodes/pve1/qemu-server/100.conf"
    path.unlink()
    looks: list[int] = []

    def arrive() -> None:
        looks.append(1)
        if len(looks) == 2:
            path.write_text(CONF)

    cluster.main.before_look = arrive
    assert facts(cluster).guest.vmid == 100


def test_not_root(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/status"] = Completed(255, b"", b"please run as root\n")
    with pytest.raises(NotPermitted):
        facts(cluster)


def test_a_storage_that_fails_is_said(cluster: FakeCluster) -> None:
    cluster.main.api["/nodes/pve1/storage"] = Completed(
        2, b"", b"something broke at /usr/share/perl5/PVE/X.pm line 7.\n"
    )
    with pytest.raises(CommandFailed, match=r"something broke\.$"):
        facts(cluster)


def test_locks_and_a_vzdump_on_the_node(cluster: FakeCluster) -> None:
    import fcntl

    cluster.main.write("/etc/pve/nodes/pve1/qemu-server/100.conf", "lock: migrate\n" + CONF)
    lock = cluster.main.write("/var/run/vzdump.lock", "")
    with lock.open("a") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        guest = facts(cluster).guest
    assert guest.vzdump
    assert guest.lock == "migrate"


def test_sizes_of_paths_and_linked_clones(cluster: FakeCluster) -> None:
    device = cluster.main.write("/dev/disk/by-id/x", b"y" * 5000)
    cluster.main.write(
        "/etc/pve/nodes/pve1/qemu-server/100.conf",
        CONF.replace("local-lvm:vm-100-disk-0,size=8M", "local-lvm:base-9000-disk-0/vm-100-disk-0")
        + "virtio0: /dev/disk/by-id/x\nvirtio1: nas:100/vm-100-disk-3.qcow2,size=2G\nvirtio2: local-lvm:gone\n",
    )
    guest = facts(cluster).guest
    assert device.exists()
    assert guest.disk("scsi0").size == 8 << 20
    assert guest.disk("virtio0").size == 5000
    assert (guest.disk("virtio1").size, guest.disk("virtio1").format) == (2 * GIB, "qcow2")
    assert guest.disk("virtio2").size == 0


def test_where_fleecing_goes(cluster: FakeCluster) -> None:
    (cluster.folder / "srv/fleecing").mkdir(parents=True)
    place = facts(cluster, fleecing="/srv/fleecing").fleecing
    assert place is not None
    assert (place.kind, place.name, place.type) == ("folder", "/srv/fleecing", "dir")
    assert place.free > 0
    assert facts(cluster, fleecing="/none").fleecing == FleecingPlace("folder", "/none", -1)
    assert facts(cluster, fleecing="nas").fleecing == FleecingPlace("storage", "nas", -1, "nfs")
    assert facts(cluster, fleecing="local-lvm").fleecing == FleecingPlace(
        "storage", "local-lvm", 50 * GIB, "lvmthin"
    )
    assert facts(cluster, fleecing="gone").fleecing == FleecingPlace("storage", "gone", -1, "")


def test_without_a_wish_the_storage_with_most_space_serves() -> None:
    big = StorageFacts("big", "rbd", active=True, content=("images",), free=900 * GIB)
    disks = (SCSI0, replace(SCSI0, key="scsi1", volume="big:vm-100-disk-0"), TPM)
    settings = ProxmoxSettings()
    storages = {"local-lvm": LVMTHIN, "big": big}
    assert choose_fleecing(settings, disks, storages) == FleecingPlace("storage", "big", 900 * GIB, "rbd")
    unusable = {"local-lvm": LVMTHIN, "big": replace(big, active=False)}
    assert choose_fleecing(settings, disks, unusable) == FleecingPlace(
        "storage", "local-lvm", 500 * GIB, "lvmthin"
    )
    assert choose_fleecing(settings, (replace(SCSI0, volume="/dev/sdz"),), storages) is None
    assert choose_fleecing(
        replace(settings, fleecing="/x"), disks, storages, Found("space", "/x", b"2 4096", "")
    ) == (FleecingPlace("folder", "/x", 8192))


def test_web_with_everything(cluster: FakeCluster) -> None:
    """A machine with snapshots, pending changes and passthrough, off."""
    cluster.main.write("/etc/pve/nodes/pve1/qemu-server/100.conf", WEB.replace("lock: backup\n", ""))
    guest = facts(cluster).guest
    assert [disk.key for disk in guest.disks if disk.included] == ["efidisk0", "scsi0", "scsi10", "tpmstate0"]
    assert guest.disk("scsi0").iothread
    assert guest.conf == WEB.replace("lock: backup\n", "")
