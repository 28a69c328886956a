"""Pruning: marking the points that retention does not keep. A mark hides a point, and can be taken back."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo

from vmconsole.events import Pruned, Unpruned, step
from vmconsole.interfaces import Context, Repository
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest, GuestKind, GuestState, HostInventory
from vmconsole.model.ledger import Mark
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import Memory, live_marks, look, warn
from vmconsole.runs.outcome import Outcome
from vmconsole.runs.retention import Rules, Verdict, decide, rules_for
from vmconsole.runs.runner import Runner


@dataclass(frozen=True, slots=True)
class Plan:
    """What to prune by. guests: by uuid, as they were last seen. zone: where days begin.

    Hosts are not asked: one that does not answer must not change what is kept.
    """

    groups: Sequence[Group]
    guests: Mapping[str, Guest]
    zone: tzinfo

    def rules(self, point: RestorePoint, repository: str) -> Rules:
        """Those of the point's guest; one that is gone is judged by the name and host in its point."""
        return rules_for(self.guests.get(point.uuid) or guest_of(point), self.groups, repository)


def plan_of(
    groups: Sequence[Group], inventories: Mapping[str, tuple[HostInventory, datetime]], zone: tzinfo
) -> Plan:
    """inventories: as RunStore.inventories()."""
    guests = {guest.uuid: guest for seen, _ in inventories.values() for guest in seen.guests}
    return Plan(groups, guests, zone)


def guest_of(point: RestorePoint) -> Guest:
    """As much of a guest as its point tells."""
    return Guest(point.uuid, "", point.guest, point.host, GuestKind.VM, GuestState.OTHER)


def judge(
    repository: str, points: Iterable[RestorePoint], plan: Plan, marked: Container[str] = ()
) -> list[Verdict]:
    """A verdict on each point, by guest, the newest first. marked: archives that were pruned before.

    Those are judged with the others: what rules that were mended would keep, comes back. Where nothing
    has changed, all of them are found not kept again, and nothing else is.
    """
    by_guest: dict[str, list[RestorePoint]] = {}
    for point in points:
        by_guest.setdefault(point.uuid, []).append(point)
    ordered = sorted(by_guest.values(), key=lambda own: (own[0].guest, own[0].uuid))
    return [
        replace(verdict, marked=verdict.point.archive in marked)
        for own in ordered
        for verdict in decide(
            own,
            plan.rules(max(own, key=lambda point: point.time), repository),
            {point.archive for point in own if point.pinned},
            plan.zone,
        )
    ]


def governed(points: Iterable[RestorePoint], group: str, repository: str, plan: Plan) -> list[RestorePoint]:
    """The points that a group's retention is about, marked or not."""
    rules: dict[str, Rules] = {}
    found = []
    for point in points:
        own = rules.setdefault(point.uuid, plan.rules(point, repository))
        if own.default and own.pool(point)[0] == group:
            found.append(point)
    return found


def prune(
    repository: Repository, plan: Plan, memory: Memory, context: Context, group: str = ""
) -> list[Verdict]:
    """Mark what is not kept, take the marks from what is; returns the verdicts on all points.

    group: only what this group's rules decide. Raises RepositoryDamaged when it cannot be told what is
    pinned.
    """
    name = repository.name
    with step(context.events, context.run, name, "look"):
        seen = look(repository, memory, context)
    warn(seen.noticed, name, context)
    marked = live_marks(memory.ledger.marks(name), seen.points)
    verdicts = [item for item in judge(name, seen.points, plan, marked) if group in ("", item.group)]
    lost = [item for item in verdicts if not item.keep and not item.marked]
    back = [item for item in verdicts if item.keep and item.marked]
    now = context.clock.now()
    memory.ledger.mark(
        [Mark(name, item.point.archive, item.point.archive_id, now, item.why) for item in lost]
    )
    memory.ledger.unmark(name, [item.point.archive for item in verdicts if item.keep])
    for guest, archives in _by_guest(lost).items():
        context.events(Pruned(context.run, guest, name, tuple(archives)))
    for guest, archives in _by_guest(back).items():
        context.events(Unpruned(context.run, guest, name, tuple(archives)))
    return verdicts


def run_prune(
    runner: Runner, repository: Repository, plan: Plan, memory: Memory, group: str = ""
) -> tuple[Outcome, list[Verdict]]:
    """prune() as a run of its own. VmconsoleErrors end up in the outcome."""
    verdicts: list[Verdict] = []
    subject = f"{repository.name}, group {group}" if group else repository.name
    with runner.run("prune", subject) as (context, outcome):
        verdicts = prune(repository, plan, memory, context, group)
    return outcome, verdicts


def _by_guest(verdicts: Iterable[Verdict]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.point.guest, []).append(verdict.point.archive)
    return found
