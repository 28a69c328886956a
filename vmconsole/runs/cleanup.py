"""Undoing what dead runs left on hosts, from the journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from dataclasses import dataclass

from vmconsole.errors import VmconsoleError
from vmconsole.events import Warned, step
from vmconsole.interfaces import Context, Hypervisor, RunStore
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


class Broom:
    """Undoes what dead runs left on a host (their job, or a late freeze, is in our way), once, before it is used."""

    def __init__(self, store: RunStore, context: Context) -> None:
        self._store = store
        self._context = context
        self._lock = threading.Lock()
        self._swept: dict[str, threading.Lock] = {}
        self._done: set[str] = set()

    def sweep(self, host: str, hypervisor: Hypervisor) -> None:
        """Whoever comes meanwhile waits. What cannot be undone is a warning."""
        with self._lock:
            sweeping = self._swept.setdefault(host, threading.Lock())
        with sweeping:
            if host not in self._done:
                self._done.add(host)
                self._sweep(host, hypervisor)

    def _sweep(self, host: str, hypervisor: Hypervisor) -> None:
        context = self._context
        if not any(entry.host == host for entry in dead_entries(self._store)):
            return
        with step(context.events, context.run, "", "clean up"):
            for left in clean(self._store, {host: hypervisor}.__getitem__, [host]):
                if not left.done:
                    message = f"What run {left.entry.run} left could not be removed: {left.detail}"
                    hint = "The next backup tries again; or now: vmconsole doctor --clean"
                    context.events(Warned(context.run, left.entry.host, message, hint))
