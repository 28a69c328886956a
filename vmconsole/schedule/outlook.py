"""What the schedules come to in the hours ahead, by what earlier backups took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from vmconsole.model.calendar import closes, next_time, opens
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest
from vmconsole.model.history import BackupRecord
from vmconsole.runs.work import Target, Work
from vmconsole.schedule.due import Slot
from vmconsole.schedule.forecast import Forecast, simulate
from vmconsole.schedule.jobs import Capacity
from vmconsole.schedule.sizing import job_of

_MOST_SLOTS = 300
"""Of one schedule: one every five minutes for a day."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """forecast: of the jobs, whose keys are those of groups: the group that each is of."""

    start: datetime
    end: datetime
    forecast: Forecast
    groups: dict[str, str]


def look_ahead(
    groups: Iterable[Group],
    guests: Sequence[Guest],
    now: datetime,
    until: datetime,
    zone: tzinfo,
    capacity: Capacity,
    target_of: Callable[[Guest, Slot], Target],
    records_of: Callable[[str], Sequence[BackupRecord]],
) -> Outlook:
    """All that becomes due from now until then, if every host and guest is there. Nothing is asked, nothing changed."""
    jobs, names = [], {}
    for group in groups:
        covered = [guest for guest in guests if group.selector.why(guest) is not None]
        for number, slot in enumerate(_slots(group, now, until, zone)):
            for work, due in _works(slot, covered, number, target_of):
                jobs.append(job_of(work, due, records_of, deadline=slot.closes))
                names[work.key] = group.name
    return Outlook(now, until, simulate(jobs, capacity, now.astimezone(zone)), names)


def _slots(group: Group, now: datetime, until: datetime, zone: tzinfo) -> Iterator[Slot]:
    for schedule in group.schedules:
        since = max(now, schedule.pause) if schedule.pause else now
        for _ in range(_MOST_SLOTS):
            time = next_time(schedule.when, since, zone) if since < until else None
            if time is None or time >= until:
                break
            yield Slot(
                group, schedule, time, opens(schedule.window, time, zone), closes(schedule.window, time, zone)
            )
            since = time + timedelta(seconds=1)


def _works(
    slot: Slot, guests: Sequence[Guest], number: int, target_of: Callable[[Guest, Slot], Target]
) -> Iterator[tuple[Work, datetime]]:
    """With when each may start."""
    targets = [target_of(guest, slot) for guest in guests]
    key = f"{slot.key}#{number:04}"
    if slot.group.together and len(targets) > 1:
        yield Work(key, tuple(targets), slot.group.apart), max(slot.starts(guest) for guest in guests)
        return
    for place, target in enumerate(targets):
        yield Work(f"{key}.{place:05}", (target,)), slot.starts(target.guest)
