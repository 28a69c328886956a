"""Nights of a schedule for end-to-end tests, whenever they run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from e2e_world import Child, Ran, World
from sqlalchemy import delete

from vmconsole.remote.process import identity, is_dead
from vmconsole.state.history import StateHistory
from vmconsole.state.store import StateStore
from vmconsole.state.tables import backups
from vmconsole.wiring.clock import SystemClock

GROUP = "nightly"
RULE = "every 30 min"


class _LastWeek(SystemClock):
    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=7)


def night_falls(world: World) -> None:
    """GROUP, whose only schedule is RULE, is due: it was written down a week ago, and nothing was done since."""
    world.run("runs")  # makes the state
    clock = _LastWeek()
    store = StateStore.open(world.folder / "state/state.sqlite", clock, identity(), is_dead)
    try:
        history = StateHistory(store.database, clock, is_dead)
        history.note(f"slot/{GROUP}/main", "2020-01-01T00:00:00+00:00")
        with store.database.writing() as connection:
            connection.execute(delete(backups))
        history.follow(GROUP, "main", "another rule")
        history.follow(GROUP, "main", RULE)
    finally:
        store.close()


def night(world: World) -> Ran:
    night_falls(world)
    return world.run("--run-schedule")


def night_held(world: World, **at: object) -> Child:
    """A night that is held at that event. Guests that are busy or have moved are tried again after two seconds."""
    night_falls(world)
    child = world.start("--run-schedule", trap={"do": "hold", "at": at, "again": 2})
    child.await_trap()
    return child


def planned(ran: Ran) -> dict[str, tuple[str, str]]:
    """Host and mode by guest, of the last attempt."""
    return {item["guest"]: (item["host"], item["mode"]) for item in ran.events("guest_planned")}


def made(ran: Ran) -> list[str]:
    return sorted(item["guest"] for item in ran.events("point_made"))


def nothing_is_due(world: World) -> None:
    assert world.run("--run-schedule").documents == [{"run": None, "due": []}]
