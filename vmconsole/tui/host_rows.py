"""What is known of each host, and how well it is, from what was seen and what was said when it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from vmconsole.errors import HostKeyChanged, VmconsoleError
from vmconsole.model.guest import Check, HostInventory, Storage
from vmconsole.model.run import JournalEntry
from vmconsole.runs.alerts import unprotected
from vmconsole.tui.commands import Ended
from vmconsole.tui.picture import Picture
from vmconsole.tui.states import State

LOW = 0.9
"""Of a storage in use: from here on it is told."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What `host check` found. error: why it found nothing."""

    when: datetime
    checks: tuple[Check, ...] = ()
    error: str = ""
    hint: str = ""

    @property
    def failing(self) -> tuple[Check, ...]:
        """What is wrong, what stops backups first."""
        return tuple(
            sorted((check for check in self.checks if not check.ok), key=lambda check: check.warning)
        )

    @property
    def stops(self) -> bool:
        """Whether backups cannot work like this."""
        return bool(self.error) or any(not check.warning for check in self.failing)


@dataclass(frozen=True, slots=True)
class Held:
    """When backups slowed down for a host. rate: bytes per second, 0 for no limit."""

    when: datetime
    host: str
    rate: int
    reason: str


@dataclass(frozen=True, slots=True)
class Extras:
    """What takes a while to read. leftovers: of dead runs, on any host."""

    leftovers: tuple[JournalEntry, ...] = ()
    held: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class HostRow:
    """why, fix: one sentence on its state and what helps, naming keys. seen: when it last answered."""

    name: str
    kind: str
    address: str
    state: State
    word: str
    why: str = ""
    fix: str = ""
    inventory: HostInventory | None = None
    seen: datetime | None = None
    checked: Checked | None = None
    failure: VmconsoleError | None = None
    leftovers: tuple[JournalEntry, ...] = ()
    held: tuple[Held, ...] = ()
    unprotected: int = 0

    @property
    def needs_attention(self) -> bool:
        return self.state.needs_attention

    @property
    def version(self) -> str:
        """Of its software, when it told."""
        nodes = self.inventory.nodes if self.inventory else ()
        return next((node.version for node in nodes if node.version), "")

    @property
    def nodes(self) -> tuple[int, int]:
        """(online, all); one machine is (1, 1)."""
        nodes = self.inventory.nodes if self.inventory else ()
        return (sum(node.online for node in nodes), len(nodes)) if nodes else (1, 1)

    @property
    def low(self) -> tuple[Storage, ...]:
        """Storages that are nearly full, or not there."""
        return low_storages(self.inventory.storages) if self.inventory else ()


def low_storages(storages: Sequence[Storage]) -> tuple[Storage, ...]:
    return tuple(
        item for item in storages if not item.available or (item.size and item.used >= LOW * item.size)
    )


def checked_from(ended: Ended, when: datetime) -> Checked:
    """What `host check --json` printed; it also ends with a failure when a check did."""
    document: Any = ended.document
    found = document.get("checks") if isinstance(document, dict) else None
    if not isinstance(found, list):
        return Checked(when, error=ended.error or "The check did not say what it found.", hint=ended.hint)
    checks = tuple(
        Check(
            str(item.get("name", "")),
            ok=bool(item.get("ok")),
            detail=str(item.get("detail") or ""),
            remedy=str(item.get("remedy") or ""),
            warning=bool(item.get("warning")),
        )
        for item in found
        if isinstance(item, dict)
    )
    return Checked(when, checks)


def key_changed(error: VmconsoleError) -> bool:
    """Whether another key was trusted before; else it is only not known yet."""
    return isinstance(error, HostKeyChanged) and "is not trusted yet" not in error.message


def host_rows(
    picture: Picture,
    failures: Mapping[str, VmconsoleError],
    asking: frozenset[str],
    checked: Mapping[str, Checked],
    extras: Extras,
) -> tuple[HostRow, ...]:
    """Those that need attention first, then by name."""
    if picture.config is None:
        return ()
    rows = []
    for name, settings in picture.config.hosts.items():
        inventory, seen = picture.hosts.get(name, (None, None))
        guests = inventory.guests if inventory else ()
        row = HostRow(
            name, settings.kind, settings.address, State.OK, "ok", "", "", inventory, seen, checked.get(name),
            failures.get(name), tuple(entry for entry in extras.leftovers if entry.host == name),
            tuple(item for item in extras.held if item.host.partition("/")[0] == name),
            sum(unprotected(guest, picture.groups) for guest in guests),
        )  # fmt: skip
        rows.append(_judged(row, asking=name in asking))
    return tuple(sorted(rows, key=lambda row: (not row.needs_attention, row.name)))


def _judged(row: HostRow, *, asking: bool) -> HostRow:
    state, word, why, fix = _judge(row, asking=asking)
    return replace(row, state=state, word=word, why=why, fix=fix)


def _judge(row: HostRow, *, asking: bool) -> tuple[State, str, str, str]:
    """(state, word, why, fix)."""
    failure = row.failure
    if asking:
        return State.QUEUED, "asking", "It is being asked now.", ""
    if failure is not None and isinstance(failure, HostKeyChanged):
        if key_changed(failure):
            return State.FAILED, "key changed", failure.message, "t shows both keys, and what to compare"
        return State.NEVER, "key unknown", failure.message, "t shows its key, to be compared and trusted"
    if failure is not None:
        return State.FAILED, "no answer", failure.message, failure.hint or "R asks it again"
    if row.inventory is None:
        return State.NEVER, "not seen", "It has not been asked yet.", "R asks it"
    return _judge_seen(row)


def _judge_seen(row: HostRow) -> tuple[State, str, str, str]:
    if row.checked and row.checked.stops:
        first = row.checked.failing[0] if row.checked.failing else None
        why = f"{first.name}: {first.detail}" if first else row.checked.error
        return (
            State.FAILED,
            "not ready",
            f"A check failed. {why}",
            "the detail has the remedy, c checks again",
        )
    online, total = row.nodes
    if online < total and row.inventory:
        lost = ", ".join(node.name for node in row.inventory.nodes if not node.online)
        return State.WARNING, "warning", f"Of {total} nodes {total - online} cannot be reached: {lost}.", ""
    if row.leftovers:
        count = len(row.leftovers)
        what = "1 thing" if count == 1 else f"{count} things"
        return State.WARNING, "leftovers", f"Killed runs left {what} on it.", "x shows and removes them"
    if row.inventory and row.inventory.warnings:
        return State.WARNING, "warning", row.inventory.warnings[0], ""
    if row.low:
        item = row.low[0]
        where = f"{item.name} on {item.node}" if item.node else item.name
        what = "is nearly full" if item.available else "is not there"
        return State.WARNING, "storage", f"Storage {where} {what}.", ""
    if row.checked and row.checked.failing:
        check = row.checked.failing[0]
        return State.WARNING, "warning", f"{check.name}: {check.detail}", "the detail has the remedy"
    return State.OK, "ok", "", ""
