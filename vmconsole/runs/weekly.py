"""The digest: a sign of life at a fixed time, with what happened since the last one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, tzinfo

from vmconsole.model.alert import Alert, AlertKind
from vmconsole.model.calendar import next_time
from vmconsole.model.group import Group
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.message import Message, Tone
from vmconsole.model.point import RestorePoint
from vmconsole.model.repository import RepositorySpace
from vmconsole.model.words import duration, size, visible
from vmconsole.runs.alerts import Facts, unprotected
from vmconsole.runs.wording import alert_lines

_NEXT = 6


@dataclass(frozen=True, slots=True)
class Upcoming:
    """The next time of a schedule. schedule: empty when it is the only one. time: None when it is paused for good."""

    group: str
    schedule: str
    time: datetime | None


def upcoming_of(groups: Sequence[Group], now: datetime, zone: tzinfo) -> list[Upcoming]:
    found = []
    for group in groups:
        for schedule in group.schedules:
            start = max(now, schedule.pause) if schedule.pause else now
            # "for good" is the end of time, after which no rule has a next time
            for_good = schedule.pause is not None and schedule.pause.year >= MAXYEAR
            time = None if for_good else next_time(schedule.when, start, zone)
            name = schedule.name if len(group.schedules) > 1 else ""
            found.append(Upcoming(group.name, name, time))
    return found


def digest(
    facts: Facts,
    holding: Sequence[Alert],
    records: Sequence[BackupRecord],
    since: datetime,
    *,
    points: Sequence[RestorePoint] = (),
    upcoming: Sequence[Upcoming] = (),
) -> Message:
    """records: all attempts that began since then (History.since). points: restore points, as last seen."""
    late, failed = (_guests_of(holding, kind) for kind in (AlertKind.OVERDUE, AlertKind.FAILURE))
    in_groups = {guest.uuid for guest in facts.guests if facts.groups_of(guest)}
    never = {
        guest.uuid for guest in facts.guests if guest.uuid in in_groups and not _has_good(facts, guest.uuid)
    }
    fine = in_groups - late - failed - never
    outside = sum(unprotected(guest, facts.groups) for guest in facts.guests)
    counts = [f"{len(fine)} of {len(in_groups)} guests protected"]
    counts += [f"{len(late)} late"] if late else []
    counts += [f"{len(failed)} failed"] if failed else []
    counts += [f"{outside} unprotected"] if outside else []
    period = f"{facts.time(since)} to {facts.time(facts.now)}"
    lines = [
        f"Period: {period}",
        f"Guests: {len(fine)} protected, {len(late)} late, {len(failed)} failed, {outside} in no group"
        + (f", {len(never)} not backed up yet" if never else ""),
        *_backups(records),
        *_longest_freeze(points, since),
        *_repositories(facts.spaces, records),
        *_next(facts, upcoming),
    ]
    if holding:
        lines += ["", "Wrong now:", *alert_lines(holding, facts.now, facts.zone)]
    tone = Tone.WARNING if holding or never else Tone.GOOD
    return Message(f"vmconsole digest: {', '.join(counts)}", "\n".join(visible(line) for line in lines), tone)


def _guests_of(holding: Sequence[Alert], kind: AlertKind) -> set[str]:
    return {alert.key.partition("/")[0] for alert in holding if alert.kind is kind}


def _has_good(facts: Facts, uuid: str) -> bool:
    return any(owner == uuid for owner, _ in facts.latest_good)


def _backups(records: Sequence[BackupRecord]) -> Iterator[str]:
    good = [record for record in records if record.good]
    bad = sum(record.state in (BackupState.FAILED, BackupState.DIED) for record in records)
    warned = sum(record.state is BackupState.WARNINGS for record in records)
    if not records:
        yield "Backups: none"
        return
    read, stored = sum(record.bytes_read for record in good), sum(record.bytes_stored for record in good)
    yield (
        f"Backups: {len(good)} made"
        + (f" ({warned} with warnings)" if warned else "")
        + f", {bad} failed; {size(read)} read, {size(stored)} stored"
    )
    if good:
        slowest = max(good, key=lambda record: record.seconds)
        mode = f", {slowest.mode}" if slowest.mode else ""
        yield f"Slowest: {slowest.guest} on {slowest.host}, {duration(slowest.seconds)}{mode}"


def _longest_freeze(points: Sequence[RestorePoint], since: datetime) -> Iterator[str]:
    frozen = [(point.freeze_ms or 0, point) for point in points if point.time >= since and point.freeze_ms]
    if frozen:
        longest, point = max(frozen, key=lambda item: item[0])
        yield f"Longest freeze: {point.guest} on {point.host}, {duration(longest / 1000)}"


def _repositories(spaces: Sequence[RepositorySpace], records: Sequence[BackupRecord]) -> Iterator[str]:
    known = {space.name: space for space in spaces}
    for name in sorted(known.keys() | {record.repository for record in records if record.good}):
        grown = sum(record.bytes_stored for record in records if record.good and record.repository == name)
        space = known.get(name)
        free = (
            f"; {size(space.free)} of {size(space.size)} free ({space.used_percent:.0f} % used)"
            if space and space.size
            else ""
        )
        yield f"Repository {name}: {size(grown)} added{free}"


def _next(facts: Facts, upcoming: Sequence[Upcoming]) -> Iterator[str]:
    if not upcoming:
        return
    timed = sorted(
        ((item.time, item) for item in upcoming if item.time is not None), key=lambda pair: pair[0]
    )
    if timed:
        shown = [f"{_name(item)} {facts.time(time)}" for time, item in timed[:_NEXT]]
        more = f" and {len(timed) - _NEXT} more" if len(timed) > _NEXT else ""
        yield f"Next: {', '.join(shown)}{more}"
    else:
        yield "Next: nothing, all schedules are paused"
    if paused := [_name(item) for item in upcoming if item.time is None]:
        yield f"Paused: {', '.join(paused)}"


def _name(item: Upcoming) -> str:
    return f"{item.group}/{item.schedule}" if item.schedule else item.group
