"""Restore points as the console lists them. Reading them takes long in a large shop: not in the screen's thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo

from vmconsole.front.services import Services
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.ledger import Mark
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import live_marks
from vmconsole.tui.states import State

RECORDS = 400
"""Attempts of one guest that its calendar is made from."""


@dataclass(frozen=True, slots=True)
class PointRow:
    """One restore point. mark: it was pruned, and goes with a later compact."""

    point: RestorePoint
    repository: str
    mark: Mark | None = None

    @property
    def key(self) -> str:
        return f"{self.repository}/{self.point.archive}"

    @property
    def state(self) -> State:
        if self.mark is not None:
            return State.OFF
        return State.WARNING if self.point.warnings else State.OK

    @property
    def word(self) -> str:
        if self.mark is not None:
            return "pruned"
        return "warning" if self.point.warnings else "pinned" if self.point.pinned else "ok"

    def age(self, now: datetime) -> float:
        return (now - self.point.time).total_seconds()


@dataclass(frozen=True, slots=True)
class Shelf:
    """All points of all repositories, newest first. stamp: what they were read at."""

    stamp: object = None
    rows: tuple[PointRow, ...] = ()
    kept: tuple[PointRow, ...] = ()
    """Those that were not pruned."""
    by_guest: Mapping[str, tuple[PointRow, ...]] = field(default_factory=dict)
    """All of a guest, by its uuid: looked at with every step of the cursor."""

    @classmethod
    def of(cls, stamp: object, rows: Iterable[PointRow]) -> Shelf:
        ordered = tuple(sorted(rows, key=lambda row: row.point.time, reverse=True))
        by_guest: dict[str, list[PointRow]] = {}
        for row in ordered:
            by_guest.setdefault(row.point.uuid, []).append(row)
        kept = tuple(row for row in ordered if row.mark is None)
        return cls(stamp, ordered, kept, {uuid: tuple(own) for uuid, own in by_guest.items()})

    @property
    def pruned(self) -> int:
        return len(self.rows) - len(self.kept)


def read_shelf(services: Services, before: Shelf) -> Shelf:
    """As remembered here; no repository is asked. Returns before when nothing has changed since.

    Blocks: a second or more for a hundred thousand points. Raises VmconsoleError.
    """
    names = list(services.config.repositories)
    marks = {name: services.ledger.marks(name) for name in names}
    stamp = (services.store.stamp(), tuple(names), tuple(tuple(found) for found in marks.values()))
    if stamp == before.stamp:
        return before
    rows: list[PointRow] = []
    for name in names:
        points = services.store.points(name)
        live = live_marks(marks[name], points)
        rows += [PointRow(point, name, live.get(point.archive)) for point in points]
    return Shelf.of(stamp, rows)


@dataclass(frozen=True, slots=True)
class Day:
    """What one day brought a guest. good, warned, failed: attempts. pinned, pruned: of its points."""

    good: int = 0
    warned: int = 0
    failed: int = 0
    pinned: int = 0
    pruned: int = 0

    @property
    def what(self) -> str:
        """The most important of it: `pinned`, `failed`, `warning`, `ok`, `pruned`, `none`.

        A day that failed first and was made good later is good: there is a point to go back to.
        """
        if self.pinned:
            return "pinned"
        if self.good:
            return "ok"
        if self.warned:
            return "warning"
        if self.failed:
            return "failed"
        return "pruned" if self.pruned else "none"


def days_of(rows: Sequence[PointRow], records: Sequence[BackupRecord], zone: tzinfo) -> dict[date, Day]:
    """rows, records: of one guest. What is not in the history any more is known by its points alone."""
    counts: dict[date, dict[str, int]] = {}

    def count(moment: datetime, name: str) -> None:
        day = counts.setdefault(moment.astimezone(zone).date(), {})
        day[name] = day.get(name, 0) + 1

    for row in rows:
        name = "pruned" if row.mark else "warned" if row.point.warnings else "good"
        count(row.point.time, name)
        if row.point.pinned:
            count(row.point.time, "pinned")
    for record in records:
        if record.state in (BackupState.FAILED, BackupState.DIED):
            count(record.started, "failed")
    return {day: Day(**found) for day, found in counts.items()}


@dataclass(frozen=True, slots=True)
class DiskChange:
    """A disk in two points. before, after: bytes, None where it is not in it."""

    id: str
    before: int | None
    after: int | None

    @property
    def what(self) -> str:
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        if self.before == self.after:
            return "same size"
        return "grown" if self.after > self.before else "shrunk"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two points, the older first. between: the points after the older, up to the newer, of the same guest."""

    older: PointRow
    newer: PointRow
    disks: tuple[DiskChange, ...]
    between: tuple[PointRow, ...]

    @property
    def same_guest(self) -> bool:
        return self.older.point.uuid == self.newer.point.uuid

    def total(self, name: str) -> int:
        """Of a figure of RestorePoint.total(), over all points in between."""
        return sum(row.point.total(name) for row in self.between)


def compare(one: PointRow, other: PointRow, rows: Sequence[PointRow]) -> Comparison:
    """rows: all points, for what lies in between."""
    older, newer = sorted((one, other), key=lambda row: row.point.time)
    before: Mapping[str, int] = {disk.id: disk.size for disk in older.point.stored_disks}
    after: Mapping[str, int] = {disk.id: disk.size for disk in newer.point.stored_disks}
    names = list(dict.fromkeys((*before, *after)))
    same = older.point.uuid == newer.point.uuid
    between = tuple(
        row
        for row in rows
        if same
        and row.point.uuid == newer.point.uuid
        and row.repository == newer.repository
        and older.point.time < row.point.time <= newer.point.time
    )
    return Comparison(
        older, newer, tuple(DiskChange(name, before.get(name), after.get(name)) for name in names), between
    )
