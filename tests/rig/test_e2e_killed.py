"""kill -9 of the backup at every step: the host is as it was, the repository clean, the next backup right."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from e2e_world import World, open_world
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.images import pattern_bytes
from lab.leftovers import leftovers
from lab.lockstep import check_lockstep
from lab.session import Lab
from lab.waiting import wait_for

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

GUARD_SECONDS = 60.0
"""Within which the host has cleaned up by itself, on a machine that does several other things."""
DISKS = (DiskSpec("vda", size=32 * MIB, fs="ext4"), DiskSpec("vdb", size=32 * MIB))


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    """It writes in lockstep all the time."""
    with lab.guest("victim", DISKS, lockstep=("vda", "vdb")) as one:
        wait_for(lambda: one.lockstep_step() > 64, "a round of the lockstep writer")
        yield one


@pytest.fixture(scope="module")
def world(lab: Lab, guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a full restore point of the guest."""
    with open_world(lab, tmp_path_factory.mktemp("killed") / "world") as one:
        one.backup(guest)
        yield one


@pytest.fixture(scope="module")
def seeds() -> Iterator[int]:
    return count(1)


@pytest.fixture
def seed(seeds: Iterator[int]) -> int:
    """Another one for every test."""
    return next(seeds)


def at(event: str, step: str) -> dict[str, Any]:
    return {"event": event, "step": step}


KILLS = {
    "plan": at("step_started", "plan"),
    "lock": at("step_started", "lock"),
    "freeze": at("step_started", "freeze"),
    "frozen": at("step_finished", "freeze"),
    "cut": at("step_started", "cut"),
    "was cut": at("step_finished", "cut"),
    "thawed": at("step_finished", "thaw"),
    "read": {"event": "disk_progress", "disk": "vdb", "done": 0},
    "release": at("step_started", "release"),
    "commit": at("step_started", "commit"),
    "in the commit": {**at("step_started", "commit"), "after": 0.03},
    "committed": at("step_finished", "commit"),
    "advance": at("step_started", "advance"),
    "advanced": at("step_finished", "advance"),
}


def archives_of(world: World) -> set[str]:
    """As stock borg lists them, checkpoints included."""
    return set(world.borg("list", "--short", "--consider-checkpoints", "{}").stdout.decode().split())


def strange(guest: Guest, committed: set[str]) -> list[str]:
    """What is left on the host besides the checkpoints that restore points know."""
    return [line for line in leftovers(guest) if line not in {f"checkpoint {name}" for name in committed}]


def place(seed: int) -> int:
    return seed % 20 * MIB


def next_backup_is_right(world: World, guest: Guest, seed: int, archives: set[str]) -> None:
    """Incremental, in lockstep, with what was written before the kill, and the only new archive.

    Afterwards nothing is left but its checkpoint.
    """
    at_least = guest.lockstep_step()
    # 3: the lock of the dead run was removed, and that is said.
    made = world.backup(guest, expect=(0, 3))
    assert made.point["mode"] == "incremental", f"{made}"
    images = world.restore(made.archive)
    check_lockstep([images["vda"], images["vdb"]], at_least)
    with images["vdb"].open("rb") as file:
        file.seek(place(seed))
        assert file.read(MIB) == pattern_bytes(place(seed), MIB, seed)
    assert archives_of(world) == archives | {made.archive}, "something half-written is in the repository"
    assert world.journal() == []
    (only,) = leftovers(guest)
    assert only.startswith("checkpoint vmconsole-")


@pytest.mark.parametrize("when", KILLS)
def test_killed_at(when: str, world: World, guest: Guest, seed: int) -> None:
    guest.pattern("vdb", place(seed), MIB, seed)
    known = archives_of(world)
    world.killed(guest, **KILLS[when])

    points = world.points(guest)
    archives = {point["archive"] for point in points}
    committed = {disk["bitmap"] for point in points for disk in point["disks"]}
    if when in {"committed", "advance", "advanced"}:
        assert len(archives - known) == 1
    elif when != "in the commit":
        assert archives == known
    wait_for(lambda: not strange(guest, committed), "the host to clean up by itself", GUARD_SECONDS)
    world.clean()

    assert strange(guest, committed) == []
    assert guest.state() == "running"
    # Committed but not advanced: the parent's checkpoint stays until the next backup drops it.
    assert len(guest.checkpoints()) <= (
        2 if when in {"in the commit", "committed", "advance", "advanced"} else 1
    )
    assert world.journal() == []
    world.borg_check()
    next_backup_is_right(world, guest, seed, archives)


def test_the_next_backup_comes_at_once(world: World, guest: Guest, seed: int) -> None:
    """The dead run's guard may be at work still, and its lock is in the repository."""
    guest.pattern("vdb", place(seed), MIB, seed)
    archives = archives_of(world)
    world.killed(guest, **KILLS["read"])
    next_backup_is_right(world, guest, seed, archives)
    world.borg_check()


def kill_guards(guest: Guest) -> None:
    """kill -9 of all that guard.sh runs on the host: also its watcher and the timer that thaws."""
    found = guest.host.run(["sh", "-c", "grep -l vmconsole-[g]uard /proc/[0-9]*/cmdline 2>/dev/null"])
    numbers = [path.split("/")[2] for path in found.stdout.split()]
    assert numbers
    guest.host.run(["kill", "-KILL", *numbers])


@pytest.mark.parametrize(
    ("when", "how"),
    [("read", "doctor"), ("read", "next backup"), ("committed", "doctor"), ("committed", "next backup")],
)
def test_killed_together_with_its_guard(when: str, how: str, world: World, guest: Guest, seed: int) -> None:
    """Nobody on the host knows any more; what is known is in the journal."""
    guest.pattern("vdb", place(seed), MIB, seed)
    known = archives_of(world)
    with world.held(guest, **KILLS[when]) as child:
        kill_guards(guest)
        child.kill()
    archives = archives_of(world)
    assert len(archives - known) == (when == "committed")
    if how == "doctor":
        world.clean()
        assert world.journal() == []
        assert [line for line in leftovers(guest) if not line.startswith("checkpoint")] == []
    next_backup_is_right(world, guest, seed, archives)
    world.borg_check("--verify-data")


@pytest.mark.parametrize("how", ["doctor", "next backup"])
def test_killed_together_with_its_guard_while_the_agent_freezes(
    how: str, world: World, guest: Guest, seed: int
) -> None:
    """The guest gets frozen when nobody is left to thaw it."""
    guest.pattern("vdb", place(seed), MIB, seed)
    archives = archives_of(world)
    guest.agent_program("fake", "freeze-delay=4")
    try:
        with world.held(guest, **KILLS["freeze"]) as child:
            # By the agent itself: a virsh that is killed before it has asked leaves a guest that never freezes.
            wait_for(guest.freeze_asked, "the agent to be asked")
            kill_guards(guest)
            child.kill()
        wait_for(guest.frozen, "the agent to freeze the guest")
        if how == "doctor":
            world.clean()
            assert not guest.frozen()
            assert world.journal() == []
        next_backup_is_right(world, guest, seed, archives)
    finally:
        guest.agent_program("real")
