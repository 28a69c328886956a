"""Looking at a repository's points: waiting for its lock with a word, and noticing what vanished."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from vmconsole.errors import ArchivesVanished, RepositoryLocked
from vmconsole.events import Waiting, Warned
from vmconsole.interfaces import Context, Ledger, Repository, RepositoryReader, RunStore
from vmconsole.model.ledger import Mark, Vanished
from vmconsole.model.point import RestorePoint

LOCK_PATIENCE = 3.0
"""Seconds to wait for a repository's lock before somebody is told."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered here of points."""

    store: RunStore
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Noticed:
    """What changed in a repository without our doing.

    vanished: points that are gone, until that is accepted. unpinned: archives that were pinned when last
    seen and are not now, though they are there; told once.
    """

    vanished: Sequence[Vanished] = ()
    unpinned: Sequence[str] = ()

    def texts(self, repository: str) -> list[tuple[str, str]]:
        """(message, remedy) of each."""
        found = []
        if self.vanished:
            remedy = f"When that is all right: vmconsole repo accept {repository}"
            found.append((vanished_text(repository, self.vanished), remedy))
        if self.unpinned:
            count = "1 point is" if len(self.unpinned) == 1 else f"{len(self.unpinned)} points are"
            message = (
                f"{count} pinned no longer in repository {repository}, not by vmconsole on this machine."
            )
            found.append((message, f"Pin again: vmconsole pin {shlex.join(self.unpinned)}"))
        return found


@dataclass(frozen=True, slots=True)
class Seen:
    """A repository's points, newest first, marked ones among them; and what is pinned, by name: id."""

    points: Sequence[RestorePoint]
    pins: Mapping[str, str]
    noticed: Noticed


@contextmanager
def reading(repository: Repository, context: Context) -> Iterator[RepositoryReader]:
    """The repository, opened; who waits for its lock is told what for. Raises RepositoryError."""
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(repository.reader(wait=LOCK_PATIENCE))
        except RepositoryLocked as error:
            context.events(Waiting(context.run, repository.name, error.message))
            reader = stack.enter_context(repository.reader())
        yield reader


def look(repository: Repository, memory: Memory, context: Context) -> Seen:
    """Read the points, compare them with what was last seen, and remember them."""
    with reading(repository, context) as reader:
        points, pins = reader.points(), reader.pins()
        return Seen(points, pins, remember(repository.name, points, memory))


def remember(repository: str, points: Sequence[RestorePoint], memory: Memory) -> Noticed:
    """Compare and save; call it while the repository is open, so that nobody writes in between."""
    gone = memory.ledger.compare(repository, points)
    free = {point.archive_id for point in points if not point.pinned}
    before = memory.store.points(repository)
    unpinned = [point.archive for point in before if point.pinned and point.archive_id in free]
    memory.store.save_points(repository, points)
    return Noticed(gone, unpinned)


def warn(noticed: Noticed, repository: str, context: Context) -> None:
    for message, remedy in noticed.texts(repository):
        context.events(Warned(context.run, repository, message, remedy))


def live_marks(marks: Iterable[Mark], points: Iterable[RestorePoint]) -> dict[str, Mark]:
    """By archive name, the marks that count: of points that are there, and not pinned meanwhile."""
    by_id = {mark.archive_id: mark for mark in marks}
    return {
        point.archive: by_id[point.archive_id]
        for point in points
        if point.archive_id in by_id and not point.pinned
    }


def refuse_vanished(repository: str, gone: Sequence[Vanished]) -> None:
    """Raises ArchivesVanished when anything is gone that nobody here deleted."""
    if gone:
        raise ArchivesVanished(
            f"{vanished_text(repository, gone)} Nothing is deleted or compacted.",
            hint="Compacting would make that final: first find out who did it, and whether the repository "
            f"can be rolled back. When it is all right: vmconsole repo accept {repository}",
            subject=repository,
        )


def vanished_text(repository: str, gone: Sequence[Vanished]) -> str:
    """What vanished, as a sentence."""
    named = ", ".join(item.archive for item in gone[:_NAMED])
    more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
    count = "1 restore point" if len(gone) == 1 else f"{len(gone)} restore points"
    return f"{count} vanished from repository {repository}, not deleted by vmconsole: {named}{more}."
