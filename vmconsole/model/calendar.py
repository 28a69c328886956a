"""The times of a schedule: next, newest, gaps, and whether a window is open.

All moments that come out are in UTC: two times of one local zone compare and subtract by what the clock on
the wall shows, which is wrong on two days of the year. Clock times of rules are local. Where the clock jumps,
cronsim does as Debian's cron: a time that does not exist comes right after the jump, one that exists twice
comes once; times of `*/…` rules follow the elapsed time.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from cronsim import CronSim

from vmconsole.model.schedule import When, Window

_ANCHOR = datetime(2000, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_LOOK_AHEAD = timedelta(days=14)
_SHORTEST_GRACE = 2 * 3600.0
_MOST_LOOKED_AT = 5000


def times_after(when: When, moment: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Every time after the moment, in order; ends only where the rule does."""
    if when.every:
        number = (moment - _ANCHOR) // timedelta(seconds=when.every) + 1
        while True:
            yield _ANCHOR + timedelta(seconds=when.every * number)
            number += 1
    local = moment.astimezone(zone)
    sources = [(time.astimezone(UTC) for time in CronSim(cron, local)) for cron in when.crons]
    last = None
    for time in heapq.merge(*sources):
        if time != last:
            yield time
        last = time


def next_time(when: When, moment: datetime, zone: tzinfo) -> datetime | None:
    return next(times_after(when, moment, zone), None)


def newest_time(when: When, moment: datetime, zone: tzinfo) -> datetime | None:
    """The newest time that is not after the moment."""
    if when.every:
        number = (moment - _ANCHOR) // timedelta(seconds=when.every)
        return _ANCHOR + timedelta(seconds=when.every * number)
    moment = moment.astimezone(UTC)
    local = (moment + timedelta(minutes=1)).astimezone(zone)
    found: list[datetime] = []
    for cron in when.crons:
        times = (time.astimezone(UTC) for time in CronSim(cron, local, reverse=True))
        found += islice((time for time in times if time <= moment), 1)
    return max(found, default=None)


def longest_gap(when: When, moment: datetime, zone: tzinfo) -> float:
    """Seconds: the longest wait between two times of the next two weeks, or until the one after next."""
    end = moment + _LOOK_AHEAD
    longest, last = 0.0, None
    for count, time in enumerate(islice(times_after(when, moment, zone), _MOST_LOOKED_AT)):
        if last is not None:
            longest = max(longest, (time - last).total_seconds())
        if time > end and count >= 2:
            break
        last = time
    return longest


def overdue_limit(when: When, window: Window | None, moment: datetime, zone: tzinfo) -> float:
    """Seconds after which a guest without a new good restore point is overdue: the longest gap, and a tenth
    of it, at least two hours, and the window's length: work may begin as late as its end."""
    gap = longest_gap(when, moment, zone)
    length = window_length(window) if window else 0.0
    return gap + max(gap / 10, _SHORTEST_GRACE, length)


def window_length(window: Window) -> float:
    """Seconds, on a day without a clock change."""
    start, end = _minutes(window)
    return ((end - start) % 1440 or 1440) * 60.0


def is_open(window: Window | None, moment: datetime, zone: tzinfo) -> bool:
    if window is None:
        return True
    start, end = _minutes(window)
    local = moment.astimezone(zone)
    now = local.hour * 60 + local.minute
    return start <= now < end if start < end else now >= start or now < end


def opens(window: Window | None, moment: datetime, zone: tzinfo) -> datetime:
    """When the window is open next: the moment itself when it is now."""
    if window is None or is_open(window, moment, zone):
        return moment.astimezone(UTC)
    return _next_clock(window.start.hour, window.start.minute, moment, zone)


def closes(window: Window | None, moment: datetime, zone: tzinfo) -> datetime | None:
    """When the window that is open at the moment, or opens next, closes; None when it never does."""
    if window is None:
        return None
    return _next_clock(window.end.hour, window.end.minute, opens(window, moment, zone), zone)


def _next_clock(hour: int, minute: int, moment: datetime, zone: tzinfo) -> datetime:
    """The next time after the moment that the clock on the wall shows this; after a jump over it, the jump."""
    local = moment.astimezone(zone)
    for days in range(3):
        # A time in the hour that is left out comes out right after it.
        wall = (local + days * _DAY).replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
        time = wall.astimezone(UTC)
        if time > moment.astimezone(UTC):
            return time
    raise AssertionError("a clock time comes every day")


def _minutes(window: Window) -> tuple[int, int]:
    return window.start.hour * 60 + window.start.minute, window.end.hour * 60 + window.end.minute


def jitter_of(uuid: str, most: float) -> timedelta:
    """How much later a guest starts: up to most seconds, the same for a guest every time."""
    digest = hashlib.sha256(uuid.encode()).digest()
    return timedelta(seconds=round(most * int.from_bytes(digest[:4], "big") / 2**32))
