"""Collect what is remembered into facts for alerts, digest and metrics. Hosts and repositories are not asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo

from vmconsole.interfaces import History, RunStore
from vmconsole.model.alert import Alert
from vmconsole.model.calendar import overdue_limit
from vmconsole.model.figures import Figures, GuestFigures
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.model.history import BackupRecord
from vmconsole.model.ledger import Vanished
from vmconsole.model.message import Delivery
from vmconsole.model.point import iso
from vmconsole.model.repository import RepositorySpace
from vmconsole.runs.alerts import Facts, unprotected
from vmconsole.runs.verdicts import verdicts

_KNOWN = "alerts/known"


def gather(
    store: RunStore,
    history: History,
    groups: Sequence[Group],
    hosts: Collection[str],
    now: datetime,
    zone: tzinfo,
    *,
    limits: Mapping[str, float],
    followed: Mapping[str, datetime],
    spaces: Sequence[RepositorySpace] = (),
    troubles: Sequence[Delivery] = (),
    vanished: Sequence[Vanished] = (),
    nearly_full: int = 90,
) -> Facts:
    """hosts: those that are configured; what was seen of others counts no more. The rest: see Facts.

    Remembers which guests still wait for their first restore point, and since when.
    """
    guests = _guests(store.inventories(), hosts)
    covered = {guest.uuid: [g.name for g in groups if g.selector.why(guest) is not None] for guest in guests}
    good = history.latest_good()
    waiting = [(uuid, name) for uuid, names in covered.items() for name in names if (uuid, name) not in good]
    return Facts(
        now,
        groups,
        guests,
        verdicts(history, covered),
        good,
        limits,
        followed,
        _known_since(history, waiting, now),
        spaces,
        troubles,
        vanished,
        _points(store, groups),
        nearly_full,
        zone,
    )


def limits_of(groups: Sequence[Group], now: datetime, zone: tzinfo) -> dict[str, float]:
    """By group, seconds without a good restore point that its schedules allow: the closest of those that go on."""
    found = {}
    for group in groups:
        going = [schedule for schedule in group.schedules if not schedule.pause or schedule.pause <= now]
        if going:
            found[group.name] = min(
                overdue_limit(schedule.when, schedule.window, now, zone) + schedule.jitter
                for schedule in going
            )
    return found


def followed_since(groups: Sequence[Group], history: History) -> dict[str, datetime]:
    """By group, since when one of its schedules has been followed as it is now. Begins to follow new ones."""
    return {
        group.name: min(
            history.follow(group.name, schedule.name, schedule.rule) for schedule in group.schedules
        )
        for group in groups
        if group.schedules
    }


def figures(facts: Facts, holding: Iterable[Alert]) -> Figures:
    """For monitoring."""
    return Figures(
        facts.now,
        tuple(
            _guest_figures(facts, guest, group) for guest in facts.guests for group in facts.groups_of(guest)
        ),
        tuple(facts.spaces),
        sum(unprotected(guest, facts.groups) for guest in facts.guests),
        Counter(alert.kind for alert in holding),
    )


def _guest_figures(facts: Facts, guest: Guest, group: Group) -> GuestFigures:
    last = facts.verdicts.decided.get((guest.uuid, group.name))
    good: BackupRecord | None = facts.good(guest, group)
    return GuestFigures(
        guest.uuid,
        guest.name,
        guest.host,
        group.name,
        good.started if good else None,
        facts.is_overdue(guest, group),
        last is not None and not last.good,
        good.seconds if good else 0.0,
        good.bytes_read if good else 0,
        good.bytes_stored if good else 0,
        facts.points.get((group.repository, guest.uuid), 0),
    )


def _guests(
    inventories: Mapping[str, tuple[HostInventory, datetime]], hosts: Collection[str]
) -> tuple[Guest, ...]:
    """Each once: where it was seen last."""
    seen: dict[str, Guest] = {}
    for name, (inventory, _) in sorted(inventories.items(), key=lambda item: item[1][1]):
        if name in hosts:
            seen.update({guest.uuid: guest for guest in inventory.guests})
    return tuple(sorted(seen.values(), key=lambda guest: (guest.host, guest.name, guest.uuid)))


def _known_since(
    history: History, waiting: Sequence[tuple[str, str]], now: datetime
) -> dict[tuple[str, str], datetime]:
    """A guest that is new to an old group is given its time, as well as one to a new group."""
    noted = history.noted(_KNOWN)
    before: dict[str, str] = {}
    if noted is not None:
        try:
            before = dict(json.loads(noted[0]))
        except (ValueError, TypeError):
            before = {}
    after = {f"{uuid}/{group}": before.get(f"{uuid}/{group}", iso(now)) for uuid, group in waiting}
    if after != before:
        history.note(_KNOWN, json.dumps(after))
    return {(uuid, group): datetime.fromisoformat(after[f"{uuid}/{group}"]) for uuid, group in waiting}


def _points(store: RunStore, groups: Sequence[Group]) -> dict[tuple[str, str], int]:
    repositories = {group.repository for group in groups}
    return Counter((name, point.uuid) for name in repositories for point in store.points(name))
