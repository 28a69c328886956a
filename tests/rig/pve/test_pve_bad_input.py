"""Nodes that say strange things, and guests with strange configurations, through the command line.

Each command is correct, or fails with an error that says what is wrong; World.run makes sure that it is
never a traceback and never exit code 70.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from e2e_world import sha256
from lab.domain import MIB

from pve.after import all_over, told
from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from pve.tools import conf
from pve.world import PveWorld

pytestmark = [pytest.mark.rig, pytest.mark.timeout(120)]

DISKS = (
    PveDiskSpec("scsi0", size=8 * MIB, format="raw"),
    PveDiskSpec("virtio1", size=12 * MIB, storage="fast"),
)
ESC, BELL = "\x1b", "\x07"
NAME = f"a b [bold red]c[/] {ESC}[31md{ESC}]0;e{BELL} ü 名 <i>&amp;</i> $(touch /tmp/vmc-hostile) '\"; -- %s {{0}}"
TAGS = f"prod;[red]x[/];$(touch /tmp/vmc-hostile);{ESC}[2J;../..;ü"
NOISE = (
    "echo 'perl: warning: Setting locale failed.' >&2; "
    "printf 'WARN: [red]volume %%s is \\033[31mnot {clean}\\n' >&2; "
)


@pytest.fixture(scope="module")
def world(pve: PveCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PveWorld]:
    with PveWorld(tmp_path_factory.mktemp("bad") / "world", pve) as one:
        yield one


@pytest.fixture(scope="module")
def off(pve: PveCluster) -> Iterator[PveGuest]:
    vm = pve.vm(DISKS, name="off", start=False)
    for key, disk in vm.disks.items():
        command = [
            "qemu-io",
            "-f",
            disk.format,
            "-c",
            "write -P 7 1M 3M",
            "-c",
            "write -P 8 6M 64k",
            str(vm.path(key)),
        ]
        subprocess.run(command, check=True, capture_output=True)
    yield vm
    vm.remove()


@contextmanager
def says(pve: PveCluster, tool: str, script: str) -> Iterator[None]:
    """Shell commands that a node's tool runs before it does its work."""
    path = pve.folder / "bin" / tool
    old = path.read_text()

    def put(text: str) -> None:
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(text)
        beside.chmod(0o755)
        beside.rename(path)

    put(old.replace("\n", f"\n{script}\n", 1))
    try:
        yield
    finally:
        put(old)


@contextmanager
def configured(pve: PveCluster, vm: PveGuest, change: Callable[[str], str]) -> Iterator[None]:
    """Another text of its configuration, written by somebody who does not care."""
    path = conf.path_of(vm.vmid, "qemu", vm.node.name, pve.etc)
    old = path.read_text()
    path.write_text(change(old))
    try:
        yield
    finally:
        path.write_text(old)


def add(*lines: str) -> Callable[[str], str]:
    """Lines in place of those with the same keys."""
    keys = [line.partition(":")[0] for line in lines]
    return lambda text: "".join(
        [line for line in text.splitlines(keepends=True) if line.partition(":")[0] not in keys]
        + [f"{line}\n" for line in lines]
    )


def listed(world: PveWorld) -> dict[str, dict[str, Any]]:
    """Guests by number, as they are now."""
    (host,) = world.run("inventory", "--refresh").document["hosts"]
    return {guest["id"]: guest for guest in host["guests"]}


def plain(text: str) -> bool:
    """Nothing in it that a terminal would obey."""
    return all(char.isprintable() or char in "\n\t" for char in text)


def backed_up(world: PveWorld, vm: PveGuest, *, expect: int | tuple[int, ...] = 0) -> str:
    """The archive of a backup that holds what the disks do."""
    archive = world.backup(vm, expect=expect).archive
    images = world.restore(archive)
    assert set(images) == set(vm.disks)
    for key, image in images.items():
        assert image.stat().st_size == vm.disks[key].size
        assert sha256(image) == sha256(vm.raw_copy(key, world.folder / f"check-{os.urandom(4).hex()}")), key
    return archive


# --- what tools say ---


def test_noise_around_every_answer(
    pve: PveCluster,
    world: PveWorld,
    off: PveGuest,
    make_container: Callable[..., PveContainer],
) -> None:
    vm = off
    make_container(name="dns")
    before = listed(world)
    with (
        says(pve, "pvesh", NOISE + "echo 'not [json]'; echo '{broken'"),
        says(pve, "qm", NOISE),
        says(pve, "pvesm", NOISE),
        says(pve, "vzdump", NOISE),
    ):
        assert b"is \x1b[31mnot {clean}" in pve.one.run("qm", "status", str(vm.vmid)).stderr
        assert b"{broken\n" in pve.one.run("pvesh", "get", "/version").stdout
        assert listed(world) == before
        backed_up(world, vm)
        world.run("backup", "pve/dns")
    all_over(world, pve, vm)


NOTHING = ["/cluster/resources", "/cluster/backup-info/not-backed-up", "/version"]
"""What a backup can do without."""
NO_NODES = "pve does not say which nodes it consists of."
BROKEN = 'This should be JSON, but is not: [{"id":'
UNDEFINED = "Storage local, which disk scsi0 of off (VMID) on pve/pve1 is on, is not defined on node pve1."


@pytest.mark.parametrize(
    ("paths", "answer", "inventory", "backup"),
    [
        (["/cluster/status"], "", NO_NODES, NO_NODES),
        (["/cluster/status"], '[{"id":', BROKEN, BROKEN),
        (["/nodes/pve1/storage"], "null", "", UNDEFINED),
        (NOTHING, "", "", ""),
    ],
    ids=["no nodes", "half an answer", "no storages", "nothing else"],
)
def test_answers_that_are_none(
    pve: PveCluster,
    world: PveWorld,
    off: PveGuest,
    paths: list[str],
    answer: str,
    inventory: str,
    backup: str,
) -> None:
    """inventory, backup: the error of each; empty where it must succeed."""
    script = "".join(f"[ \"$2\" != {path} ] || {{ echo '{answer}'; exit 0; }}\n" for path in paths)
    with says(pve, "pvesh", script):
        seen = world.run("inventory", "--refresh", expect=20 if inventory else 0).document["hosts"][0]
        ran = world.backup(off, expect=(1, 20) if backup else 0)
    assert (seen["reachable"], seen["error"] or "") == (not inventory, inventory)
    assert [guest["uuid"] for guest in seen["guests"]] == ([] if inventory else [off.uuid])
    if backup:
        (found,) = [item for item in ran.documents if "error" in item and "message" in item]
        assert backup.replace("VMID", str(off.vmid)) in found["message"]
        assert found["hint"]
        world.backup(off)
    all_over(world, pve, off)


# --- what configurations hold ---


def test_a_hostile_name_and_hostile_tags(pve: PveCluster, world: PveWorld, off: PveGuest) -> None:
    vm = off
    with configured(pve, vm, add(f"name: {NAME}", f"tags: {TAGS}", f"description: {NAME}")):
        guest = listed(world)[str(vm.vmid)]
        name, tags = guest["name"], guest["tags"]
        assert name.startswith("a b [bold red]c[/] ")
        assert "$(touch /tmp/vmc-hostile)" in name
        assert {"prod", "[red]x[/]", "../..", "ü"} <= set(tags)

        archive = backed_up(world, vm)
        assert re.fullmatch(r"[A-Za-z0-9._-]+", archive), archive
        (point,) = world.points(name)
        assert (point["guest"], point["uuid"], point["archive"]) == (name, vm.uuid, archive)
        world.run("backup", "--", f"pve/{name}")
        for words in (("inventory",), ("points",), ("backup", "--dry-run", "--all"), ("runs",)):
            ran = world.plain(*words)
            assert plain(ran.out + ran.err), f"{ran}"
            assert "a b [bold red]c[/]" in " ".join(ran.out.split()) or words == ("runs",), f"{ran}"
        stored = world.borg("extract", "--stdout", f"{{}}::{archive}", "config/qemu-server.conf").stdout
        assert f"name: {NAME}\n".encode() in stored
    assert not Path("/tmp/vmc-hostile").exists()
    assert not pve.one.path("/tmp/vmc-hostile").exists()
    all_over(world, pve, vm)


def test_keys_nobody_knows_and_files_that_are_no_guests(
    pve: PveCluster, world: PveWorld, off: PveGuest
) -> None:
    vm = off
    before = listed(world)
    folder = conf.path_of(vm.vmid, "qemu", vm.node.name, pve.etc).parent
    strange = [folder / name for name in ("abc.conf", f"{vm.vmid}.conf.tmp.77", "0.conf.bak", "[red].conf")]
    for path in strange:
        path.write_text("scsi0: local:1/vm-1-disk-0.raw,size=1G\n")
    lines = (
        "frobnicate: 1", "scsi99: local:1/x.raw,size=1G", "virtio1x: y", f"{ESC}[31m: z", ": empty",
        "lxc.idmap: u 0 1 1",
    )  # fmt: skip
    try:
        with configured(pve, vm, add(*lines)):
            found = listed(world)
            assert set(found) == set(before)
            assert found[str(vm.vmid)]["disks"] == before[str(vm.vmid)]["disks"]
            backed_up(world, vm)
    finally:
        for path in strange:
            path.unlink()
    all_over(world, pve, vm)


def test_disks_without_a_size(
    pve: PveCluster, world: PveWorld, off: PveGuest, make_vm: Callable[..., PveGuest]
) -> None:
    """The volumes themselves tell, of a guest that is off as of one that runs."""
    on = make_vm(DISKS)
    on.pattern("scsi0", MIB, MIB, 1)
    on.pattern("virtio1", 5 * MIB, MIB, 2)
    for vm in (off, on):
        with configured(pve, vm, lambda text: re.sub(r",size=[^,\n]*", "", text)):
            assert "size=" not in vm.conf.text
            guest = listed(world)[str(vm.vmid)]
            assert "The size of scsi0, virtio1 is not in its configuration." in guest["warnings"]
            backed_up(world, vm)
    all_over(world, pve, off, on)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "VM {0} ({0}) on pve/pve1 has no disk to back up.", ""),
        ("name: half\nsmbios1: uuid={1}\nscsi0", "half ({0}) on pve/pve1 has no disk to back up.", ""),
        (
            "name: half\nsmbios1: uuid={1}\nscsi0: local:{0}/vm-{0}-dis",
            "The size of disk scsi0 (local:{0}/vm-{0}-dis) of half ({0}) on pve/pve1 cannot be found out.",
            "Is the volume there? On node pve1: qm rescan --vmid {0}",
        ),
        (
            "name: half\nsmbios1: uuid={1}\nscsi0: gone:{0}/vm-{0}-disk-0.raw,size=8M\n",
            "Storage gone, which disk scsi0 of half ({0}) on pve/pve1 is on, is not defined on node pve1.",
            "Look at it on that node: pvesm status",
        ),
    ],
    ids=["empty", "half a key", "half a volume", "a storage that never was"],
)
def test_a_half_written_configuration(
    pve: PveCluster,
    world: PveWorld,
    off: PveGuest,
    text: str,
    message: str,
    hint: str,
) -> None:
    vm = off
    uuid = vm.uuid
    with configured(pve, vm, lambda _: text.format(vm.vmid, uuid)):
        guest = listed(world)[str(vm.vmid)]
        told(
            world.backup(guest["uuid"], expect=1),
            "BackupFailed",
            message.format(vm.vmid),
            hint.format(vm.vmid),
        )
    all_over(world, pve, vm)
