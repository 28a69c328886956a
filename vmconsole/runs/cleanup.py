"""Undoing what dead runs left on hosts, from the journal."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from vmconsole.errors import VmconsoleError
from vmconsole.interfaces import Hypervisor, RunStore
from vmconsole.model.run import JournalEntry


@dataclass(frozen=True, slots=True)
class Leftover:
    """A journal entry nobody alive owns. done: it was undone; detail says what, or why not."""

    entry: JournalEntry
    done: bool
    detail: str


def dead_entries(store: RunStore, own_process: str = "") -> list[JournalEntry]:
    """Entries whose run is proven dead. A run on another backup server is never touched."""
    return [
        entry
        for entry in store.open_entries()
        if entry.process != own_process and store.process_is_dead(entry.process)
    ]


def clean(
    store: RunStore, hypervisor: Callable[[str], Hypervisor], hosts: Container[str] | None = None
) -> list[Leftover]:
    """Undo every dead entry, newest first (what was acquired last goes first).

    hosts: only what was left on these; None means all. Entries that say the same (a guest whose agent
    hung every night) are undone once.
    """
    results: list[Leftover] = []
    for entry in reversed(dead_entries(store)):
        if hosts is not None and entry.host not in hosts:
            continue
        twin = next((item for item in results if _same(item.entry, entry)), None)
        found = Leftover(entry, twin.done, twin.detail) if twin else _undo(entry, hypervisor)
        if found.done:
            store.journal(entry.run).release(entry.id)
        results.append(found)
    return results


def _undo(entry: JournalEntry, hypervisor: Callable[[str], Hypervisor]) -> Leftover:
    try:
        return Leftover(entry, True, hypervisor(entry.host).clean(entry))
    except VmconsoleError as error:
        return Leftover(entry, False, error.message)


def _same(one: JournalEntry, other: JournalEntry) -> bool:
    return (one.host, one.kind, one.payload) == (other.host, other.kind, other.payload)
