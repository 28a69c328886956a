"""Which schedules are due, which of their guests still are, and who is overdue. Pure: nothing is asked or written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from vmconsole.model.calendar import closes, jitter_of, newest_time, next_time, opens
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.schedule import Schedule
from vmconsole.runs.gathering import limits_of

_TRIES = 3
"""So often a guest is begun for one scheduled time when the run died over it."""
_PASSING = ("HostUnreachable", "RepositoryLocked", "RepositoryMissing")
"""Codes of errors (errors.py) that need not be the guest's, and may be gone the next time."""
_MORE_TRIES = 5
_REST = timedelta(minutes=10)
_UNFINISHED = (BackupState.DIED, BackupState.CANCELLED, BackupState.POSTPONED)


@dataclass(frozen=True, slots=True)
class Slot:
    """One scheduled time of a group that is due. opens: when its work may begin, at the earliest.

    closes: when no more work of it may begin; None when there is no window. late: by how much it was missed.
    """

    group: Group
    schedule: Schedule
    time: datetime
    opens: datetime
    closes: datetime | None
    late: timedelta = timedelta()

    @property
    def key(self) -> str:
        return f"{self.group.name}/{self.schedule.name}"

    def starts(self, guest: Guest) -> datetime:
        """When this guest's turn may come."""
        return max(self.opens, self.time + jitter_of(guest.uuid, self.schedule.jitter))


def due_slots(
    groups: Iterable[Group],
    now: datetime,
    zone: tzinfo,
    followed_since: Callable[[Schedule], datetime],
    finished: Callable[[Schedule], datetime | None],
) -> list[Slot]:
    """The newest time of each schedule, where it is due and not finished; of several that were missed only that.

    followed_since: when the schedule came into being; times before that are not due.
    finished: the newest of its times that was wholly done.
    """
    found = []
    for group in groups:
        for schedule in group.schedules:
            time = newest_time(schedule.when, now, zone)
            if time is None or time < followed_since(schedule) or (schedule.pause and now < schedule.pause):
                continue
            done = finished(schedule)
            if done is not None and done >= time:
                continue
            slot = _slot(group, schedule, time, now, zone)
            if slot is not None:
                found.append(slot)
    return found


def _slot(group: Group, schedule: Schedule, time: datetime, now: datetime, zone: tzinfo) -> Slot | None:
    opening = opens(schedule.window, time, zone)
    closing = closes(schedule.window, time, zone)
    if closing is None or now < closing:
        return Slot(group, schedule, time, opening, closing, max(now - opening, timedelta()))
    if not schedule.catch_up:
        return None
    # Its window has passed: it is done late, in the next one.
    opening = opens(schedule.window, now, zone)
    return Slot(group, schedule, time, opening, closes(schedule.window, now, zone), now - time)


def still_due(
    guests: Iterable[Guest], records: Sequence[BackupRecord], unreachable: Iterable[str], now: datetime
) -> list[Guest]:
    """Those that have not been dealt with for a scheduled time. records: what was done for it, newest first.

    A failure is told once and not repeated before the next time; but what may have passed meanwhile (a host out of
    reach, a repository that is locked or not mounted) is tried a few times more, less and less often.
    unreachable: the hosts that do not answer now.
    """
    lost = set(unreachable)
    by_guest: dict[str, list[BackupRecord]] = {}
    for record in records:
        by_guest.setdefault(record.uuid, []).append(record)
    return [guest for guest in guests if _undone(guest, by_guest.get(guest.uuid, []), lost, now)]


def _undone(guest: Guest, records: Sequence[BackupRecord], lost: set[str], now: datetime) -> bool:
    if any(record.good or record.state is BackupState.RUNNING for record in records):
        return False
    if not records:
        return True
    newest = records[0]
    if newest.state in _UNFINISHED:
        return sum(record.state is BackupState.DIED for record in records) < _TRIES
    failures = [record for record in records if record.state is BackupState.FAILED]
    if newest.code not in _PASSING or len(failures) > _MORE_TRIES or guest.host in lost:
        return False
    return now >= (newest.ended or newest.started) + _REST * len(failures)


def next_due(groups: Iterable[Group], now: datetime, zone: tzinfo) -> tuple[datetime, Schedule] | None:
    """The next time anything becomes due; of paused schedules, after their pause."""
    coming = []
    for group in groups:
        for schedule in group.schedules:
            since = max(now, schedule.pause) if schedule.pause and schedule.pause.year < 9999 else now
            if schedule.pause and schedule.pause.year == 9999:
                continue
            time = next_time(schedule.when, since, zone)
            if time is not None:
                coming.append((opens(schedule.window, time, zone), schedule))
    return min(coming, key=lambda pair: pair[0], default=None)


def overdue_after(group: Group, now: datetime, zone: tzinfo) -> float | None:
    """Seconds after which a guest of the group is overdue; None for a group without schedules and limit."""
    return group.overdue_after or limits_of([group], now, zone).get(group.name)


def covered(groups: Iterable[Group], guests: Iterable[Guest]) -> Mapping[str, tuple[str, ...]]:
    """By guest uuid, the groups that cover it, in the order of the configuration."""
    groups = tuple(groups)
    return {
        guest.uuid: tuple(group.name for group in groups if group.selector.why(guest)) for guest in guests
    }
