"""Each fault with its exact error, exit code and hint; then nothing is left, and the next run is right."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from e2e_world import BORG, PASSPHRASE, Ran, World, drop_checkpoints, open_world, sha256
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.leftovers import leftovers
from lab.session import Lab
from lab.waiting import wait_for

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

DISKS = (DiskSpec("vda", size=24 * MIB), DiskSpec("vdb", size=24 * MIB))
MIDDLE: dict[str, Any] = {"event": "disk_progress", "disk": "vdb", "done": 0}
"""The first disk is read, the second one begins."""


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[Guest]:
    with lab.guest("faulty", DISKS) as guest:
        yield guest


@pytest.fixture
def guest(shared: Guest) -> Iterator[Guest]:
    """Running, whatever the test did to it, and then without checkpoints."""
    shared.pattern("vda", MIB, 4 * MIB, seed=1)
    shared.pattern("vdb", MIB, 4 * MIB, seed=1)
    yield shared
    if shared.state() != "running":
        shared.start()
    drop_checkpoints(shared)


def told(ran: Ran, error: str, message: str, hint: str) -> dict[str, Any]:
    """The one error of a command, with these words in its message and its hint."""
    found = ran.fails(error)
    assert message in found["message"], found
    assert hint in found["hint"], found
    return found


def nothing_left(world: World, guest: Guest, points: int) -> None:
    """On the host only the checkpoint of the newest of so many points; a clean repository, an empty journal."""
    wait_for(lambda: len(leftovers(guest)) <= min(points, 1), "the host to be as it was", 60)
    found = world.points(guest)
    assert len(found) == points
    assert leftovers(guest) == [f"checkpoint {point['disks'][0]['bitmap']}" for point in found[:1]]
    assert world.journal() == []
    world.borg_check()


def next_is_right(world: World, guest: Guest, folder: Path, mode: str = "incremental") -> None:
    guest.pattern("vdb", 2 * MIB, MIB, seed=int(time.time()))
    made = world.backup(guest)
    assert made.point["mode"] == mode, f"{made}"
    for disk, image in world.restore(made.archive).items():
        now = guest.raw_copy(disk, folder / f"now-{os.urandom(4).hex()}")
        assert sha256(image) == sha256(now), disk


# --- the guest and its host ---


@pytest.mark.parametrize(
    ("how", "then"), [(Guest.destroy, "incremental"), (Guest.kill_qemu, "full")], ids=["destroyed", "killed"]
)
def test_the_guest_is_switched_off_in_the_middle(
    e2e: World, guest: Guest, how: Callable[[Guest], None], then: str, tmp_path: Path
) -> None:
    e2e.backup(guest)
    guest.pattern("vdb", 8 * MIB, MIB, seed=2)
    with e2e.held(guest, **MIDDLE) as child:
        how(guest)
        ran = child.go()
    assert ran.status == 1
    told(ran, "GuestStopped", "was switched off while it was read", "Back it up again")
    guest.start()
    e2e.clean()
    next_is_right(e2e, guest, tmp_path, then)
    nothing_left(e2e, guest, 2)


def test_the_connection_is_cut_in_the_middle(e2e: World, guest: Guest, tmp_path: Path) -> None:
    e2e.backup(guest)
    guest.pattern("vdb", 8 * MIB, 8 * MIB, seed=2)
    with e2e.held(guest, **MIDDLE) as child:
        assert e2e.access["one"].sshd.cut()
        ran = child.go()
    assert ran.status == 20
    assert ran.fails("HostUnreachable")["hint"]
    nothing_left(e2e, guest, 1)
    next_is_right(e2e, guest, tmp_path)


def test_the_connection_is_silent_in_the_middle(e2e: World, guest: Guest, tmp_path: Path) -> None:
    """Nothing is closed, nothing answers, as when a firewall forgets us."""
    e2e.backup(guest)
    guest.pattern("vdb", 8 * MIB, 8 * MIB, seed=2)
    sshd = e2e.access["one"].sshd
    with e2e.held(guest, **MIDDLE) as child:
        assert sshd.freeze()
        began = time.monotonic()
        try:
            ran = child.go(120)
        finally:
            seconds = time.monotonic() - began
            sshd.thaw()
    assert ran.status == 20
    assert ran.fails("HostUnreachable")["hint"]
    assert seconds < 90
    nothing_left(e2e, guest, 1)
    next_is_right(e2e, guest, tmp_path)


def test_libvirtd_is_killed_in_the_middle_and_comes_back(e2e: World, guest: Guest, tmp_path: Path) -> None:
    e2e.backup(guest)
    guest.pattern("vdb", 8 * MIB, 4 * MIB, seed=2)
    with e2e.held(guest, **MIDDLE) as child:
        guest.host.kill_libvirtd()
        guest.host.start_libvirtd()
        ran = child.go()
    assert ran.status == 0, f"{ran}"
    images = e2e.restore(ran.archive)
    assert sha256(images["vdb"]) == sha256(guest.raw_copy("vdb", tmp_path / "now"))
    nothing_left(e2e, guest, 2)


def test_the_host_is_down(e2e: World, guest: Guest, tmp_path: Path) -> None:
    e2e.backup(guest)
    sshd = e2e.access["one"].sshd
    sshd.stop()
    for words in (("backup", guest.uuid), ("backup", "--all")):
        told(e2e.run(*words, expect=20), "HostUnreachable", "one", "vmconsole host check one")
    down = e2e.run("inventory", "--refresh", expect=20)
    assert [host["reachable"] for host in down.document["hosts"]] == [False]
    assert e2e.points(guest), "points need no host"
    sshd.start()
    next_is_right(e2e, guest, tmp_path)
    nothing_left(e2e, guest, 2)


def test_the_host_key_changed(e2e: World, guest: Guest, tmp_path: Path) -> None:
    e2e.backup(guest)
    sshd = e2e.access["one"].sshd
    old = sshd.host_key_fingerprint
    sshd.stop()
    sshd.renew_host_key()
    sshd.start()
    refused = told(
        e2e.run("backup", guest.uuid, expect=20),
        "HostKeyChanged",
        "CHANGED",
        "vmconsole host trust --replace one",
    )
    assert sshd.host_key_fingerprint in refused["message"]
    assert old != sshd.host_key_fingerprint
    new = sshd.host_key_fingerprint
    wrong = e2e.run("host", "trust", "one", "--fingerprint", old, "--replace", expect=2)
    told(wrong, "UsageError", new, "Nothing was trusted")
    kept = e2e.run("host", "trust", "one", "--fingerprint", new, expect=20)
    told(kept, "HostKeyChanged", "stays refused", "vmconsole host trust one --replace")
    e2e.run("backup", guest.uuid, expect=20)
    e2e.run("host", "trust", "one", "--fingerprint", new, "--replace")
    next_is_right(e2e, guest, tmp_path)
    nothing_left(e2e, guest, 2)


# --- scratch space ---


def test_the_scratch_space_runs_out_in_the_middle(lab: Lab, tmp_path: Path) -> None:
    """The guest overwrites more than there is room for; it must not stay paused, and no write may be lost."""
    folder = lab.root / f"scratch-{os.urandom(4).hex()}"
    lab.host.tmpfs(folder, 8)
    settings = {"scratch": str(folder), "scratch_reserve": "1 MiB"}
    with (
        lab.guest("writer", DISKS) as guest,
        open_world(lab, tmp_path / "world", host_settings=settings) as world,
    ):
        guest.pattern("vdb", 0, 20 * MIB, seed=1)
        world.backup(guest)
        guest.pattern("vdb", 0, 20 * MIB, seed=2)
        with world.held(guest, **MIDDLE) as child:
            guest.pattern("vdb", 0, 20 * MIB, seed=3)
            ran = child.go()
        assert ran.status == 1
        refused = ran.fails("OutOfSpace")
        assert str(folder) in refused["message"] + refused["hint"]
        assert guest.state() == "running"
        nothing_left(world, guest, 1)
        assert not guest.host.run(["find", str(folder), "-type", "f"]).stdout
        next_is_right(world, guest, tmp_path)


def test_too_little_scratch_space_is_seen_before_the_cut(lab: Lab, guest: Guest, tmp_path: Path) -> None:
    folder = lab.root / f"scratch-{os.urandom(4).hex()}"
    lab.host.tmpfs(folder, 8)
    settings = {"scratch": str(folder), "scratch_reserve": "1 GiB"}
    with open_world(lab, tmp_path / "world", host_settings=settings) as world:
        ran = world.backup(guest, expect=1)
        told(ran, "OutOfSpace", str(folder), "scratch")
        assert "cut" not in ran.out
        assert leftovers(guest) == []
        assert world.journal() == []


# --- the repository ---


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "e2e", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_repository_is_full(lab: Lab, guest: Guest, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "small", 16) as folder,
        open_world(lab, tmp_path / "world", location=folder / "repository") as world,
    ):
        world.backup(guest)
        # Not to be compressed.
        guest.sh("dd if=/dev/urandom of=/dev/vdb bs=1M count=16 conv=notrunc,fsync 2>&1", timeout=60)
        ran = world.backup(guest, expect=1)
        told(ran, "RepositoryFull", "main is full", "Free space")
        (point,) = world.points(guest)
        assert set(world.restore(point["archive"])) == {"vda", "vdb"}, "what is there can be restored"
        wait_for(lambda: len(leftovers(guest)) == 1, "the host to be as it was")
        subprocess.run(["mount", "-o", "remount,size=80m", str(folder)], check=True)
        nothing_left(world, guest, 1)
        next_is_right(world, guest, tmp_path)
        world.borg_check("--verify-data")


def test_the_repository_is_locked_by_a_living_borg(e2e: World, guest: Guest, tmp_path: Path) -> None:
    e2e.backup(guest)
    e2e.repository_settings["lock_wait"] = "2 s"
    e2e.configure()
    ready = tmp_path / "ready"
    with _borg_with_lock(e2e, ready) as holder:
        ran = e2e.backup(guest, expect=11)
        refused = told(ran, "RepositoryLocked", "main is locked by", "borg break-lock")
        assert str(holder.pid) in refused["message"]
        assert ran.events("waiting")
    nothing_left(e2e, guest, 1)
    next_is_right(e2e, guest, tmp_path)


def test_a_lock_that_goes_away_is_waited_for(e2e: World, guest: Guest, tmp_path: Path) -> None:
    with _borg_with_lock(e2e, tmp_path / "ready") as holder:
        child = e2e.start("backup", guest.uuid)
        wait_for(lambda: '"waiting"' in (child.folder / "out").read_text(), "the backup to wait for the lock")
        os.killpg(holder.pid, signal.SIGTERM)
        ran = child.wait()
    assert ran.status == 0, f"{ran}"
    nothing_left(e2e, guest, 1)


@contextmanager
def _borg_with_lock(world: World, ready: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Stock borg that holds the repository's lock until the end."""
    with subprocess.Popen(
        [str(BORG), "with-lock", str(world.repository), "sh", "-c", f"touch {ready}; exec sleep 100"],
        env={**world.environment, "BORG_PASSPHRASE": PASSPHRASE}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as holder:  # fmt: skip
        try:
            wait_for(ready.exists, "borg to have the lock")
            yield holder
        finally:
            with suppress(ProcessLookupError):
                os.killpg(holder.pid, signal.SIGTERM)


def test_the_repository_is_gone(e2e: World, guest: Guest, tmp_path: Path) -> None:
    e2e.backup(guest)
    away = e2e.repository.rename(e2e.folder / "away")
    for words in (
        ("backup", guest.uuid),
        ("points",),
        ("restore", f"{guest.uuid}@latest", "--to", str(tmp_path)),
    ):
        told(e2e.run(*words, expect=10), "RepositoryMissing", str(e2e.repository), "Is it mounted")
    away.rename(e2e.repository)
    nothing_left(e2e, guest, 1)
    next_is_right(e2e, guest, tmp_path)


def test_the_passphrase_is_wrong(e2e: World, guest: Guest, tmp_path: Path) -> None:
    e2e.backup(guest)
    e2e.set_passphrase("not it")
    for words in (
        ("backup", guest.uuid),
        ("points",),
        ("restore", f"{guest.uuid}@latest", "--to", str(tmp_path)),
    ):
        ran = e2e.run(*words, expect=12)
        told(ran, "WrongPassphrase", "main", "Check the passphrase")
        assert "not it" not in ran.out + ran.err
    e2e.set_passphrase(PASSPHRASE)
    nothing_left(e2e, guest, 1)
    next_is_right(e2e, guest, tmp_path)
