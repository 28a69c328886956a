"""Bitmaps and checkpoints that broke, vanished or belong to others: an increment is proven, or it is a full
read, disk by disk; it says so, and what is restored is right either way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_world import World, drop_checkpoints, sha256
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.leftovers import guest_leftovers
from lab.session import Lab
from lab.waiting import wait_for

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

DISKS = (DiskSpec("vda", size=24 * MIB), DiskSpec("vdb", size=24 * MIB))
MakeGuest = Callable[..., Guest]


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[Guest]:
    with lab.guest("bits", DISKS) as guest:
        yield guest


@pytest.fixture
def guest(shared: Guest) -> Iterator[Guest]:
    """Running, whatever the test did to it, and then without checkpoints."""
    yield shared
    if shared.state() != "running":
        shared.start()
    drop_checkpoints(shared)


def modes(point: dict[str, Any]) -> dict[str, str]:
    return {disk["id"]: disk["mode"] for disk in point["disks"]}


def reasons(point: dict[str, Any]) -> dict[str, str | None]:
    return {disk["id"]: disk["reason"] for disk in point["disks"]}


def change(guest: Guest, seed: int) -> None:
    """Something new on every disk, and on the disk when done."""
    for disk in ("vda", "vdb"):
        guest.pattern(disk, (seed % 16) * MIB, MIB, seed)
    guest.sync()


def back_up_and_compare(e2e: World, guest: Guest, folder: Path, expect: int = 0) -> dict[str, Any]:
    """The point as `points --json` has it; its restored disks are the guest's disks."""
    made = e2e.backup(guest, expect=expect)
    point = e2e.newest(guest)
    assert point["archive"] == made.archive
    images = e2e.restore(made.archive)
    for disk, image in images.items():
        now = guest.raw_copy(disk, folder / f"now-{os.urandom(4).hex()}")
        assert sha256(image) == sha256(now), f"{disk} of {made.archive}: {modes(point)}"
    assert set(images) == set(modes(point))
    return point


def next_is_incremental(e2e: World, guest: Guest, folder: Path, seed: int) -> None:
    change(guest, seed)
    point = back_up_and_compare(e2e, guest, folder)
    assert set(modes(point).values()) == {"incremental"}, reasons(point)
    assert guest.checkpoints() == [point["disks"][0]["bitmap"]]


def test_a_bitmap_gone_from_one_disk_makes_that_disk_full_and_says_so(
    e2e: World, guest: Guest, tmp_path: Path
) -> None:
    change(guest, 1)
    e2e.backup(guest)
    (checkpoint,) = guest.checkpoints()
    guest.poweroff()
    guest.host.run(["qemu-img", "bitmap", "--remove", str(guest.images["vdb"]), checkpoint])
    guest.start()
    change(guest, 2)

    point = back_up_and_compare(e2e, guest, tmp_path)

    assert modes(point) == {"vda": "incremental", "vdb": "full"}
    assert "bitmap is broken or missing" in str(reasons(point)["vdb"])
    assert reasons(point)["vda"] is None
    next_is_incremental(e2e, guest, tmp_path, 3)
    e2e.borg_check()


def test_after_qemu_was_killed_everything_is_read_and_says_so(
    e2e: World, guest: Guest, tmp_path: Path
) -> None:
    change(guest, 1)
    e2e.backup(guest)
    guest.kill_qemu()
    guest.start()
    change(guest, 2)

    point = back_up_and_compare(e2e, guest, tmp_path)

    assert modes(point) == {"vda": "full", "vdb": "full"}
    assert all("bitmap is broken or missing" in reason for reason in reasons(point).values())
    assert "bitmap is broken or missing" in point["reason"]
    next_is_incremental(e2e, guest, tmp_path, 3)


def test_a_failed_start_breaks_one_bitmap_only(e2e: World, guest: Guest, tmp_path: Path) -> None:
    """libvirt opens one disk after the other; a lock on the second leaves the first one's bitmap in use."""
    change(guest, 1)
    e2e.backup(guest)
    guest.poweroff()
    pidfile = guest.host.root / "holder.pid"
    guest.host.run(
        ["qemu-nbd", "--fork", "--pid-file", str(pidfile), "-k", f"{guest.host.root}/holder.sock",
         "-f", "qcow2", str(guest.images["vdb"])],
    )  # fmt: skip
    try:
        assert guest.host.run(["virsh", "-c", "qemu:///system", "start", guest.uuid], check=False).returncode
    finally:
        pid = int(pidfile.read_text())
        guest.host.signal(pid, signal.SIGTERM)
        wait_for(lambda: guest.host.run(["kill", "-0", str(pid)], check=False).returncode, "qemu-nbd to end")
    guest.start()
    change(guest, 2)

    point = back_up_and_compare(e2e, guest, tmp_path)

    assert modes(point) == {"vda": "full", "vdb": "incremental"}, reasons(point)
    assert "bitmap is broken or missing" in reasons(point)["vda"]
    next_is_incremental(e2e, guest, tmp_path, 3)


def test_a_guest_that_was_off_and_on_again_stays_incremental(
    e2e: World, guest: Guest, tmp_path: Path
) -> None:
    change(guest, 1)
    e2e.backup(guest)
    guest.poweroff()
    off = back_up_and_compare(e2e, guest, tmp_path)
    assert (set(modes(off).values()), off["consistency"]) == ({"incremental"}, "offline")
    guest.start()
    change(guest, 2)
    point = back_up_and_compare(e2e, guest, tmp_path)
    assert modes(point) == {"vda": "incremental", "vdb": "incremental"}
    guest.virsh("reset")
    guest.wait_until_ready()
    next_is_incremental(e2e, guest, tmp_path, 3)


def test_a_checkpoint_deleted_by_hand(e2e: World, guest: Guest, tmp_path: Path) -> None:
    change(guest, 1)
    e2e.backup(guest)
    drop_checkpoints(guest)
    change(guest, 2)
    point = back_up_and_compare(e2e, guest, tmp_path)
    assert modes(point) == {"vda": "full", "vdb": "full"}
    assert "the checkpoint of the last restore point is gone from the host" in point["reason"]

    (checkpoint,) = guest.checkpoints()
    guest.virsh("checkpoint-delete", checkpoint, "--metadata")
    change(guest, 3)
    point = back_up_and_compare(e2e, guest, tmp_path)
    assert modes(point) == {"vda": "full", "vdb": "full"}
    next_is_incremental(e2e, guest, tmp_path, 4)


def test_a_domain_that_was_defined_anew(e2e: World, guest: Guest, tmp_path: Path) -> None:
    """`virsh edit` keeps checkpoints; undefining takes libvirt's knowledge of them."""
    change(guest, 1)
    e2e.backup(guest)
    xml = guest.virsh("dumpxml", "--inactive", "--security-info")
    guest.host.virsh("define", "/dev/stdin", stdin=xml.replace("<vcpu", "<title>edited</title><vcpu"))
    change(guest, 2)
    point = back_up_and_compare(e2e, guest, tmp_path)
    assert modes(point) == {"vda": "incremental", "vdb": "incremental"}

    guest.poweroff()
    guest.virsh("undefine", "--checkpoints-metadata")
    guest.host.virsh("define", "/dev/stdin", stdin=xml)
    guest.start()
    change(guest, 3)
    point = back_up_and_compare(e2e, guest, tmp_path)
    assert modes(point) == {"vda": "full", "vdb": "full"}
    next_is_incremental(e2e, guest, tmp_path, 4)


def test_a_disk_added_while_running_is_full_beside_the_others(
    e2e: World, lab: Lab, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest = make_guest(disks=DISKS)
    change(guest, 1)
    e2e.backup(guest)
    new = lab.folder(f"hot-{os.urandom(4).hex()}") / "new disk.qcow2"
    guest.host.run(["qemu-img", "create", "-q", "-f", "qcow2", str(new), "16M"])
    guest.virsh("attach-disk", str(new), "vdc", "--subdriver", "qcow2", "--live", "--config")
    wait_for(lambda: guest.sh("[ -b /dev/vdc ] && echo yes", check=False), "the guest to see its new disk")
    guest.pattern("vdc", 2 * MIB, MIB, seed=5)
    change(guest, 2)

    made = e2e.backup(guest)

    point = e2e.newest(guest)
    assert modes(point) == {"vda": "incremental", "vdb": "incremental", "vdc": "full"}
    assert reasons(point)["vdc"] == "disk was added"
    images = e2e.restore(made.archive)
    for disk in ("vda", "vdb"):
        assert sha256(images[disk]) == sha256(guest.raw_copy(disk, tmp_path / disk))
    copy = tmp_path / "vdc"
    guest.host.run(["qemu-img", "convert", "-U", "-O", "raw", str(new), f"{guest.folder}/vdc.now"])
    assert guest.folder is not None
    copy.write_bytes((guest.folder / "vdc.now").read_bytes())
    assert sha256(images["vdc"]) == sha256(copy)
    again = e2e.backup(guest)
    assert set(modes(e2e.newest(guest)).values()) == {"incremental"}
    assert again.point["bytes_read"] == 0


def test_foreign_checkpoints_and_other_repositories_are_left_alone(
    e2e: World, guest: Guest, tmp_path: Path
) -> None:
    foreign = ("nightly-1", "virtnbdbackup.0", "vmconsole-ffffffff-20260101T000000-aaaa")
    for name in foreign:
        guest.virsh(
            "checkpoint-create", "/dev/stdin",
            stdin=f"<domaincheckpoint><name>{name}</name><disks><disk name='vda'/><disk name='vdb'/></disks>"
            "</domaincheckpoint>",
        )  # fmt: skip
    try:
        change(guest, 1)
        e2e.backup(guest)
        change(guest, 2)
        point = back_up_and_compare(e2e, guest, tmp_path)
        assert modes(point) == {"vda": "incremental", "vdb": "incremental"}
        e2e.clean()
        assert set(guest.checkpoints()) == {*foreign, point["disks"][0]["bitmap"]}
    finally:
        drop_checkpoints(guest)


def test_a_running_job_of_another_program_is_left_alone(e2e: World, guest: Guest, tmp_path: Path) -> None:
    change(guest, 1)
    e2e.backup(guest)
    before = guest.checkpoints()
    folder = guest.host.run(["sh", "-c", "echo /var/lib/libvirt/qemu/domain-*-bits"]).stdout.strip()
    guest.virsh(
        "backup-begin", "/dev/stdin",
        stdin="<domainbackup mode='pull'>"
        f"<server transport='unix' socket='{folder}/other.sock'/></domainbackup>",
    )  # fmt: skip
    try:
        change(guest, 2)
        refused = e2e.backup(guest, expect=1).fails("GuestBusy")
        assert "another program" in refused["message"]
        assert "other.sock" in refused["message"]
        (forecast,) = e2e.run("backup", "--dry-run", guest.uuid, expect=1).document["plan"]
        assert "another program" in forecast["message"]
        e2e.clean()
        assert guest.job() == "Unbounded", "somebody else's job was ended"
        assert guest.checkpoints() == before
        assert len(e2e.points(guest)) == 1
    finally:
        guest.virsh("domjobabort")
        wait_for(lambda: not guest.job(), "the job to end")
    point = back_up_and_compare(e2e, guest, tmp_path)
    assert modes(point) == {"vda": "incremental", "vdb": "incremental"}
    assert [line for line in guest_leftovers(guest) if "checkpoint" not in line] == []
