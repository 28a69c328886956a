"""A repository in memory and a real state, for the tests of prune, pins and compact."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import fakes

from vmconsole.interfaces import Cancel
from vmconsole.model.group import Group, Selector
from vmconsole.model.point import Consistency, RestorePoint
from vmconsole.model.schedule import Retention
from vmconsole.runs.compact import run_compact
from vmconsole.runs.looking import Memory
from vmconsole.runs.pins import run_pins
from vmconsole.runs.prune import plan_of, run_prune
from vmconsole.runs.runner import Runner
from vmconsole.state.ledger import StateLedger
from vmconsole.state.store import StateStore

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WEEK = 7 * 86400.0


class Clock:
    def __init__(self):
        self.time = NOW

    def now(self):
        return self.time

    def monotonic(self):
        return (self.time - NOW).total_seconds()


def point(days_ago, guest="web", number=1, **changes):
    uuid = f"{number:04x}1111-0000-4000-8000-000000000001"
    when = NOW - timedelta(days=days_ago)
    archive = f"{guest}.{uuid[:8]}-{when:%Y%m%dT%H%M%SZ}"
    made = RestorePoint(archive, guest, uuid, "kvm1", "libvirt", when, Consistency.CRASH, ())
    return replace(made, archive_id=f"id-{archive}", **changes)


class World:
    """A repository with two guests' points of five days each, of which a group keeps two."""

    def __init__(self, folder):
        self.clock = Clock()
        self.store = StateStore.open(folder / "state.sqlite", self.clock, "here:1:1", lambda _: False)
        self.memory = Memory(self.store, StateLedger(self.store.database, self.clock))
        self.ledger = self.memory.ledger
        self.cancel = Cancel()
        self.repository = fakes.FakeRepository(fakes.Diary())
        self.repository.saved = [
            point(day, guest, number) for day in range(5) for guest, number in (("web", 1), ("db", 2))
        ]
        self.groups = [Group("daily", Selector(guests=("web", "db")), "main", (), Retention(daily=2))]
        self.events = []

    @property
    def runner(self):
        return Runner(self.store, self.clock, self.cancel, [self.events.append], self.ledger)

    @property
    def plan(self):
        return plan_of(self.groups, self.store.inventories(), UTC)

    def prune(self, group=""):
        return run_prune(self.runner, self.repository, self.plan, self.memory, group)

    def compact(self, undo=WEEK):
        return run_compact(self.runner, self.repository, undo, self.memory)

    def pin(self, *points, pinned=True):
        return run_pins(self.runner, self.repository, points, self.memory, pinned=pinned)

    @property
    def marked(self):
        return sorted(mark.archive for mark in self.ledger.marks("main"))

    @property
    def there(self):
        return sorted(p.archive for p in self.repository.saved)

    def said(self, kind):
        return [event for event in self.events if event.kind == kind]


def names(*points):
    return sorted(p.archive for p in points)


OLD = names(*(point(day, *guest) for day in (2, 3, 4) for guest in (("web", 1), ("db", 2))))
