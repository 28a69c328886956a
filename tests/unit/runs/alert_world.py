"""A shop for tests of alerts: history, alerts and channels in memory, a clock that moves when told to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import Guest, GuestKind, GuestState, HostInventory, HostKind
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.message import Delivery
from vmconsole.runs.gathering import gather
from vmconsole.runs.telling import Teller

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ALL = ("failure", "overdue", "unprotected", "repository", "vanished", "digest")


class Memory:
    """History and notes."""

    def __init__(self, world):
        self.world = world
        self.records = []
        self.notes = {}

    def add(self, guest, state=BackupState.DONE, *, ago=HOUR, took=timedelta(minutes=5), **values):
        started = self.world.now - ago
        ended = None if state is BackupState.RUNNING else started + took
        record = BackupRecord(
            len(self.records) + 1,
            f"run-{len(self.records) + 1}",
            guest.uuid,
            guest.name,
            guest.host,
            "main",
            started,
            state,
            ended=ended,
            group=values.pop("group", "daily"),
            seconds=took.total_seconds(),
        )
        self.records.append(replace(record, **values))
        return self.records[-1]

    def _newest(self):
        return sorted(self.records, key=lambda record: (record.started, record.id), reverse=True)

    def of_guest(self, uuid, limit=100):
        return [record for record in self._newest() if record.uuid == uuid][:limit]

    def since(self, moment):
        return [record for record in self._newest() if record.started >= moment]

    def latest(self):
        return {record.uuid: record for record in reversed(self._newest())}

    def latest_good(self):
        return {(record.uuid, record.group): record for record in reversed(self._newest()) if record.good}

    def note(self, key, value):
        self.notes[key] = (value, self.world.now)

    def noted(self, key):
        return self.notes.get(key)


class Alerts:
    def __init__(self, world):
        self.world = world
        self.rows = {}

    def holding(self):
        return list(self.rows.values())

    def update(self, found, kinds):
        wanted = {(a.kind, a.key): a for a in found if a.kind in kinds}
        ended = [a for key, a in self.rows.items() if a.kind in kinds and key not in wanted]
        for alert in ended:
            del self.rows[alert.kind, alert.key]
        for key, alert in wanted.items():
            old = self.rows.get(key)
            since, sent = (old.since, old.sent) if old else (self.world.now, None)
            self.rows[key] = replace(alert, since=since, sent=sent)
        return [replace(alert, ended=self.world.now) for alert in ended]

    def sent(self, alerts):
        for alert in alerts:
            if (alert.kind, alert.key) in self.rows:
                held = self.rows[alert.kind, alert.key]
                self.rows[alert.kind, alert.key] = replace(held, sent=self.world.now)


class Post:
    """A channel. broken: what it says when it does not work."""

    place = "test://…"

    def __init__(self, name, on=ALL):
        self.name = name
        self.on = on
        self.got = []
        self.broken = ""

    def check(self):
        return Delivery(self.name)

    def send(self, message):
        if self.broken:
            return Delivery(self.name, self.broken, "Mend it.")
        self.got.append(message)
        return Delivery(self.name)

    def take(self):
        got, self.got = self.got, []
        return got


class Store:
    def __init__(self, world):
        self.world = world
        self.seen = {}
        self.saved = {}

    def inventories(self):
        own = HostInventory("kvm1", HostKind.LIBVIRT, reachable=True, guests=tuple(self.world.guests))
        return {"kvm1": (own, NOW), **self.seen}

    def points(self, repository):
        return self.saved.get(repository, [])


def guest(name, number, **values):
    uuid = f"{number:08x}-0000-4000-8000-{number:012x}"
    return Guest(uuid, str(number), name, "kvm1", GuestKind.VM, GuestState.RUNNING, **values)


class World:
    def __init__(self):
        self.now = NOW
        self.web, self.db = guest("web", 1), guest("db", 2)
        self.guests = [self.web, self.db]
        self.groups = [Group("daily", Selector(guests=("*",)), "main")]
        self.limits = {"daily": 26 * 3600.0}
        self.followed = {"daily": NOW - 30 * DAY}
        self.history, self.alerts, self.store = Memory(self), Alerts(self), Store(self)
        self.mail, self.chat = Post("mail"), Post("chat")
        self.facts_more = {}
        self.teller_more = {}

    def facts(self, **more):
        return gather(
            self.store,
            self.history,
            self.groups,
            ("kvm1",),
            self.now,
            UTC,
            limits=self.limits,
            followed=self.followed,
            **self.facts_more,
            **more,
        )

    @property
    def teller(self):
        return Teller(self.alerts, self.history, [self.mail, self.chat], 86400.0, **self.teller_more)

    def report(self, **more):
        return self.teller.report(self.facts(), **more)

    def good_night(self, **values):
        return [self.history.add(guest, **values) for guest in self.guests]
