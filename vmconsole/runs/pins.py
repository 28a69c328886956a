"""Pinning points: kept whatever retention says, recorded in the repository itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vmconsole.errors import RepositoryLocked
from vmconsole.events import step
from vmconsole.interfaces import Context, Repository
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import Memory, look
from vmconsole.runs.outcome import Outcome
from vmconsole.runs.runner import Runner


def change_pins(
    repository: Repository,
    archives: Collection[str],
    memory: Memory,
    context: Context,
    *,
    pinned: bool,
) -> list[str]:
    """Pin these archives, or no longer. Returns those that were not so before.

    A point that is pinned loses its mark. Pins of points that are gone are dropped. Raises
    RepositoryLocked, RepositoryDamaged.
    """
    take(f"pins/{repository.name}", f"The pins of repository {repository.name}", memory, context)
    with step(context.events, context.run, repository.name, "look"):
        seen = look(repository, memory, context)
    before = {point.archive: point.archive_id for point in seen.points if point.pinned}
    chosen = {point.archive: point.archive_id for point in seen.points if point.archive in archives}
    others = {name: id_ for name, id_ in before.items() if name not in chosen}
    after = others | chosen if pinned else others
    if after != seen.pins:
        with step(context.events, context.run, repository.name, "write pins"):
            repository.set_pins(after)
        look(repository, memory, context)
    if pinned:
        memory.ledger.unmark(repository.name, archives)
    return sorted(name for name in chosen if (name in before) != pinned)


def run_pins(
    runner: Runner, repository: Repository, points: Iterable[RestorePoint], memory: Memory, *, pinned: bool
) -> tuple[Outcome, list[str]]:
    """change_pins() as a run of its own. VmconsoleErrors end up in the outcome."""
    archives = [point.archive for point in points]
    changed: list[str] = []
    with runner.run("pin" if pinned else "unpin", ", ".join(archives)) as (context, outcome):
        changed = change_pins(repository, archives, memory, context, pinned=pinned)
    return outcome, changed


def take(key: str, what: str, memory: Memory, context: Context) -> None:
    """Keep another run from doing the same at the same time. Raises RepositoryLocked."""
    holder = memory.store.claim(key, context.run)
    if holder != context.run:
        raise RepositoryLocked(
            f"{what} is being worked on by run {holder}.",
            hint=f"Follow it with: vmconsole runs {holder} --follow",
            subject=key.partition("/")[2],
        )
