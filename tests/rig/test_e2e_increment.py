"""The main job through the real command line: full, then increments, of guests that write all the time."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_world import World, drop_checkpoints, sha256
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.images import pattern_bytes
from lab.leftovers import leftovers
from lab.lockstep import check_lockstep
from lab.session import Lab

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

DISKS = (
    DiskSpec("vda", fs="ext4", content={"note.txt": b"before\n"}),
    DiskSpec("vdb"),
    DiskSpec("vdc", detect_zeroes="unmap"),
)
STEPS = ("plan", "lock", "freeze", "cut", "thaw", "read", "release", "commit", "advance")


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[Guest]:
    with lab.guest("shop db", DISKS) as guest:
        yield guest


@pytest.fixture
def guest(shared: Guest) -> Iterator[Guest]:
    yield shared
    drop_checkpoints(shared)


def host_says_dirty(guest: Guest, checkpoint: str) -> int:
    """Bytes that libvirt's own checkpoint has recorded as changed, all disks together."""
    text = guest.virsh("checkpoint-dumpxml", checkpoint, "--no-domain", "--size")
    return sum(int(size) for size in re.findall(r"size='(\d+)'", text))


def zeros(image: Path, offset: int, length: int) -> bool:
    with image.open("rb") as file:
        file.seek(offset)
        return file.read(length) == bytes(length)


def same_as_now(guest: Guest, images: dict[str, Path], disks: tuple[str, ...], folder: Path) -> None:
    """Restored disks are what the guest's disks are now; nothing may have been written since the cut."""
    for disk in disks:
        assert sha256(images[disk]) == sha256(guest.raw_copy(disk, folder / f"{disk}.now")), disk


def file_in(image: Path, name: str) -> bytes:
    """A file in the ext4 file system of a restored disk."""
    done = subprocess.run(["debugfs", "-R", f"cat {name}", str(image)], capture_output=True, check=True)
    return done.stdout


def sound_file_system(image: Path) -> None:
    """Nothing to repair and no journal to replay, as after an unmount: it was frozen at the cut."""
    done = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "recover" not in (done.stdout + done.stderr).lower()


def test_full_and_increments_of_two_disks_that_are_written_in_lockstep(
    e2e: World, guest: Guest, tmp_path: Path
) -> None:
    guest.pattern("vdb", 0, 24 * MIB, seed=1)
    guest.lockstep_start("vda", "vdb")
    try:
        before_full = guest.lockstep_step()
        full = e2e.backup(guest)
        guest.pattern("vdb", 5 * MIB, 2 * MIB, seed=2)
        guest.write_file("vda", "new.txt", b"after the full\n")
        before_increment = guest.lockstep_step()
        increment = e2e.backup(guest)
    finally:
        guest.lockstep_stop()

    assert [full.point["mode"], increment.point["mode"]] == ["full", "incremental"]
    for ran, at_least in ((full, before_full), (increment, before_increment)):
        images = e2e.restore(ran.archive)
        check_lockstep([images["vda"], images["vdb"]], at_least)
        sound_file_system(images["vda"])
        for disk, image in images.items():
            assert e2e.borg_sha256(ran.archive, disk) == sha256(image)
    assert file_in(images["vda"], "new.txt") == b"after the full\n"
    with images["vdb"].open("rb") as file:
        expected = bytearray(pattern_bytes(0, 24 * MIB, 1))
        expected[5 * MIB : 7 * MIB] = pattern_bytes(5 * MIB, 2 * MIB, 2)
        assert file.read(24 * MIB) == expected
    e2e.borg_check("--verify-data")

    newest, oldest = e2e.points(guest)
    for point in (newest, oldest):
        assert point["consistency"] == "application"
        assert 0 < point["freeze_ms"] < 10_000
    assert 2 * MIB <= newest["bytes_read"] <= 1.1 * newest["bytes_dirty"]
    assert newest["bytes_dirty"] < 16 * MIB
    assert {disk["parent"] for disk in newest["disks"]} == {oldest["archive_id"]}
    assert set(STEPS) <= set(increment.steps())
    assert leftovers(guest) == [f"checkpoint {newest['disks'][0]['bitmap']}"]
    assert e2e.journal() == []


def test_an_increment_reads_what_the_host_itself_counts_as_dirty(
    e2e: World, guest: Guest, tmp_path: Path
) -> None:
    e2e.backup(guest)
    for number in range(20):
        guest.pattern("vdb", number * 3 * MIB + 12288, 8192, seed=number)  # scattered, small
    guest.pattern("vdc", 9 * MIB, 3 * MIB, seed=3)
    guest.sync()
    (checkpoint,) = guest.checkpoints()
    dirty = host_says_dirty(guest, checkpoint)

    made = e2e.backup(guest)

    assert 3 * MIB < dirty < 8 * MIB
    assert made.point["bytes_read"] <= 1.1 * dirty
    assert e2e.newest(guest)["bytes_dirty"] <= 1.1 * dirty
    same_as_now(guest, e2e.restore(made.archive), ("vdb", "vdc"), tmp_path)


def test_sixteen_mebibytes_overwritten_with_zeros_are_zeros(e2e: World, guest: Guest, tmp_path: Path) -> None:
    """vdc: the host turns written zeros into holes (detect_zeroes=unmap). vdb: it does not."""
    changes = [("vdb", "write"), ("vdb", "zeroout"), ("vdb", "discard"), ("vdc", "write"), ("vdc", "discard")]
    places = {
        change: [one for one in changes if one[0] == change[0]].index(change) * 17 * MIB for change in changes
    }
    for disk in ("vdb", "vdc"):
        guest.pattern(disk, 0, 56 * MIB, seed=7)
    e2e.backup(guest)
    for (disk, how), offset in places.items():
        guest.zero(disk, offset, 16 * MIB, how)
        guest.pattern(disk, offset + 8 * MIB, 65536, seed=8)
    guest.sync()
    increment = e2e.backup(guest)

    assert increment.point["mode"] == "incremental"
    images = e2e.restore(increment.archive, "vdb", "vdc")
    for (disk, how), offset in places.items():
        assert zeros(images[disk], offset, 8 * MIB), (disk, how)
        assert zeros(images[disk], offset + 8 * MIB + 65536, 8 * MIB - 65536), (disk, how)
        assert not zeros(images[disk], offset + 16 * MIB, MIB), (disk, how)
        assert e2e.borg_sha256(increment.archive, disk) == sha256(images[disk])
    same_as_now(guest, images, ("vdb", "vdc"), tmp_path)


def test_what_a_file_system_trims_is_zeros(e2e: World, guest: Guest, tmp_path: Path) -> None:
    guest.sh("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=20 conv=fsync 2>&1", timeout=60)
    e2e.backup(guest)
    guest.sh("rm /mnt/vda/big && sync && fstrim /mnt/vda && sync")
    increment = e2e.backup(guest)

    images = e2e.restore(increment.archive, "vda")
    sound_file_system(images["vda"])
    assert file_in(images["vda"], "note.txt") == b"before\n"
    assert images["vda"].stat().st_blocks * 512 < 20 * MIB, "what was trimmed is stored as data"
    assert sha256(images["vda"]) == e2e.borg_sha256(increment.archive, "vda")


def test_a_disk_that_grew_while_running(e2e: World, make_guest: Callable[..., Guest], tmp_path: Path) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB), DiskSpec("vdb", size=16 * MIB)])
    guest.pattern("vda", 0, 12 * MIB, seed=1)
    e2e.backup(guest)
    guest.virsh("blockresize", "vda", f"{24 * MIB}B")
    guest.pattern("vda", 18 * MIB, 2 * MIB, seed=2)
    guest.sync()
    increment = e2e.backup(guest)

    vda, vdb = e2e.newest(guest)["disks"]
    assert (vda["mode"], vda["size"]) == ("incremental", 24 * MIB)
    assert (vdb["mode"], vdb["size"]) == ("incremental", 16 * MIB)
    same_as_now(guest, e2e.restore(increment.archive), ("vda", "vdb"), tmp_path)
    e2e.borg_check("--verify-data")
    after = e2e.backup(guest)
    assert after.point["bytes_read"] == 0
    same_as_now(guest, e2e.restore(after.archive), ("vda", "vdb"), tmp_path)
