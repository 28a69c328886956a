"""A whole guest to a second host through the command line: it boots, its agent answers, its data are right."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_world import Ran, World, sha256
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.images import filesystem_problems
from lab.leftovers import host_leftovers, leftovers
from lab.session import Lab
from lab.waiting import wait_for

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

DISKS = (
    DiskSpec("vda", size=32 * MIB, fs="ext4", content={"hello.txt": b"from the first host\n"}),
    DiskSpec("vdb", size=24 * MIB, format="raw"),
)


@pytest.fixture(scope="module")
def world(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    hosts = {"one": lab.host, "two": lab.second_host}
    with World(tmp_path_factory.mktemp("restore") / "world", hosts, lab.folder("e2e-ssh")) as one:
        yield one


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    with lab.guest("moving house", DISKS) as one:
        yield one


@pytest.fixture(scope="module")
def point(world: World, guest: Guest) -> dict[str, Any]:
    """An increment: what is restored comes from two backups."""
    guest.pattern("vdb", 0, 12 * MIB, seed=1)
    world.backup(guest)
    guest.pattern("vdb", 5 * MIB, MIB, seed=2)
    guest.write_file("vda", "later.txt", b"before the second backup\n")
    world.backup(guest)
    return world.newest(guest)


@pytest.fixture
def place(lab: Lab) -> Path:
    return lab.folder(f"place-{os.urandom(4).hex()}")


def find(lab: Lab, name: str) -> Guest:
    (uuid,) = [uuid for uuid, known in lab.second_host.domains().items() if known == name]
    return lab.adopt(uuid, lab.second_host)


def to_host(world: World, point: str, name: str, place: Path, *more: str) -> Ran:
    """Restore to the second host. The lab's guests boot a kernel of the host: that is what is warned of."""
    words = ("--host", "two", "--as", name, "--storage", str(place), *more)
    ran = world.run("restore", point, *words, expect=3)
    (warning,) = ran.warnings
    assert "boots a kernel from the host" in warning
    return ran


def raw_of(guest: Guest, disk: str, place: Path) -> Path:
    """The disk of an adopted guest, as a raw image."""
    element = guest.xml().find(f"devices/disk/target[@dev='{disk}']/..")
    assert element is not None
    source, driver = element.find("source"), element.find("driver")
    assert source is not None
    assert driver is not None
    target = place / f"{disk}.check"
    guest.host.run(
        [
            "qemu-img",
            "convert",
            "-U",
            "-f",
            str(driver.get("type")),
            "-O",
            "raw",
            str(source.get("file")),
            str(target),
        ]
    )
    return target


def test_to_another_host_under_a_new_name(
    world: World, lab: Lab, guest: Guest, point: dict[str, Any], place: Path
) -> None:
    files = world.restore(point["archive"])
    name = "moved [bold]house"
    ran = to_host(world, point["archive"], name, place)
    (restored,) = ran.events("restored")
    assert restored["target"] == f"two/{name}"

    moved = find(lab, name)
    try:
        assert moved.state() == "shut off"
        assert moved.uuid != guest.uuid
        for disk, image in files.items():
            assert sha256(raw_of(moved, disk, place)) == sha256(image), disk
        moved.start()
        wait_for(moved.agent_answers, "its agent", 60)
        assert moved.sh("cat /mnt/vda/hello.txt /mnt/vda/later.txt").splitlines() == [
            "from the first host",
            "before the second backup",
        ]
        assert guest.state() == "running"
        assert guest.agent_answers()
        assert world.journal() == []
        moved.poweroff()
        assert filesystem_problems(raw_of(moved, "vda", place)) == ""
    finally:
        moved.remove()
    assert host_leftovers(lab.second_host) == []


def test_started_at_once_and_backed_up_as_a_guest_of_its_own(
    world: World, lab: Lab, guest: Guest, point: dict[str, Any], place: Path
) -> None:
    to_host(world, f"{guest.uuid}@latest", "clone", place, "--start")
    clone = find(lab, "clone")
    try:
        wait_for(clone.agent_answers, "its agent", 90)
        made = world.backup(clone)
        assert made.point["mode"] == "full"
        assert {item["uuid"] for item in world.points()} == {guest.uuid, clone.uuid}
        images = world.restore(made.archive)
        assert sha256(images["vdb"]) == sha256(raw_of(clone, "vdb", place))
    finally:
        clone.remove()
    after = world.backup(guest)
    assert after.point["mode"] == "incremental", "the copy must not disturb the original"


def test_never_over_a_guest_that_is_there(
    world: World, lab: Lab, guest: Guest, point: dict[str, Any], place: Path
) -> None:
    before = guest.virsh("dumpxml", "--inactive")
    for words in (("--host", "one"), ("--host", "one", "--as", guest.name)):
        ran = world.run("restore", point["archive"], *words, "--storage", str(place), expect=1)
        refused = ran.fails("GuestExists")
        assert guest.name in refused["message"]
        assert "--as" in refused["hint"]
    assert guest.virsh("dumpxml", "--inactive") == before
    assert list(place.iterdir()) == []
    assert world.journal() == []
    assert [line for line in leftovers(guest) if not line.startswith("checkpoint")] == []


def test_never_over_a_file_that_is_there(world: World, point: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "vdb.raw").write_bytes(b"mine")
    ran = world.run("restore", point["archive"], "--to", str(tmp_path), expect=1)
    assert "never overwrites" in ran.fails("RestoreFailed")["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["vdb.raw"]
    assert (tmp_path / "vdb.raw").read_bytes() == b"mine"


def test_killed_in_the_middle_and_cleaned_up(
    world: World, lab: Lab, point: dict[str, Any], place: Path
) -> None:
    """kill -9 of a restore: no guest, no files, and the same restore works afterwards."""
    words = ("restore", point["archive"], "--host", "two", "--as", "half", "--storage", str(place))
    at = {"event": "disk_progress", "disk": "vdb", "done": 0}
    ran = world.start(*words, trap={"do": "kill", "at": at}).wait()
    assert ran.status == -9
    assert "half" not in lab.second_host.domains().values()
    assert world.journal()
    assert any(path.suffix in {".qcow2", ".raw"} for path in place.iterdir())

    cleaned = world.clean()
    assert [item["done"] for item in cleaned.document["cleaned"]] == [True]
    assert list(place.iterdir()) == []
    wait_for(lambda: host_leftovers(lab.second_host) == [], "the host to be as it was", 30)
    to_host(world, point["archive"], "half", place)
    find(lab, "half").remove()
    assert json.loads(world.run("doctor").out)["leftovers"] == []
