"""What the console knows at one moment, read from what is remembered. No host and no repository is asked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from vmconsole.config.settings import Config
from vmconsole.errors import VmconsoleError
from vmconsole.front.services import Services
from vmconsole.front.shop import shop_of
from vmconsole.model.alert import Alert
from vmconsole.model.calendar import next_time, opens
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.model.history import GOOD_STATES, BackupRecord, BackupState, Glance
from vmconsole.model.run import Run, RunState
from vmconsole.model.words import duration
from vmconsole.runs.alerts import Facts, argument, unprotected
from vmconsole.tui.states import State

NIGHTS = 14
_RUNS = 200


@dataclass(frozen=True, slots=True)
class GuestRow:
    """One guest and how well it is protected.

    why: one sentence on its state. fix: what to do about it, naming keys. good: the newest that left a point.
    last: the newest attempt, whatever became of it. next: when its next scheduled backup may begin.
    nights: bytes that had changed, for each of the last NIGHTS days, the newest last; None without a backup.
    failures: the nights when the last attempt failed.
    """

    guest: Guest
    state: State
    why: str = ""
    fix: str = ""
    groups: tuple[str, ...] = ()
    good: BackupRecord | None = None
    last: BackupRecord | None = None
    next: datetime | None = None
    overdue: bool = False
    nights: tuple[int | None, ...] = ()
    failures: tuple[bool, ...] = ()
    stored: int = 0
    """Bytes its backups of these nights added to the repository."""
    seen: datetime | None = None
    """When its host last told of it."""

    @property
    def key(self) -> str:
        return self.guest.uuid

    @property
    def argument(self) -> str:
        """How a command line names it."""
        return argument(self.guest.name, self.guest.host, self.guest.uuid)

    @property
    def needs_attention(self) -> bool:
        return self.state.needs_attention

    def age(self, now: datetime) -> float | None:
        """Seconds since its newest good restore point."""
        return None if self.good is None else (now - self.good.started).total_seconds()


@dataclass(frozen=True, slots=True)
class Picture:
    """problem: why the configuration cannot be used; the rest is then empty. hosts: as last seen, by name.

    trouble: why the memory cannot be read or written now; the rest is then as it was before, if it ever was.
    """

    now: datetime
    zone: tzinfo = UTC
    config: Config | None = None
    problem: VmconsoleError | None = None
    trouble: VmconsoleError | None = None
    groups: tuple[Group, ...] = ()
    hosts: Mapping[str, tuple[HostInventory, datetime]] = field(default_factory=dict)
    guests: tuple[GuestRow, ...] = ()
    runs: tuple[Run, ...] = ()
    alerts: tuple[Alert, ...] = ()
    recent: tuple[Glance, ...] = ()
    """Backups of the last 24 hours, newest first."""

    @property
    def running(self) -> list[Run]:
        return [run for run in self.runs if run.state is RunState.RUNNING]

    def guest(self, uuid: str) -> GuestRow | None:
        return next((row for row in self.guests if row.key == uuid), None)


def take(services: Services, *, history: bool = True) -> Picture:
    """history: also what the last NIGHTS days were like, which takes longer in a large shop. Never raises
    VmconsoleError."""
    now = services.clock.now()
    try:
        config = services.config
        zone = config.timezone
    except VmconsoleError as error:
        return Picture(now, problem=error)
    try:
        facts = shop_of(services).facts()
        hosts = {name: seen for name, seen in services.store.inventories().items() if name in config.hosts}
        nights = (
            read_nights(services.history.glances(_first_night(now, zone)), now, zone)
            if history
            else NO_NIGHTS
        )
        runs = tuple(services.store.runs(_RUNS))
        alerts = tuple(services.alerts.holding())
    except VmconsoleError as error:
        return Picture(now, zone, config, trouble=error)
    return Picture(
        now,
        zone,
        config,
        None,
        None,
        tuple(facts.groups),
        hosts,
        guest_rows(facts, hosts, nights.by_guest),
        runs,
        alerts,
        nights.recent,
    )


def guest_rows(
    facts: Facts, hosts: Mapping[str, tuple[HostInventory, datetime]], nights: Mapping[str, GuestNights]
) -> tuple[GuestRow, ...]:
    """Those that need attention first, then by name."""
    coming = {group.name: next_of(group, facts.now, facts.zone) for group in facts.groups}
    rows = [
        _guest_row(facts, guest, nights.get(guest.uuid, _NONE), coming, hosts[guest.host][1])
        for guest in facts.guests
    ]
    return tuple(sorted(rows, key=lambda row: (not row.needs_attention, row.guest.name, row.guest.host)))


def next_of(group: Group, now: datetime, zone: tzinfo) -> datetime | None:
    """When the group's next scheduled work may begin; None when nothing is scheduled, or all is paused for good."""
    times = []
    for schedule in group.schedules:
        if schedule.pause and schedule.pause.year >= 9999:
            continue
        since = max(now, schedule.pause) if schedule.pause else now
        if (time := next_time(schedule.when, since, zone)) is not None:
            times.append(opens(schedule.window, time, zone))
    return min(times, default=None)


def is_paused(group: Group, now: datetime) -> bool:
    """Whether all its schedules are."""
    return bool(group.schedules) and all(item.pause and now < item.pause for item in group.schedules)


def _guest_row(
    facts: Facts,
    guest: Guest,
    nights: GuestNights,
    coming: Mapping[str, datetime | None],
    seen: datetime,
) -> GuestRow:
    groups = facts.groups_of(guest)
    names = tuple(group.name for group in groups)
    keys = [(guest.uuid, name) for name in (*names, "")]
    good = [record for key in keys if (record := facts.latest_good.get(key))]
    decided = [record for key in keys if (record := facts.verdicts.decided.get(key))]
    running = [record for key in keys if (record := facts.verdicts.running.get(key))]
    newest_good = max(good, key=lambda record: record.started, default=None)
    last = max((*decided, *running), key=lambda record: record.started, default=None)
    late = [group for group in groups if facts.is_overdue(guest, group)]
    state, why, fix = _judge(facts, guest, groups, late, newest_good, last, running)
    return GuestRow(
        guest,
        state,
        why,
        fix,
        names,
        newest_good,
        last,
        min((time for name in names if (time := coming[name])), default=None),
        bool(late),
        tuple(nights.changed),
        tuple(nights.failed),
        nights.stored,
        seen,
    )


def _judge(
    facts: Facts,
    guest: Guest,
    groups: Sequence[Group],
    late: Sequence[Group],
    good: BackupRecord | None,
    last: BackupRecord | None,
    running: Sequence[BackupRecord],
) -> tuple[State, str, str]:
    """(state, why, fix)."""
    if running:
        return (
            State.RUNNING,
            f"It is being backed up since {facts.time(running[0].started)}.",
            "l shows how far",
        )
    failed = last is not None and not last.good
    if failed and last is not None:
        told = _sentence(last.error or "The run's process vanished.")
        since = (
            f"No good restore point for {_age(facts, good)}. " if good else "It has no restore point yet. "
        )
        remedy = f"{_sentence(last.hint)} " if last.hint else ""
        return (
            State.FAILED,
            f"{since}The last backup, {facts.time(last.started)}, failed: {told}",
            (f"{remedy}l shows its log, b tries again"),
        )
    if late:
        limit = duration(late[0].overdue_after or facts.limits.get(late[0].name, 0.0))
        if good is None:
            return (
                State.NEVER,
                f"Group {late[0].name} still waits for its first restore point.",
                "b backs it up now",
            )
        return (
            State.LATE,
            f"No good restore point for {_age(facts, good)} (group {late[0].name} allows {limit}).",
            ("b backs it up now, l shows the log of its last run"),
        )
    if not groups:
        if not unprotected(guest, facts.groups):
            why = "A template: it does not change." if guest.template else "A group names it as an exception."
            return State.OFF, why, "b backs it up all the same"
        had = f" Its last restore point is {_age(facts, good)} old." if good else ""
        return (
            State.NEVER,
            f"It is in no group: nothing backs it up by itself.{had}",
            "a puts it into a group",
        )
    if good is None:
        return State.NEVER, "It has no restore point yet.", "b makes the first one now"
    if all(is_paused(group, facts.now) for group in groups if group.schedules) and any(
        g.schedules for g in groups
    ):
        return State.PAUSED, "Its schedule is paused.", "2 shows its group, p goes on"
    if last is not None and last.state is BackupState.WARNINGS:
        said = f": {_sentence(last.error)}" if last.error else "."
        return (
            State.WARNING,
            f"Backed up {facts.time(last.started)} with warnings{said}",
            "l shows what they were",
        )
    return State.OK, "", ""


def _age(facts: Facts, record: BackupRecord | None) -> str:
    return "–" if record is None else duration((facts.now - record.started).total_seconds())


def _sentence(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if one_line.endswith((".", "!", "?")) else f"{one_line}."


def _first_night(now: datetime, zone: tzinfo) -> datetime:
    day = (now.astimezone(zone) - timedelta(days=NIGHTS - 1)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    return day.astimezone(UTC)


@dataclass(slots=True)
class GuestNights:
    """As GuestRow.nights and failures, while they are added up. stored: bytes, of all of them."""

    changed: list[int | None] = field(default_factory=lambda: [None] * NIGHTS)
    failed: list[bool] = field(default_factory=lambda: [False] * NIGHTS)
    decided: list[bool] = field(default_factory=lambda: [False] * NIGHTS)
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Nights:
    by_guest: Mapping[str, GuestNights]
    recent: tuple[Glance, ...] = ()


NO_NIGHTS = Nights({})
_NONE = GuestNights()


def read_nights(glances: Iterable[Glance], now: datetime, zone: tzinfo) -> Nights:
    """glances: newest first. A night is a calendar day of the zone."""
    today = now.astimezone(zone).date()
    found: dict[str, GuestNights] = {}
    recent = []
    for glance in glances:
        if now - glance.started < timedelta(days=1):
            recent.append(glance)
        index = NIGHTS - 1 - (today - glance.started.astimezone(zone).date()).days
        if not 0 <= index < NIGHTS:
            continue
        nights = found.setdefault(glance.uuid, GuestNights())
        nights.stored += glance.bytes_stored
        if glance.state in GOOD_STATES:
            nights.changed[index] = (nights.changed[index] or 0) + glance.bytes_dirty
        if not nights.decided[index] and glance.state is not BackupState.RUNNING:
            nights.decided[index] = True
            nights.failed[index] = glance.state in (BackupState.FAILED, BackupState.DIED)
    return Nights(found, tuple(recent))
