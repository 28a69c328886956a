"""Nights in which runs go on."""

from __future__ import annotations

from datetime import timedelta

from world import GIB, NOW, World

from vmconsole.events import (
    DiskProgress,
    Event,
    GuestPlanned,
    PointMade,
    RunStarted,
    StepStarted,
    Throttled,
    Warned,
)
from vmconsole.model.history import BackupState
from vmconsole.model.run import Run, RunState
from vmconsole.tui.states import Glyphs

CURSOR = Glyphs().cursor
SIZES = [(80, 24), (120, 36), (200, 50)]


def say(world: World, run: Run, *events: tuple[float, Event]) -> None:
    """Each so many seconds before now."""
    for ago, event in events:
        world.clock.time = NOW - timedelta(seconds=ago)
        world.services.store.add_event(run.id, event.as_json() | {"run": run.id})
    world.clock.time = NOW


def reading(world: World, run: Run, guest: str, disk: str, total: int, rate: int, seconds: int = 30) -> None:
    """At that rate, for so long, until now."""
    for second in range(seconds, -1, -1):
        say(world, run, (second, DiskProgress("", guest, disk, rate * (seconds - second), total)))


def a_busy_night(world: World) -> Run:
    """A group's run that goes on: one guest done, two being read, one of them with two disks; two to come."""
    names = {guest.name: guest for host in world.guests.values() for guest in host}
    run = world.run(ago=timedelta(minutes=2), state=RunState.RUNNING)
    world.services.store._throttle.let_through = lambda run, topic: True
    say(
        world, run,
        (119, RunStarted("", "backup", "group daily")),
        (118, GuestPlanned("", "dc-01", "pve", "incremental", "", "pull", "", GIB)),
        (100, Warned("", "dc-01", "The guest agent took 9 s to answer.")),
        (90, PointMade("", "dc-01", "dc-01.x-1", "incremental", "application", 28.0, GIB, GIB // 4)),
        (80, GuestPlanned("", "web-01", "kvm1", "full", "the last restore point left no bitmap", "pull", "", 9 * GIB)),
        (80, GuestPlanned("", "files", "kvm1", "incremental", "", "pull", "", 20 * GIB)),
        (70, StepStarted("", "web-01", "read")),
        (70, StepStarted("", "files", "read")),
        (20, Throttled("", "kvm1", 200 << 20, "its disks are busy")),
    )  # fmt: skip
    reading(world, run, "web-01", "vda", 9 * GIB, 100 << 20)
    reading(world, run, "files", "vda", 12 * GIB, 50 << 20)
    reading(world, run, "files", "vdb", 8 * GIB, 25 << 20)
    world.backup(names["dc-01"], ago=timedelta(seconds=118), run=run.id)
    for name in ("web-01", "files"):
        world.backup(names[name], ago=timedelta(seconds=80), run=run.id, state=BackupState.RUNNING)
    return run
