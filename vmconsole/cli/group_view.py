"""What a group is, as `group show` and a dry run tell it: its guests and why, its times, what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime, tzinfo
from typing import Any

from vmconsole.cli.format import duration
from vmconsole.cli.output import Output
from vmconsole.cli.table import Column
from vmconsole.config.settings import Config
from vmconsole.front.group_words import (
    Covered,
    coming,
    covered_by,
    for_good,
    keep_in_words,
    when_in_words,
    window_text,
)
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.model.schedule import Retention, Schedule

_TIMES = 5


def show(
    group: Group,
    config: Config,
    guests: Sequence[Guest],
    unreachable: Sequence[HostInventory],
    now: datetime,
    output: Output,
) -> dict[str, Any]:
    """Say what the group is; returns the document about it, which is for the caller to print."""
    covered = covered_by(group, config.groups(), guests)
    left_out = [(guest, by) for guest in guests if (by := group.selector.excluded_by(guest)) is not None]
    for line in _facts(group, config.timezone, now):
        output.line(line)
    _table(group, covered, left_out, output, complete=not unreachable)
    _tell_shared(covered, output)
    for host in unreachable:
        output.note(f"✗ {host.name} was not asked: {host.error}", style="red")
        check = f"Check it with: vmconsole host check {host.name}"
        output.note(f"  → {(host.failure.hint if host.failure else '') or check}")
    return {
        "group": group.name,
        "repository": group.repository,
        **plan_document(group, config.timezone, now, _TIMES),
        "guests": [
            {
                "uuid": item.guest.uuid,
                "name": item.guest.name,
                "host": item.guest.host,
                "why": item.why,
                "other_groups": list(item.others),
            }
            for item in covered
        ],
        "excluded": [
            {"uuid": guest.uuid, "name": guest.name, "host": guest.host, "by": by} for guest, by in left_out
        ],
        "not_asked": [{"host": host.name, "error": host.error} for host in unreachable],
    }


def plan_document(group: Group, zone: tzinfo, now: datetime, times: int) -> dict[str, Any]:
    """When a group is backed up, and what is kept, for JSON."""
    return {
        "schedules": [
            {
                "name": schedule.name,
                "when": schedule.text,
                "window": window_text(schedule.window) or None,
                "jitter": schedule.jitter,
                "paused": _pause_document(schedule, zone, now),
                "next": [time.astimezone(zone).isoformat() for time in coming(schedule, now, zone, times)],
                "keep": _keep_document(schedule.retention),
            }
            for schedule in group.schedules
        ],
        "keep": _keep_document(group.retention),
        "together": group.together,
        "overdue_after": group.overdue_after or None,
        "ping": bool(group.ping),
    }


def _tell_shared(covered: Sequence[Covered], output: Output) -> None:
    shared = [item for item in covered if item.others]
    if shared:
        names = ", ".join(dict.fromkeys(name for item in shared for name in item.others))
        guests = "1 guest is" if len(shared) == 1 else f"{len(shared)} guests are"
        output.note(
            f"! {guests} in other groups too ({names}); the schedules of each back them up.", "yellow"
        )


def _facts(group: Group, zone: tzinfo, now: datetime) -> Iterable[str]:
    yield f"Repository: {group.repository}"
    if not group.schedules:
        yield "When: only by hand"
    several = len(group.schedules) > 1
    for schedule in group.schedules:
        name = f" ({schedule.name})" if several else ""
        yield f"When{name}: {when_in_words(schedule, now, zone)}"
        times = [f"{time.astimezone(zone):%a %Y-%m-%d %H:%M}" for time in coming(schedule, now, zone, _TIMES)]
        yield f"  next: {', '.join(times) or 'never'}"
        if several and schedule.retention != group.retention:
            yield f"  keeps: {keep_in_words(schedule.retention)}"
    yield f"Keeps: {keep_in_words(group.retention)}"
    if group.together:
        yield "All its guests are frozen and cut at the same moment."
    if group.overdue_after:
        yield f"A guest is overdue after {duration(group.overdue_after)}."


def _table(
    group: Group,
    covered: Sequence[Covered],
    left_out: Sequence[tuple[Guest, str]],
    output: Output,
    *,
    complete: bool,
) -> None:
    rows = [(item.guest.name, item.guest.host, item.why, ", ".join(item.others) or "–") for item in covered]
    rows += [(f"– {guest.name}", guest.host, f"excluded by {by}", "") for guest, by in left_out]
    columns = (
        Column("guest", least=16),
        Column("host", drop=1),
        Column("why", least=20),
        Column("also in", drop=2),
    )
    if rows:
        output.table(columns, rows)
    elif complete:
        output.note(f"Group {group.name} covers no guest now. See them all: vmconsole inventory --refresh")


def _pause_document(schedule: Schedule, zone: tzinfo, now: datetime) -> str | bool:
    if for_good(schedule):
        return True
    ahead = schedule.pause is not None and now < schedule.pause
    return schedule.pause.astimezone(zone).isoformat() if schedule.pause and ahead else False


def _keep_document(retention: Retention) -> dict[str, int] | None:
    if retention.keeps_all:
        return None
    return {item.name: count for item in fields(retention) if (count := getattr(retention, item.name))}
