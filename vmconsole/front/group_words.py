"""What a group is, in words: the guests it covers and why, its times, what is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, tzinfo
from itertools import islice

from vmconsole.model.calendar import times_after
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest
from vmconsole.model.schedule import Retention, Schedule, Window
from vmconsole.model.words import duration


@dataclass(frozen=True, slots=True)
class Covered:
    """others: the other groups that cover the guest as well."""

    guest: Guest
    why: str
    others: tuple[str, ...]


def covered_by(group: Group, groups: Iterable[Group], guests: Iterable[Guest]) -> list[Covered]:
    others = [other for other in groups if other.name != group.name]
    return [
        Covered(guest, why, tuple(other.name for other in others if other.selector.why(guest)))
        for guest in guests
        if (why := group.selector.why(guest)) is not None
    ]


def coming(schedule: Schedule, now: datetime, zone: tzinfo, count: int) -> list[datetime]:
    """The next times, of a paused schedule those after its pause."""
    if for_good(schedule):
        return []
    since = max(now, schedule.pause) if schedule.pause else now
    return list(islice(times_after(schedule.when, since, zone), count))


def next_time(group: Group, now: datetime, zone: tzinfo) -> datetime | None:
    times = [time for schedule in group.schedules for time in coming(schedule, now, zone, 1)]
    return min(times, default=None)


def when_in_words(schedule: Schedule, now: datetime, zone: tzinfo) -> str:
    """`daily 22:00, only 22:00–06:00, paused until 2027-01-07 00:00`."""
    parts = [schedule.text]
    if schedule.window:
        parts.append(f"only {window_text(schedule.window).replace('-', '–')}")
    if schedule.jitter:
        parts.append(f"up to {duration(schedule.jitter)} later")
    if for_good(schedule):
        parts.append("paused")
    elif schedule.pause and now < schedule.pause:
        parts.append(f"paused until {schedule.pause.astimezone(zone):%Y-%m-%d %H:%M}")
    return ", ".join(parts)


def keep_in_words(retention: Retention) -> str:
    """`14 daily, 8 weekly; at least 3`."""
    if retention.keeps_all:
        return "everything, nothing is ever pruned"
    rules = [
        f"the last {count}" if item.name == "last" else f"{count} {item.name}"
        for item in fields(retention)
        if item.name != "minimum" and (count := getattr(retention, item.name))
    ]
    least = f"; at least {retention.minimum}" if retention.minimum > 1 else ""
    return ", ".join(rules) + least


def for_good(schedule: Schedule) -> bool:
    """Whether it is paused until somebody resumes it."""
    return schedule.pause is not None and schedule.pause.year == 9999


def window_text(window: Window | None) -> str:
    return f"{window.start:%H:%M}-{window.end:%H:%M}" if window else ""
