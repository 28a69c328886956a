"""The lab's guests on a cluster: real QEMU with a real agent, out through vzdump and back, from node to node."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.domain import MIB
from lab.host import CommandError
from lab.images import filesystem_problems, pattern_bytes, read_files
from lab.waiting import wait_for

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.tools import vma
from pve.tools.says import Died

DUMP = ("--stdout", "--dumpdir", "/var/tmp", "--mode", "snapshot", "--compress", "0")
DISKS = (
    PveDiskSpec("scsi0", size=24 * MIB, fs="ext4", content={"a.txt": b"hello"}),
    PveDiskSpec("virtio1", size=16 * MIB + 4096, format="raw", storage="fast"),
    PveDiskSpec("scsi1", size=8 * MIB, options="backup=0"),
)


@pytest.fixture(scope="module")
def vm(pve: PveCluster) -> Iterator[PveGuest]:
    """PVE 9: -blockdev, QEMU 10."""
    with pve.vm(DISKS, more={"vmgenid": "11111111-2222-4333-8444-555555555555"}) as guest:
        yield guest


def test_it_boots_to_the_agent(pve: PveCluster, vm: PveGuest) -> None:
    assert vm.state() == "running"
    assert vm.qm("status") == "status: running\n"
    assert pve.one.ask("qm", "guest", "cmd", str(vm.vmid), "ping") == ""
    told = pve.two.pvesh(f"/nodes/pve1/qemu/{vm.vmid}/status/current")
    assert told["proxmox-support"]["backup-access-api"] is True
    assert told["running-qemu"].startswith("10.")
    assert told["pid"] == vm.qemu_pid()
    assert "drive-scsi0" in vm.block_nodes()
    assert vm.sh("cat /mnt/$(ls /mnt | head -1)/a.txt") == "hello"


def test_freeze_and_thaw_through_qm(pve: PveCluster, vm: PveGuest) -> None:
    line = ("qm", "guest", "cmd", str(vm.vmid))
    assert pve.one.ask(*line, "fsfreeze-freeze") == "1\n"
    assert vm.frozen("scsi0")
    assert pve.one.ask(*line, "fsfreeze-status") == '"frozen"\n'
    assert vm.leftovers() == ["frozen file systems"]
    assert pve.one.ask(*line, "fsfreeze-thaw") == "1\n"
    assert not vm.frozen()
    assert pve.one.pvesh(f"/nodes/pve1/qemu/{vm.vmid}/agent/get-osinfo")["result"]["kernel-release"]


def test_an_agent_that_hangs(pve: PveCluster, vm: PveGuest) -> None:
    vm.agent_hang()
    with pytest.raises(CommandError, match="QEMU guest agent is not running"):
        pve.one.ask("qm", "guest", "cmd", str(vm.vmid), "ping")
    vm.agent_wake()


def test_out_through_vzdump_and_back(pve: PveCluster, vm: PveGuest, tmp_path: Path) -> None:
    vm.pattern("scsi0", DISKS[0].lab.ring, 1 * MIB, 7)
    vm.pattern("virtio1", 0, 2 * MIB, 8)
    before = vm.raw_copy("virtio1", tmp_path / "before").read_bytes()
    stream = pve.one.run("vzdump", str(vm.vmid), *DUMP).stdout
    assert vm.leftovers() == []
    order, sent = _unpacked(stream)
    assert order != sorted(order)
    done = pve.two.run(
        "qmrestore", "-", "900", "--storage", "local", "--unique", "1", stdin=stream, timeout=60
    )
    assert b"new volume ID is 'local:900/vm-900-disk-0.qcow2'" in done.stdout
    with pve.adopt(900, DISKS[:2]) as restored:
        assert restored.node is pve.two
        values, old = restored.conf.values, vm.conf.values
        assert "scsi1" not in values
        assert values["vmgenid"] != old["vmgenid"]
        assert values["smbios1"] != old["smbios1"]
        assert values["net0"] != old["net0"]
        back = {key: restored.raw_copy(key, tmp_path / f"back-{key}") for key in ("scsi0", "virtio1")}
        assert {key: path.read_bytes() for key, path in back.items()} == sent
        assert sent["virtio1"] == before
        # The file system was frozen for it, and so is whole.
        assert read_files(back["scsi0"], ["a.txt"]) == {"a.txt": b"hello"}
        assert filesystem_problems(back["scsi0"]) == ""
        ring = DISKS[0].lab.ring
        assert sent["scsi0"][ring : ring + MIB] == pattern_bytes(ring, MIB, 7)
        restored.start()
        assert restored.sh("cat /mnt/*/a.txt") == "hello"
    assert pve.two.ask("find", "/var/lib/vz/images", "-type", "f") == ""


def test_a_vzdump_that_is_ended_leaves_nothing(pve: PveCluster, vm: PveGuest) -> None:
    words = [*pve.one.enter, "env", f"PATH={pve.one.path_variable}", "vzdump", str(vm.vmid), *DUMP]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as dump:
        assert dump.stderr is not None
        while b"creating vzdump archive" not in dump.stderr.readline():
            pass
        assert vm.lock == "backup"
        (pid,) = [pid for pid, line in pve.one.processes().items() if "run.py vzdump" in line]
        pve.one.signal(pid, signal.SIGTERM)
        said = dump.communicate()[1]
    assert b"interrupted by signal" in said
    assert vm.leftovers() == []


def test_a_stopped_one_and_a_locked_one(
    pve: PveCluster, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    vm = make_vm([PveDiskSpec(size=8 * MIB, fs="ext4")], start=False)
    with pve.locked(vm.vmid), pytest.raises(CommandError, match=r"VM is locked \(backup\)"):
        pve.one.run("vzdump", str(vm.vmid), *DUMP)
    stream = pve.one.run("vzdump", str(vm.vmid), *DUMP).stdout
    with pytest.raises(CommandError, match="already exists on node 'pve1'"):
        pve.two.run("qmrestore", "-", str(vm.vmid), stdin=stream)
    before = _sha(vm.raw_copy("scsi0", tmp_path / "before"))
    pve.one.run("qmrestore", "-", str(vm.vmid), "--force", "1", stdin=stream)
    assert _sha(vm.raw_copy("scsi0", tmp_path / "after")) == before
    with pytest.raises(CommandError, match=r"detected missing cluster|too few data"):
        pve.two.run("qmrestore", "-", "901", stdin=stream[:-4096])
    assert 901 not in pve.guests()


def test_a_pinned_machine_on_the_older_qemu(pve: PveCluster, make_vm: Callable[..., PveGuest]) -> None:
    """PVE 7: -drive, QEMU 7.2, nothing of Proxmox's in its monitor."""
    disk = PveDiskSpec(size=16 * MIB, fs="ext4", iothread=True)
    vm = make_vm([disk], layout="drive", qemu="7.2", backup_access=False)
    told = pve.one.pvesh(f"/nodes/pve1/qemu/{vm.vmid}/status/current")
    assert told["running-qemu"].startswith("7.2")
    assert "backup-access-api" not in told["proxmox-support"]
    assert "drive-scsi0" not in vm.block_nodes()
    vm.qm("shutdown")
    assert vm.state() == "stopped"
    assert pve.one.pvesh(f"/nodes/pve1/qemu/{vm.vmid}/status/current")["status"] == "stopped"


def test_a_guest_that_powers_off_ends_unless_it_is_held(
    pve: PveCluster, make_vm: Callable[..., PveGuest]
) -> None:
    vm = make_vm([PveDiskSpec(size=8 * MIB)])
    with socket.socket(socket.AF_UNIX) as handle:
        handle.connect(str(pve.one.path("/run/qmeventd.sock")))
        handle.sendall(json.dumps({"vzdump": {"vmid": str(vm.vmid)}}).encode())
        wait_for(lambda: pve.one.qmeventd.held() == {str(vm.vmid)}, "the handle")
        vm.sh("(sleep 0.1; shutdown) >/dev/null 2>&1 &")
        vm.wait_for_state("shutdown")
    vm.wait_for_state("stopped")


@pytest.mark.parametrize("live", [True, False])
def test_it_moves_to_another_node(pve: PveCluster, make_vm: Callable[..., PveGuest], live: bool) -> None:
    vm = make_vm([PveDiskSpec(size=16 * MIB, fs="ext4", storage="shared" if live else "local")])
    vm.sh("touch /tmp/alive")
    node = vm.below_throttle("scsi0")
    with vm.monitor() as qmp:
        qmp("block-dirty-bitmap-add", node=node, name="of-a-test")
    pve.migrate(vm, "pve2", live=live)
    assert vm.node is pve.two
    assert vm.lock == ""
    assert not pve.one.pid(vm.vmid)
    assert vm.state() == "running"
    assert vm.sh("[ -e /tmp/alive ] && echo yes", check=False) == ("yes\n" if live else "")
    assert vm.bitmaps() == ({"of-a-test"} if live else set())
    assert pve.one.pvesh("/cluster/resources", type="vm")[-1]["node"] == "pve2"


def test_the_lockstep_writer_on_two_disks(make_vm: Callable[..., PveGuest]) -> None:
    vm = make_vm([PveDiskSpec("scsi0", size=16 * MIB), PveDiskSpec("scsi1", size=16 * MIB)])
    vm.lockstep_start("scsi0", "scsi1")
    assert vm.lockstep_stop() > 0


def test_vma_is_strict() -> None:
    data = bytes(range(256)) * 1024
    out = io.BytesIO()
    image = vma.Image("drive-scsi0", len(data) - 100, lambda offset, length: data[offset : offset + length])
    vma.write(out, {"qemu-server.conf": b"memory: 1\n"}, [image])
    whole = bytearray(out.getvalue())
    header = vma.read_header(source := io.BytesIO(whole))
    assert header.devices == {1: ("drive-scsi0", len(data) - 100)}
    back = bytearray(len(data) - 100)
    for _, offset, part in vma.read_clusters(source, header):
        back[offset : offset + len(part)] = part
    assert back == data[:-100]
    whole[13000] ^= 1
    source = io.BytesIO(whole)
    with pytest.raises(Died):
        list(vma.read_clusters(source, vma.read_header(source)))


def _unpacked(stream: bytes) -> tuple[list[tuple[int, int]], dict[str, bytes]]:
    """(the order in which the clusters came, key → image)"""
    source = io.BytesIO(stream)
    header = vma.read_header(source)
    images = {device: bytearray(size) for device, (_, size) in header.devices.items()}
    order = []
    for device, offset, data in vma.read_clusters(source, header):
        order.append((device, offset))
        images[device][offset : offset + len(data)] = data
    names = {device: name.removeprefix("drive-") for device, (name, _) in header.devices.items()}
    return order, {names[device]: bytes(image) for device, image in images.items()}


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
