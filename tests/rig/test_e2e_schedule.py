"""`--run-schedule` goes where the guests are, and comes back to those that are busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_schedule import GROUP, RULE, made, night, night_held, nothing_is_due, planned
from e2e_world import World, sha256
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.host import LibvirtHost
from lab.images import read_files
from lab.leftovers import guest_leftovers
from lab.session import Lab

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]

DISKS = (DiskSpec("vda", size=24 * MIB, fs="ext4"),)
BOTH = ["stayer", "walker"]


@pytest.fixture(scope="module")
def guests(lab: Lab) -> Iterator[dict[str, Guest]]:
    with lab.guest("stayer", DISKS) as stayer, lab.guest("walker", DISKS) as walker:
        yield {"stayer": stayer, "walker": walker}


@pytest.fixture(scope="module")
def world(lab: Lab, guests: dict[str, Guest], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("schedule") / "world",
        {"one": lab.host, "two": lab.second_host},
        lab.folder("e2e-ssh"),
        groups={GROUP: {"guests": [guest.uuid for guest in guests.values()], "when": RULE}},
    ) as opened:
        yield opened


def move(guest: Guest, host: LibvirtHost) -> None:
    """Its images are on a storage that both hosts have."""
    guest.poweroff()
    xml = guest.virsh("dumpxml", "--inactive")
    guest.virsh("undefine", "--checkpoints-metadata")
    guest.host = host
    host.virsh("define", "/dev/stdin", stdin=xml)
    guest.start()


def begin_foreign_job(guest: Guest) -> None:
    folder = guest.host.run(["sh", "-c", f"echo /var/lib/libvirt/qemu/domain-*-{guest.name}"]).stdout.strip()
    guest.virsh(
        "backup-begin",
        "/dev/stdin",
        stdin="<domainbackup mode='pull'>"
        f"<server transport='unix' socket='{folder}/other.sock'/></domainbackup>",
    )


def test_a_guest_that_moved_is_followed_and_a_busy_one_is_done_later(
    lab: Lab, world: World, guests: dict[str, Guest]
) -> None:
    first = night(world)
    assert planned(first) == dict.fromkeys(BOTH, ("one", "full"))
    nothing_is_due(world)

    stayer, walker = guests["stayer"], guests["walker"]
    move(walker, lab.second_host)
    walker.write_file("vda", "mark", b"after the move")
    begin_foreign_job(stayer)
    try:
        child = night_held(world, event="guest_postponed")
    finally:
        stayer.virsh("domjobabort")
    second = child.go()

    assert second.status == 0, f"{second}"
    (told,) = second.events("guest_postponed")
    assert told["guest"] == "stayer"
    assert "another" in told["message"]
    assert made(second) == BOTH
    assert second.events("guest_failed") == []
    # Its checkpoints stayed behind, and that is no reason to build upon what cannot be proven.
    assert planned(second) == {"stayer": ("one", "incremental"), "walker": ("two", "full")}
    newest = world.newest(walker)
    assert newest["host"] == "two"
    image = world.restore(newest["archive"])["vda"]
    assert sha256(image) == world.borg_sha256(newest["archive"], "vda")
    assert read_files(image, ["mark"]) == {"mark": b"after the move"}
    nothing_is_due(world)

    # It has checkpoints where it is now.
    assert planned(night(world)) == {"stayer": ("one", "incremental"), "walker": ("two", "incremental")}


def test_a_guest_that_moves_while_it_waits_for_its_turn(
    lab: Lab, world: World, guests: dict[str, Guest]
) -> None:
    move(guests["walker"], lab.host)
    child = night_held(world, event="step_started", step="plan")
    (begun,) = {
        name for name in BOTH if f'"guest": "{name}", "step": "plan"' in (child.folder / "out").read_text()
    }
    (waits,) = set(BOTH) - {begun}
    move(guests[waits], lab.second_host)
    ran = child.go()

    assert ran.status == 0, f"{ran}"
    assert [item["guest"] for item in ran.events("guest_postponed")] == [waits]
    assert made(ran) == BOTH
    assert planned(ran)[waits] == ("two", "full")
    assert planned(ran)[begun][0] == "one"
    nothing_is_due(world)
    for guest in guests.values():
        bitmap = world.newest(guest)["disks"][0]["bitmap"]
        assert guest_leftovers(guest) == [f"checkpoint {bitmap}"]
    assert world.journal() == []
