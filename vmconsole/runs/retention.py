"""Which restore points of a guest are kept, and why. Pure: a preview says exactly what will happen."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from vmconsole.model.group import Group
from vmconsole.model.guest import Guest
from vmconsole.model.point import RestorePoint
from vmconsole.model.schedule import KEEP_ALL, Retention

NOT_COVERED = "no group covers the guest"
EVERYTHING = "everything is kept"
PINNED = "pinned"
NOT_KEPT = "not kept by any rule"

Pool = tuple[str, str]
"""(group, schedule) whose retention holds; no schedule: the group's own. Points are counted per pool."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the points of one guest in one repository.

    schedules: by (group, schedule), of the points each made. groups: of the other points, by the names of
    the groups that cover the guest. default: that group of them whose retention holds for points that none
    of them made; empty when no group covers the guest. minimum: the newest points that are kept anyway.
    """

    schedules: Mapping[Pool, Retention]
    groups: Mapping[str, Retention]
    default: str = ""
    minimum: int = 1

    def pool(self, point: RestorePoint) -> Pool:
        made_by = (point.group, point.schedule)
        if made_by in self.schedules:
            return made_by
        return (point.group if point.group in self.groups else self.default, "")

    def retention(self, pool: Pool) -> Retention:
        return self.schedules.get(pool) or self.groups.get(pool[0], KEEP_ALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one point. group: the one whose rules say so; empty when none covers the guest.

    marked: it was pruned before; when it is to be kept, rules or pins have changed, and it comes back.
    """

    point: RestorePoint
    keep: bool
    why: str
    group: str = ""
    marked: bool = False


def rules_for(guest: Guest, groups: Iterable[Group], repository: str) -> Rules:
    """The rules for a guest's points in a repository: of the groups that cover it, in the order of the file."""
    groups = list(groups)
    covering = [group for group in groups if group.selector.why(guest) is not None]
    into_here = [group for group in covering if group.repository == repository]
    own = [group.retention for group in covering]
    own += [schedule.retention for group in covering for schedule in group.schedules]
    return Rules(
        schedules={(s.group, s.name): s.retention for group in groups for s in group.schedules},
        groups={group.name: group.retention for group in covering},
        default=next((group.name for group in into_here or covering), ""),
        minimum=max((retention.minimum for retention in own), default=1),
    )


def decide(
    points: Iterable[RestorePoint], rules: Rules, pinned: Container[str], zone: tzinfo
) -> list[Verdict]:
    """A verdict on each point of one guest, newest first.

    pinned: archive names; these points are kept and do not count. zone: where days begin.
    """
    ordered = sorted(points, key=lambda point: (point.time, point.archive), reverse=True)
    counted = [point for point in ordered if point.archive not in pinned]
    ranks = {point.archive: rank for rank, point in enumerate(counted, 1)}
    pools: dict[Pool, list[RestorePoint]] = {}
    for point in counted:
        pools.setdefault(rules.pool(point), []).append(point)
    reasons = {pool: _reasons(members, rules.retention(pool), zone) for pool, members in pools.items()}
    return [_verdict(point, rules, ranks.get(point.archive), reasons) for point in ordered]


def _verdict(
    point: RestorePoint, rules: Rules, rank: int | None, reasons: Mapping[Pool, Mapping[str, list[str]]]
) -> Verdict:
    """rank: 1 for the guest's newest; None for a pinned point."""
    if rank is None:
        return Verdict(point, True, PINNED, rules.pool(point)[0] if rules.default else "")
    if not rules.default:
        return Verdict(point, True, NOT_COVERED)
    pool = rules.pool(point)
    retention = rules.retention(pool)
    if retention.keeps_all:
        return Verdict(point, True, EVERYTHING, pool[0])
    if found := reasons[pool].get(point.archive):
        return Verdict(point, True, ", ".join(found), pool[0])
    minimum = max(rules.minimum, retention.minimum)
    if rank <= minimum:
        return Verdict(point, True, "newest" if rank == 1 else f"newest {rank} of {minimum}", pool[0])
    return Verdict(point, False, NOT_KEPT, pool[0])


def _reasons(points: Sequence[RestorePoint], retention: Retention, zone: tzinfo) -> dict[str, list[str]]:
    """By archive, the rules that keep it, such as `daily 3 of 14`. points: one pool's, newest first."""
    found: dict[str, list[str]] = {}
    for name, period in _PERIODS:
        wanted = int(getattr(retention, name))
        seen: set[object] = set()
        for point in points:
            if len(seen) == wanted:
                break
            key = period(point.time.astimezone(zone)) if period else point.archive
            if key not in seen:
                seen.add(key)
                found.setdefault(point.archive, []).append(f"{name} {len(seen)} of {wanted}")
    return found


# The hour that comes twice in autumn is two hours, told apart by their distance from UTC.
_PERIODS: tuple[tuple[str, Callable[[datetime], object] | None], ...] = (
    ("last", None),
    ("hourly", lambda local: (local.date(), local.hour, local.utcoffset())),
    ("daily", lambda local: local.date()),
    ("weekly", lambda local: local.isocalendar()[:2]),
    ("monthly", lambda local: (local.year, local.month)),
    ("yearly", lambda local: local.year),
)
