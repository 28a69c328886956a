"""Groups, schedules and limits of the configuration file, as the rest of the program uses them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from fnmatch import fnmatchcase
from pathlib import Path
from zoneinfo import ZoneInfo

from vmconsole.config.plan_schema import KeepConfig, ScheduleConfig
from vmconsole.config.schema import GroupConfig
from vmconsole.config.when import parse_when, parse_window
from vmconsole.model.group import Selector
from vmconsole.model.guest import Guest
from vmconsole.model.limits import RateAt
from vmconsole.model.schedule import KEEP_ALL, Retention, Schedule

ONLY = "main"
"""The name of the schedule of a group that has one and did not name it."""
_ZONES = "/zoneinfo/"


def local_zone() -> tzinfo:
    """This machine's time zone, with its rules for summer."""
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        place = Path("/etc/localtime").resolve(strict=True)
        _, _, name = str(place).partition(_ZONES)
        if name:
            return ZoneInfo(name)
        with place.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, LookupError):
        return UTC


def selector_of(group: GroupConfig) -> Selector:
    return Selector(
        group.guests, group.tags, group.hosts, group.exclude, group.pools, group.kinds, group.exclude_tags
    )


def schedules_of(name: str, group: GroupConfig, zone: tzinfo) -> tuple[Schedule, ...]:
    """In the order of the file; what a schedule does not say is as in its group."""
    schedules = group.schedules
    if group.when:
        schedules = {ONLY: ScheduleConfig(when=group.when)}
    return tuple(_schedule(name, key, schedule, group, zone) for key, schedule in schedules.items())


def _schedule(name: str, key: str, schedule: ScheduleConfig, group: GroupConfig, zone: tzinfo) -> Schedule:
    return Schedule(
        name,
        key,
        schedule.when,
        parse_when(schedule.when),
        schedule.window or group.window,
        group.jitter if schedule.jitter is None else schedule.jitter,
        retention_of(schedule.keep or group.keep),
        schedule.full_every,
        _pause(schedule.paused or group.paused, zone),
        schedule.catch_up,
    )


def _pause(paused: datetime | bool, zone: tzinfo) -> datetime | None:
    if isinstance(paused, bool):
        return datetime.max.replace(tzinfo=UTC) if paused else None
    return paused if paused.tzinfo else paused.replace(tzinfo=zone)


def retention_of(keep: KeepConfig | None) -> Retention:
    return KEEP_ALL if keep is None else Retention(**keep.model_dump())


def rates_of(rates: Mapping[str, int]) -> tuple[RateAt, ...]:
    return tuple(RateAt(parse_window(window), rate) for window, rate in rates.items())


def excluded_disks(
    guest: Guest, exclude: Mapping[str, Sequence[str]], only: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """The ids of the guest's disks that are left out. A disk that is not known is named as it was written:
    the host may have it by the time of the backup.
    """
    patterns = [word for key, words in exclude.items() if _means(key, guest) for word in words]
    wanted = [word for key, words in only.items() if _means(key, guest) for word in words]
    known = [disk.id for disk in guest.disks]
    found = dict.fromkeys(word for word in patterns if not set("*?[") & set(word))
    for disk in known:
        left_out = any(fnmatchcase(disk, word) for word in patterns)
        if left_out or (wanted and not any(fnmatchcase(disk, word) for word in wanted)):
            found[disk] = None
    return tuple(found)


def _means(key: str, guest: Guest) -> bool:
    selector = Selector(tags=(key[1:],)) if key.startswith("#") else Selector(guests=(key,))
    return selector.why(guest) is not None
