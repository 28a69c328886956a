"""Guest agents that hang, are absent, are slow or never thaw: the backup ends, says what it is worth, and the
guest goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_world import World, drop_checkpoints, open_world, sha256
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.images import filesystem_problems
from lab.leftovers import leftovers
from lab.session import Lab
from lab.waiting import wait_for

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

DISKS = (DiskSpec("vda", size=32 * MIB, fs="ext4"),)
BUDGET = 3.0


@pytest.fixture
def patient(lab: Lab, tmp_path: Path) -> Iterator[World]:
    """A world with short limits: an answer within a second, frozen for three at most."""
    limits = {"agent_timeout": "1 s", "freeze_budget": f"{BUDGET:g} s"}
    with open_world(lab, tmp_path / "world", defaults=limits) as world:
        yield world


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[Guest]:
    with lab.guest("agents", DISKS) as guest:
        yield guest


@pytest.fixture
def guest(shared: Guest) -> Iterator[Guest]:
    """With its real agent afterwards."""
    yield shared
    shared.agent_program("real")
    shared.virsh("guest-agent-timeout", "--timeout", "-2")
    drop_checkpoints(shared)


def crash_consistent(world: World, guest: Guest, *, frozen_before: bool = False) -> list[str]:
    """Back up with warnings, crash-consistent. Returns the warnings."""
    made = world.backup(guest, expect=3)
    assert made.point["consistency"] == "crash"
    image = world.restore(made.archive)["vda"]
    assert filesystem_problems(image) == ""
    assert world.borg_sha256(made.archive, "vda") == sha256(image)
    return made.warnings


def nothing_left(world: World, guest: Guest) -> None:
    assert leftovers(guest) == [f"checkpoint {world.newest(guest)['disks'][0]['bitmap']}"]
    assert world.journal() == []


def test_a_hanging_agent_that_freezes_late_is_thawed_by_doctor(patient: World, guest: Guest) -> None:
    guest.agent_hang()
    (warning, *more) = crash_consistent(patient, guest)
    assert "could not be frozen" in warning
    assert "crash-consistent" in warning
    assert any("domfsthaw" in line for line in more)
    assert not guest.frozen()
    assert [entry.kind for entry in patient.journal()] == ["libvirt-freeze-check"]

    still = patient.clean(expect=1)
    assert [item["done"] for item in still.document["cleaned"]] == [False], "it does not answer yet"
    guest.agent_wake()
    wait_for(lambda: guest.agent_answers(), "the agent to answer")
    patient.clean(expect=0)

    assert not guest.frozen()
    nothing_left(patient, guest)


def test_a_guest_that_was_frozen_late_is_thawed_by_the_next_backup(patient: World, guest: Guest) -> None:
    guest.agent_hang()
    crash_consistent(patient, guest)
    guest.agent_wake()
    wait_for(guest.agent_answers, "the agent to have done what was queued")

    made = patient.backup(guest)

    assert made.point["consistency"] == "application"
    assert made.point["mode"] == "incremental"
    assert not guest.frozen()
    nothing_left(patient, guest)


def test_an_agent_that_hangs_in_the_freeze(patient: World, guest: Guest) -> None:
    guest.agent_program("fake", "freeze=hang")
    assert "could not be frozen" in crash_consistent(patient, guest)[0]
    assert not guest.frozen()


def test_an_agent_that_refuses_to_freeze(patient: World, guest: Guest) -> None:
    guest.agent_program("fake", "freeze=error")
    (warning,) = crash_consistent(patient, guest)
    assert "refused by the lab's agent" in warning
    assert not guest.frozen()
    nothing_left(patient, guest)


def test_an_absent_agent(patient: World, guest: Guest) -> None:
    guest.agent_program("none")
    wait_for(lambda: not guest.agent_answers(), "libvirt to notice")
    warnings = crash_consistent(patient, guest)
    assert any("agent" in line and "crash-consistent" in line for line in warnings)
    nothing_left(patient, guest)


def test_a_guest_without_an_agent_channel(patient: World, lab: Lab) -> None:
    with lab.guest("mute", DISKS, agent=False) as mute:
        crash_consistent(patient, mute)
        nothing_left(patient, mute)


def test_a_slow_agent_within_the_budget(e2e: World, guest: Guest) -> None:
    guest.agent_program("fake", "freeze-delay=1", "thaw-delay=1")
    made = e2e.backup(guest)
    assert made.point["consistency"] == "application"
    point = e2e.newest(guest)
    assert 1000 <= point["freeze_ms"] < 10_000
    assert not guest.frozen()
    nothing_left(e2e, guest)


def test_an_agent_that_uses_up_the_budget(lab: Lab, guest: Guest, tmp_path: Path) -> None:
    """The timer on the host does not wait for the cut."""
    limits = {"agent_timeout": "10 s", "freeze_budget": "1 s"}
    with open_world(lab, tmp_path / "world", defaults=limits) as world:
        guest.agent_program("fake", "freeze-delay=4")
        (warning,) = crash_consistent(world, guest)
        assert "budget of 1 s" in warning or "could not be frozen" in warning
        assert not guest.frozen()
        nothing_left(world, guest)


def test_an_agent_that_thaws_and_never_says_so(patient: World, guest: Guest) -> None:
    guest.agent_program("fake", "thaw=silent")
    made = patient.backup(guest, expect=3)
    assert any("domfsthaw" in line for line in made.warnings)
    assert not guest.frozen()
    assert [entry.kind for entry in patient.journal()] == ["libvirt-freeze-check"]


@pytest.mark.parametrize("how", ["doctor", "next backup"])
def test_an_agent_that_never_thaws(patient: World, guest: Guest, how: str) -> None:
    """Only the agent could thaw: the backup says so loudly, and does it as soon as one answers."""
    guest.agent_program("fake", "thaw=error")
    made = patient.backup(guest, expect=3)
    assert any(f"virsh domfsthaw {guest.uuid}" in line for line in made.warnings)
    assert guest.frozen("vda"), "the fake agent is meant to leave it frozen"
    assert [entry.kind for entry in patient.journal()] == ["libvirt-freeze-check"]

    guest.agent_program("fake")
    assert guest.frozen("vda")
    if how == "doctor":
        patient.clean(expect=0)
    else:
        assert patient.backup(guest).point["mode"] == "incremental"
    assert not guest.frozen()
    nothing_left(patient, guest)
