"""Undoing what dead runs left on hosts, from the journal."""

from __future__ import annotations

from collections.abc import Callable
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


def clean(store: RunStore, hypervisor: Callable[[str], Hypervisor]) -> list[Leftover]:
    """Undo every dead entry, newest first (what was acquired last goes first)."""
    results = []
    for entry in reversed(dead_entries(store)):
        try:
            detail = hypervisor(entry.host).clean(entry)
            store.journal(entry.run).release(entry.id)
            results.append(Leftover(entry, True, detail))
        except VmconsoleError as error:
            results.append(Leftover(entry, False, error.message))
    return results
