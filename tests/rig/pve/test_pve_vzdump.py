"""Through vzdump, with the command line: machines that nothing else reads safely, and containers."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_world import Child, sha256
from lab.domain import MIB
from lab.images import filesystem_problems, pattern_bytes, read_files
from lab.waiting import wait_for

from pve.after import all_over, next_is_right, told, wait_clean
from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from pve.world import PveWorld

pytestmark = [pytest.mark.rig, pytest.mark.timeout(200)]

DISKS = (
    PveDiskSpec("scsi0", size=24 * MIB, fs="ext4", content={"a.txt": b"hello"}, iothread=True),
    PveDiskSpec("virtio1", size=24 * MIB, format="raw", storage="fast"),
)
OLD: dict[str, Any] = {"qemu": "7.2", "layout": "drive", "backup_access": False}
REASON = "disk scsi0 has an iothread, and QEMU 7.2.22 can crash when it is read any other way"
NOISE = random.Random(1).randbytes(12 * MIB)
FILES = {"etc/hostname": b"dns\n", "srv/data": NOISE, "srv/zeros": bytes(3 * MIB), "srv/ü b": b"odd\n"}


@pytest.fixture(scope="module")
def old(pve: PveCluster) -> Iterator[PveGuest]:
    """Started before its node was upgraded."""
    vm = pve.vm(DISKS, **OLD)
    yield vm
    vm.remove()


@pytest.fixture(scope="module")
def new(pve: PveCluster) -> Iterator[PveGuest]:
    vm = pve.vm(DISKS)
    yield vm
    vm.remove()


def planned(world: PveWorld, name: str) -> dict[str, Any]:
    (found,) = world.run("backup", "--dry-run", "--", name).document["plan"]
    return dict(found)


def set_export(world: PveWorld, how: str) -> None:
    world.host_settings["export"] = how
    world.configure()


def qemu_of(vm: PveGuest) -> str:
    with vm.monitor() as qmp:
        version = qmp("query-version")["qemu"]
    return f"{version['major']}.{version['minor']}.{version['micro']}"


# --- machines ---


def test_an_old_machine_with_an_iothread(
    pve: PveCluster, pve_world: PveWorld, old: PveGuest, tmp_path: Path
) -> None:
    vm = old
    reason = REASON.replace("7.2.22", qemu_of(vm))
    plan = planned(pve_world, vm.uuid)
    assert (plan["method"], plan["method_reason"], plan["mode"]) == ("vzdump", reason, "full")
    said = " ".join(pve_world.plain("backup", "--dry-run", vm.uuid).out.split())
    assert "vzdump" in said
    assert "has an iothread" in said
    assert vm.lock == ""

    vm.write_file("scsi0", "b.txt", b"new")
    vm.pattern("virtio1", 3 * MIB, 8 * MIB, 1)
    vm.zero("virtio1", 5 * MIB, MIB)
    made = pve_world.backup(vm)
    assert (made.point["mode"], made.point["consistency"]) == ("full", "application")
    images = pve_world.restore(made.archive)
    assert images["virtio1"].stat().st_size == 24 * MIB
    assert sha256(images["virtio1"]) == sha256(vm.raw_copy("virtio1", tmp_path / "now"))
    assert filesystem_problems(images["scsi0"]) == ""
    assert read_files(images["scsi0"], ["a.txt", "b.txt"]) == {"a.txt": b"hello", "b.txt": b"new"}
    assert pve_world.borg_sha256(made.archive, "virtio1") == sha256(images["virtio1"])

    next_is_right(pve_world, vm, tmp_path, mode="full")
    all_over(pve_world, pve, vm)


def test_a_host_that_is_set_to_vzdump_and_back(
    pve: PveCluster, pve_world: PveWorld, new: PveGuest, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    """What vzdump makes stands aside: the increment after it is upon the point before it, and lacks nothing."""
    vm = new
    first = next_is_right(pve_world, vm, tmp_path, mode="full")
    set_export(pve_world, "vzdump")
    plan = planned(pve_world, vm.uuid)
    assert (plan["method"], plan["method_reason"]) == ("vzdump", 'this host is set to export = "vzdump"')
    next_is_right(pve_world, vm, tmp_path, mode="full")

    set_export(pve_world, "auto")
    (disk, _) = planned(pve_world, vm.uuid)["disks"]
    assert disk["parent"] == first.archive
    next_is_right(pve_world, vm, tmp_path)

    set_export(pve_world, "vzdump")
    off = make_vm([PveDiskSpec(size=8 * MIB)], start=False)
    assert planned(pve_world, off.uuid)["method"] == "offline"
    all_over(pve_world, pve, vm)


def test_a_host_that_is_never_read_by_vzdump(
    pve: PveCluster,
    pve_world: PveWorld,
    old: PveGuest,
    new: PveGuest,
    make_container: Callable[..., PveContainer],
    tmp_path: Path,
) -> None:
    container = make_container(name="dns")
    set_export(pve_world, "qmp")
    against = REASON.replace("7.2.22", qemu_of(old))
    message = (
        f'guest-{old.vmid} ({old.vmid}) on pve/pve1 can only be read by vzdump, which export = "qmp" rules out: '
        f"{against}."
    )
    hint = (
        'Set export = "auto" for this host. A guest that was started before Proxmox VE was upgraded has to be '
        "stopped and started once to run on the new QEMU."
    )
    told(pve_world.backup(old, expect=1), "BackupFailed", message, hint)
    (plan,) = pve_world.run("backup", "--dry-run", old.uuid, expect=1).document["plan"]
    assert (plan["error"], plan["message"], plan["hint"]) == ("BackupFailed", message, hint)
    assert pve_world.points() == []
    assert planned(pve_world, new.uuid)["method"] == "access"
    assert planned(pve_world, f"pve/{container.conf.values['hostname']}")["method"] == "vzdump"

    set_export(pve_world, "auto")
    next_is_right(pve_world, old, tmp_path, mode="full")
    all_over(pve_world, pve, old, new)


# --- somebody dies ---


def vzdumps(pve: PveCluster, vmid: int) -> list[int]:
    return [pid for pid, words in pve.one.processes().items() if f"vzdump {vmid} " in words]


def held(world: PveWorld, name: str) -> Child:
    """A backup that is held while it reads."""
    child = world.start("backup", name, trap={"do": "hold", "at": {"event": "disk_progress"}})
    child.await_trap()
    return child


def kill_vzdump(pve: PveCluster, vmid: int) -> None:
    """kill -9, with what it would have removed itself."""
    found = vzdumps(pve, vmid)
    assert found
    for pid in found:
        pve.one.signal(pid, signal.SIGKILL)
    wait_for(lambda: not vzdumps(pve, vmid), "vzdump to be dead", 10)
    for path in Path("/var/tmp").glob(f"vzdump-*-{vmid}-*"):
        shutil.rmtree(path)


def is_over(world: PveWorld, archives: set[str]) -> None:
    assert {point["archive"] for point in world.points()} == archives
    assert (
        set(world.borg("list", "--short", "--consider-checkpoints", "{}").stdout.decode().split()) == archives
    )
    world.borg_check()


def test_killed_while_a_machine_is_read(
    pve: PveCluster, pve_world: PveWorld, old: PveGuest, tmp_path: Path
) -> None:
    vm = old
    vm.pattern("virtio1", 0, 20 * MIB, 1)
    archives = {pve_world.backup(vm).archive}
    child = held(pve_world, vm.uuid)
    assert vm.lock == "backup"
    assert vzdumps(pve, vm.vmid)
    child.kill()

    wait_clean(pve, vm)
    assert [entry.kind for entry in pve_world.journal()] == ["proxmox-vzdump"]
    pve_world.clean()
    assert pve_world.journal() == []
    is_over(pve_world, archives)
    # 3: the lock of the dead run was removed from the repository, and that is said.
    next_is_right(pve_world, vm, tmp_path, mode="full", expect=(0, 3))
    all_over(pve_world, pve, vm)


@pytest.mark.parametrize("how", ["doctor", "next backup"])
def test_killed_together_with_vzdump(
    pve: PveCluster, pve_world: PveWorld, old: PveGuest, tmp_path: Path, how: str
) -> None:
    """Nobody is left on the node to remove the lock."""
    vm = old
    vm.pattern("virtio1", 0, 20 * MIB, 1)
    child = held(pve_world, vm.uuid)
    kill_vzdump(pve, vm.vmid)
    child.kill()
    assert vm.lock == "backup"

    if how == "doctor":
        cleaned = pve_world.clean().document["cleaned"]
        assert [item["detail"] for item in cleaned] == [
            f"vzdump of guest-{vm.vmid} ({vm.vmid}) has ended on pve; the lock it left was removed."
        ]
        assert vm.lock == ""
        assert pve_world.journal() == []
    next_is_right(pve_world, vm, tmp_path, mode="full", expect=(0, 3))
    all_over(pve_world, pve, vm)


# --- containers ---


def tar_sha256(world: PveWorld, archive: str, member: str) -> str:
    """Of a file in the container's tar, as stock tools give it."""
    tar = world.borg("extract", "--stdout", f"{{}}::{archive}", "container/rootfs.tar").stdout
    path = world.folder / f"{os.urandom(4).hex()}.tar"
    path.write_bytes(tar)
    folder = path.with_suffix("")
    folder.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", folder], check=True)
    return sha256(folder / member)


def container_points(world: PveWorld) -> list[dict[str, Any]]:
    return [point for point in world.points() if point["guest"] == "dns"]


def test_a_container_from_end_to_end(
    pve: PveCluster, pve_world: PveWorld, make_container: Callable[..., PveContainer], tmp_path: Path
) -> None:
    container = make_container(FILES, name="dns", mounts={"/data": {"inside": b"mounted\n"}})
    plan = planned(pve_world, "pve/dns")
    assert (plan["method"], plan["method_reason"]) == ("vzdump", "containers are read through vzdump")
    first = pve_world.run("backup", "pve/dns").archive
    (container.folder() / "srv/data").write_bytes(NOISE[::-1])
    second = pve_world.run("backup", "pve/dns").archive
    assert [point["archive"] for point in container_points(pve_world)] == [second, first]
    assert tar_sha256(pve_world, first, "srv/data") == hashlib.sha256(NOISE).hexdigest()
    assert tar_sha256(pve_world, second, "srv/data") == hashlib.sha256(NOISE[::-1]).hexdigest()
    conf = pve_world.borg("extract", "--stdout", f"{{}}::{second}", "config/pct.conf").stdout.decode()
    assert "hostname: dns\n" in conf
    assert "lock" not in conf

    # By hand, with nothing but borg and pct: the newest without vmconsole.
    tar = pve_world.borg("extract", "--stdout", f"{{}}::{second}", "container/rootfs.tar").stdout
    words = ["--rootfs", "local:8", "--mp0", "local:8,mp=/data,backup=1", "--unprivileged", "1"]
    vmid = int(json.loads(pve.one.ask("pvesh", "get", "/cluster/nextid", "--output-format", "json")))
    pve.two.run("pct", "restore", str(vmid), "-", *words, stdin=tar)
    copy = PveContainer(pve, vmid)
    try:
        assert copy.files() == container.files()
        assert copy.files("mp0") == {"inside": b"mounted\n"}
    finally:
        copy.remove()

    # And the older one with vmconsole.
    before = pve.guests()
    pve_world.run("restore", first, "--host", "pve", "--as", "dns2", "--yes", expect=(0, 3))
    (vmid,) = pve.guests() - before
    copy = PveContainer(pve, vmid)
    try:
        assert copy.files() == FILES
    finally:
        copy.remove()
    all_over(pve_world, pve)


@pytest.mark.parametrize("vzdump_too", [False, True])
def test_killed_while_a_container_is_read(
    pve: PveCluster, pve_world: PveWorld, make_container: Callable[..., PveContainer], vzdump_too: bool
) -> None:
    container = make_container(FILES, name="dns")
    archives = {pve_world.run("backup", "pve/dns").archive}
    child = held(pve_world, "pve/dns")
    assert container.conf.values["lock"] == "backup"
    if vzdump_too:
        kill_vzdump(pve, container.vmid)
    child.kill()

    if vzdump_too:
        assert container.conf.values["lock"] == "backup"
    else:
        wait_for(lambda: "lock" not in container.conf.values, "vzdump to end by itself", 30)
        wait_clean(pve)
    pve_world.clean()
    assert "lock" not in container.conf.values
    assert pve_world.journal() == []
    is_over(pve_world, archives)
    (container.folder() / "srv/data").write_bytes(pattern_bytes(0, MIB, 5))
    made = pve_world.run("backup", "pve/dns", expect=(0, 3)).archive
    digest = hashlib.sha256(pattern_bytes(0, MIB, 5)).hexdigest()
    assert tar_sha256(pve_world, made, "srv/data") == digest
    all_over(pve_world, pve)
