"""Rules of a group that cannot hold at the same time: refused when the file is loaded, not found out at night."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

from vmconsole.config.lines import KeyPath
from vmconsole.config.plan_schema import ScheduleConfig
from vmconsole.config.plans import ONLY
from vmconsole.config.problems import Problem
from vmconsole.config.schema import FileConfig, GroupConfig
from vmconsole.config.units import write_duration
from vmconsole.config.when import parse_when
from vmconsole.model.calendar import is_open, longest_gap, times_after
from vmconsole.model.schedule import Window

_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
"""In UTC no clock jumps, so what is found does not depend on the day of the year."""
_LOOKED_AT = 500


def contradictions(file: FileConfig) -> Iterator[Problem]:
    for name, group in file.groups.items():
        where: KeyPath = ("groups", name)
        schedules = group.schedules or ({ONLY: ScheduleConfig(when=group.when)} if group.when else {})
        for key, schedule in schedules.items():
            place = (*where, "schedules", key) if group.schedules else where
            yield from _never_open(place, schedule, schedule.window or group.window)
        yield from _always_overdue(where, group, schedules.values())


def _never_open(where: KeyPath, schedule: ScheduleConfig, window: Window | None) -> Iterator[Problem]:
    """Work waits for its window; a time that is always outside of it is more likely a mistake."""
    times = islice(times_after(parse_when(schedule.when), _MOMENT, UTC), _LOOKED_AT)
    if window is None or any(is_open(window, time, UTC) for time in times):
        return
    opening = f"{window.start:%H:%M}-{window.end:%H:%M}"
    yield Problem(
        (*where, "when"),
        f"{schedule.when.rpartition(' ')[2] if ':' in schedule.when else schedule.when} is never within "
        f"{opening}, the window. Choose a time in it, or another window.",
    )


def _always_overdue(
    where: KeyPath, group: GroupConfig, schedules: Iterable[ScheduleConfig]
) -> Iterator[Problem]:
    """The densest schedule decides: a monthly one beside a daily one is not what keeps a guest safe."""
    limit = group.overdue_after
    gaps = [(longest_gap(parse_when(schedule.when), _MOMENT, UTC), schedule) for schedule in schedules]
    if limit is None or not gaps:
        return
    gap, schedule = min(gaps, key=lambda pair: pair[0])
    if limit < gap:
        yield Problem(
            (*where, "overdue_after"),
            f'{write_duration(gap)} lie between two times of "{schedule.when}": every guest would be overdue '
            f"in between. Give more than that, or leave it out.",
        )
