"""Compaction: the one place where restore points are really deleted, and their space freed.

Order: look (nothing may have vanished), note what we are about to delete, delete, look again, free. Dying
anywhere leaves points either there, still marked, or gone and known to be our doing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vmconsole.events import Compacted, Deleted, Warned, step
from vmconsole.interfaces import Context, Repository
from vmconsole.model.ledger import Mark
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import Memory, Seen, live_marks, look, refuse_vanished, warn
from vmconsole.runs.outcome import Outcome
from vmconsole.runs.pins import take
from vmconsole.runs.runner import Runner

BATCH = 100
"""Archives that one `borg delete` is given: it commits once for all of them."""


@dataclass(frozen=True, slots=True)
class Due:
    """What a compact would do. delete: for good. later: pruned, but not for long enough yet.

    spared: pruned long ago, but its guest has no other point left.
    """

    delete: Sequence[RestorePoint]
    later: Sequence[RestorePoint]
    spared: Sequence[RestorePoint]


@dataclass(slots=True)
class Freed:
    """What a compact did. bytes_freed: about; None when it was not reached, or Borg did not say."""

    deleted: list[str] = field(default_factory=list)
    bytes_freed: int | None = None


def due(points: Sequence[RestorePoint], marks: Mapping[str, Mark], until: datetime) -> Due:
    """marks: by archive name, as live_marks(). until: what was marked later stays for now."""
    old = [point for point in points if point.archive in marks and marks[point.archive].marked <= until]
    chosen = {point.archive for point in old}
    survivors = {point.uuid for point in points if point.archive not in chosen}
    # When it was marked there were newer ones; whatever became of them, it is the last.
    spared = {point.uuid: point for point in sorted(old, key=lambda point: point.time)}
    last = [point for uuid, point in spared.items() if uuid not in survivors]
    names = {point.archive for point in last}
    return Due(
        delete=[point for point in old if point.archive not in names],
        later=[point for point in points if point.archive in marks and point.archive not in chosen],
        spared=last,
    )


def cutoff(undo: float | None, now: datetime) -> datetime:
    """undo: seconds for which pruned points can be had back; None to delete all that are pruned."""
    return now if undo is None else now - timedelta(seconds=undo)


def compact(
    repository: Repository, undo: float | None, memory: Memory, context: Context, done: Freed
) -> None:
    """undo: as cutoff(). done: filled as it goes, so that a failure does not hide what was deleted.

    Raises ArchivesVanished, RepositoryLocked, RepositoryDamaged (it cannot be told what is pinned).
    """
    name = repository.name
    take(f"compact/{name}", f"Repository {name}", memory, context)
    seen = _look(repository, memory, context)
    marks = live_marks(memory.ledger.marks(name), seen.points)
    found = due(seen.points, marks, cutoff(undo, context.clock.now()))
    for point in found.spared:
        memory.ledger.unmark(name, [point.archive])
        message = f"{point.archive} was pruned, but it is the last point of {point.guest}: it stays."
        context.events(Warned(context.run, name, message))
    for start in range(0, len(found.delete), BATCH):
        batch = found.delete[start : start + BATCH]
        context.cancel.check()
        with step(context.events, context.run, name, "delete"):
            memory.ledger.deleting(name, {point.archive: point.archive_id for point in batch})
            repository.delete([point.archive for point in batch], context)
        done.deleted += [point.archive for point in batch]
        context.events(Deleted(context.run, name, tuple(point.archive for point in batch)))
    if found.delete:
        _look(repository, memory, context)
    context.cancel.check()
    began = time.monotonic()
    with step(context.events, context.run, name, "compact"):
        done.bytes_freed = repository.compact(context)
    context.events(Compacted(context.run, name, done.bytes_freed, time.monotonic() - began))


def _look(repository: Repository, memory: Memory, context: Context) -> Seen:
    with step(context.events, context.run, repository.name, "compare"):
        seen = look(repository, memory, context)
        refuse_vanished(repository.name, seen.noticed.vanished)
    warn(seen.noticed, repository.name, context)
    return seen


def run_compact(
    runner: Runner, repository: Repository, undo: float | None, memory: Memory
) -> tuple[Outcome, Freed]:
    """compact() as a run of its own. VmconsoleErrors end up in the outcome."""
    freed = Freed()
    with runner.run("compact", repository.name) as (context, outcome):
        compact(repository, undo, memory, context, freed)
    return outcome, freed
