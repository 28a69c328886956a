"""Runs as rows: what the list of runs shows of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.run import Run, RunState
from vmconsole.model.words import countdown, size
from vmconsole.tui.following import Following, GuestPart
from vmconsole.tui.logtext import Line
from vmconsole.tui.picture import GuestRow, Picture
from vmconsole.tui.states import State

STATES: Mapping[RunState, tuple[State, str]] = {
    RunState.RUNNING: (State.RUNNING, "running"),
    RunState.DONE: (State.OK, "done"),
    RunState.WARNINGS: (State.WARNING, "warnings"),
    RunState.FAILED: (State.FAILED, "failed"),
    RunState.CANCELLED: (State.OFF, "stopped"),
    RunState.DIED: (State.FAILED, "died"),
}
DIED = "The process vanished. Clean up after it with: vmconsole doctor --clean"
_FEW = 2
_UNDONE = (BackupState.FAILED, BackupState.DIED)
_WORKING = (BackupState.RUNNING, BackupState.POSTPONED)


@dataclass(frozen=True, slots=True)
class Watched:
    """All that is known of one run. records: what became of its guests. tail: the last lines of its log."""

    run: Run
    following: Following = field(default_factory=Following)
    records: tuple[BackupRecord, ...] = ()
    tail: tuple[Line, ...] = ()

    @property
    def over(self) -> bool:
        return self.run.state is not RunState.RUNNING


@dataclass(frozen=True, slots=True)
class RunRow:
    """took: so far, or until its end. left: seconds, where it runs and somebody can tell. waits: guests whose turn
    has not come. of: guests in all; 0 for a run that is about none. read: bytes. told: one line on how it goes or
    went.
    """

    run: Run
    state: State
    word: str
    took: str = ""
    left: str = ""
    done: int = 0
    of: int = 0
    read: int = 0
    told: str = ""
    names: str = ""
    """Of its guests, for the filter."""
    waits: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.run.id

    @property
    def running(self) -> bool:
        return self.run.state is RunState.RUNNING

    @property
    def what(self) -> str:
        """Many names are counted; the detail has them all."""
        names = self.run.subject.split(", ")
        if self.run.kind == "backup" and len(names) > _FEW:
            return f"backup {len(names)} guests ({names[0]} …)"
        return f"{self.run.kind} {self.run.subject}".strip()

    @property
    def needs_attention(self) -> bool:
        return self.run.state in (RunState.FAILED, RunState.DIED, RunState.WARNINGS)


def run_rows(
    picture: Picture, watched: Mapping[str, Watched], ended: Mapping[str, RunRow], now: datetime
) -> list[RunRow]:
    """Those that run first, then the newest first.

    watched: what is known of some of them; ended: rows of those that have ended; both by id.
    """
    rows = []
    for run in picture.runs:
        known = watched.get(run.id)
        if known is not None:
            # It may have ended since the picture was taken.
            row = run_row(known.run, known.records, known.following, picture.guests, now)
        elif run.state is not RunState.RUNNING and run.id in ended:
            row = ended[run.id]
        else:
            row = run_row(run, (), Following(), picture.guests, now)
        rows.append(row)
    return sorted(rows, key=lambda row: not row.running)


def run_row(
    run: Run,
    records: Sequence[BackupRecord],
    following: Following,
    guests: Sequence[GuestRow],
    now: datetime,
) -> RunRow:
    state, word = STATES[run.state]
    running = run.state is RunState.RUNNING
    # A guest that was postponed and tried again counts once.
    last = {record.uuid: record for record in records}
    done = sum(record.state not in _WORKING for record in last.values())
    read = sum(record.bytes_read for record in last.values())
    waits: tuple[str, ...] = ()
    if running:
        read += sum(guest.done for guest in following.working)
        waits = waiting_guests(run, records, guests)
    elif not records:
        read = following.bytes_read
    ended = now if running else run.ended
    left = following.left(now) if running and not waits else None
    return RunRow(
        run,
        state,
        word,
        countdown((ended - run.started).total_seconds()) if ended else "–",
        "" if left is None else f"{countdown(max(1.0, left))} left",
        done,
        len(last) + len(waits),
        read,
        _now(following, now) if running else _result(run, list(last.values())),
        " ".join(record.guest for record in last.values()),
        waits,
    )


def waiting_guests(run: Run, records: Sequence[BackupRecord], guests: Sequence[GuestRow]) -> tuple[str, ...]:
    """Names of those a run that goes on is for and has not begun, as far as its subject tells."""
    if run.kind not in ("backup", "schedule"):
        return ()
    begun = {record.uuid for record in records}
    slots = {record.slot for record in records if record.slot is not None}
    words = run.subject.split(", ")
    groups = {word.partition("/")[0] for word in words} if run.kind == "schedule" else set()
    if run.kind == "backup" and run.subject.startswith("group "):
        groups = {run.subject.removeprefix("group ")}

    def is_meant(row: GuestRow) -> bool:
        if row.guest.template:
            return False
        if groups:
            served = row.good is not None and row.good.slot in slots
            return bool(groups & set(row.groups)) and not served
        return run.subject == "all guests" or row.guest.name in words

    return tuple(row.guest.name for row in guests if row.key not in begun and is_meant(row))


def guest_now(guest: GuestPart, now: datetime) -> str:
    """How fast and how long still, or what it is at: `42 %  43.9 MiB/s  6 s left`."""
    if not guest.moving:
        return f"{guest.step or 'begins'} {countdown((now - guest.since).total_seconds())}"
    share = int(100 * guest.done / guest.total) if guest.total else 0
    return "  ".join(part for part in (f"{min(share, 99)} %", speed(guest, now).strip()) if part)


def speed(guest: GuestPart, now: datetime) -> str:
    """`43.9 MiB/s  6 s left`; empty while it is too early to tell."""
    if idle := guest.stalled(now):
        return f"nothing came for {countdown(idle)}"
    rate, left = guest.rate(now), guest.left(now)
    if not rate or left is None:
        return ""
    return f"{size(round(rate)) + '/s':>10}  {countdown(max(1.0, left))} left"


def started(moment: datetime, now: datetime, zone: tzinfo) -> str:
    """`02:00`, `Fri 02:00`, `11-02 02:00`: as much as is needed. Eleven columns at most."""
    when, today = moment.astimezone(zone), now.astimezone(zone).date()
    if when.date() == today:
        return f"{when:%H:%M}"
    if timedelta() < today - when.date() < timedelta(days=7):
        return f"{when:%a %H:%M}"
    return f"{when:%m-%d %H:%M}" if when.year == today.year else f"{when:%Y-%m-%d}"


def _now(following: Following, now: datetime) -> str:
    if following.waiting is not None:
        subject, reason = following.waiting
        return f"waits for {subject}: {reason}"
    working = following.working
    if not working:
        return ""
    others = f"  (+{len(working) - 1} more)" if len(working) > 1 else ""
    return f"{following.label(working[0])}: {guest_now(working[0], now)}{others}"


def _result(run: Run, records: Sequence[BackupRecord]) -> str:
    if run.state is RunState.DIED and not run.error:
        return DIED
    failed = [record for record in records if record.state in _UNDONE]
    warned = [record.guest for record in records if record.state is BackupState.WARNINGS]
    if failed:
        count = f"{len(failed)} of {len(records)} failed. " if len(records) > 1 else ""
        why = failed[-1].error or run.error
        return f"{count}{failed[-1].guest}: {why}" if why else f"{count}{failed[-1].guest}"
    if run.error:
        return run.error
    if run.state is RunState.CANCELLED:
        return "stopped by hand"
    if run.state is RunState.WARNINGS:
        return f"with warnings: {', '.join(warned)}" if warned else "l shows what the warnings were"
    stored = sum(record.bytes_stored for record in records)
    return f"stored {size(stored)}" if records else ""


def labels(records: Sequence[BackupRecord]) -> dict[str, str]:
    """By uuid, the names of these guests, with what tells those of one name from each other."""
    found: dict[str, str] = {}
    for record in records:
        same = {other.uuid: other.host for other in records if other.guest == record.guest}
        alone = len(same) == 1
        by_host = f"{record.host}/{record.guest}"
        by_uuid = f"{record.guest} ({record.uuid[:8]})"
        found[record.uuid] = (
            record.guest if alone else by_host if len(set(same.values())) == len(same) else by_uuid
        )
    return found


def outcome_of(record: BackupRecord) -> tuple[State, str]:
    """A guest's part in a run that has ended, or has ended for it."""
    return {
        BackupState.RUNNING: (State.RUNNING, "running"),
        BackupState.DONE: (State.OK, "ok"),
        BackupState.WARNINGS: (State.WARNING, "warnings"),
        BackupState.FAILED: (State.FAILED, "failed"),
        BackupState.CANCELLED: (State.OFF, "stopped"),
        BackupState.POSTPONED: (State.QUEUED, "postponed"),
        BackupState.DIED: (State.FAILED, "died"),
    }[record.state]
