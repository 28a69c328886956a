"""Hosts: do they answer, are they ready for backups, how busy are they?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar

from rich.text import Text

from vmconsole.errors import VmconsoleError
from vmconsole.model.run import RunState
from vmconsole.model.words import age
from vmconsole.runs.cleanup import dead_entries
from vmconsole.tui.app import Console
from vmconsole.tui.background import carry_out_quietly, in_background
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.dialogs.hosts import Trusting, open_add_host, remove_host, said_of_cleaning
from vmconsole.tui.dialogs.said import Said
from vmconsole.tui.format import safe
from vmconsole.tui.host_rows import Extras, Held, HostRow, checked_from, host_rows
from vmconsole.tui.host_text import gauge, host_detail, leftovers_text, why_text
from vmconsole.tui.keymap import bindings
from vmconsole.tui.picture import Picture
from vmconsole.tui.remembered import Remembered
from vmconsole.tui.screens.place import Place
from vmconsole.tui.widgets.listing import Column, Listing

_RUNS_LOOKED_AT = 5


class Hosts(Place[HostRow]):
    CSS = """
    Hosts #detail { height: 14; }
    Hosts.-low #detail { height: 9; }
    """
    PLACE: ClassVar = "hosts"
    CONTEXTS: ClassVar = ("all", "list", "hosts")
    BINDINGS: ClassVar = bindings("list", "hosts")

    def __init__(self) -> None:
        super().__init__()
        self._extras = Extras()
        self._read: Picture | None = None
        self._reading = False
        self._held: dict[str, tuple[Held, ...]] = {}

    @property
    def _memory(self) -> Remembered:
        return self.console_app.remembered

    def make_listing(self) -> Listing[HostRow]:
        glyphs = self.console_app.glyphs

        def load(name: str, drop: int) -> Column[HostRow]:
            def value(row: HostRow) -> float | None:
                # What a lost host was doing when it was last seen says nothing about now.
                return getattr(row.inventory.load, name) if row.inventory and not row.failure else None

            title = "mem" if name == "memory" else name
            return Column(
                title,
                4,
                lambda row: gauge(value(row), glyphs),
                drop=drop,
                sort=lambda row: -(value(row) or 0.0),
            )

        columns: list[Column[HostRow]] = [
            Column(
                "state", 13, lambda row: glyphs.label(row.state, row.word), sort=lambda row: row.state.value
            ),
            Column("host", 10, lambda row: safe(row.name, "strong"), grow=True, sort=lambda row: row.name),
            Column("kind", 8, lambda row: safe(row.kind, "quiet"), drop=4, sort=lambda row: row.kind),
            Column("version", 12, lambda row: safe(row.version or "–", "quiet"), drop=8),
            Column("nodes", 5, _nodes, drop=3),
            Column("guests", 6, _guests, right=True, drop=2, sort=lambda row: -_count(row)),
            Column("no group", 8, _unprotected, right=True, drop=5, sort=lambda row: -row.unprotected),
            load("cpu", 6),
            load("io", 6),
            load("memory", 6),
            Column("storage", 8, _storage, drop=7),
            Column("left", 4, _left, right=True, drop=7),
            Column("checks", 9, self._checks_cell, drop=9),
            Column(
                "seen", 11, self._seen, drop=1, sort=lambda row: row.seen.timestamp() if row.seen else 0.0
            ),
            Column("address", 24, lambda row: safe(row.address, "quiet"), wide=True, drop=10),
        ]
        return Listing(
            columns,
            lambda row: row.name,
            self._fields,
            lambda row: row.needs_attention,
            empty="No host is configured yet. n adds one; W shows all first steps.",
        )

    def rows(self, picture: Picture) -> Sequence[HostRow]:
        console = self.console_app
        self._read_extras(picture)
        failures = dict(console.feed.failures)
        return host_rows(picture, failures, console.asking, self._memory.checked, self._extras)

    def heading(self, picture: Picture) -> Text:
        text = Text("Hosts", "title", end="")
        if picture.config is None:
            return text
        rows = self.rows(picture)
        well = sum(not row.needs_attention for row in rows)
        text.append(f" {well} of {len(rows)} well", "ok" if well == len(rows) else "late")
        guests = sum(_count(row) for row in rows)
        text.append(f" · {guests} guest{'s' if guests != 1 else ''}", "quiet")
        if bare := sum(row.unprotected for row in rows):
            text.append(f" · {bare} in no group", "late")
        if left := len(self._extras.leftovers):
            text.append(f" · {left} left by killed runs", "late")
        return text

    def detail_title(self, row: HostRow) -> Text:
        parts = [row.kind, *([row.version] if row.version else [])]
        if row.inventory and row.inventory.nodes:
            online, total = row.nodes
            parts.append(f"{online} of {total} nodes up")
        return Text.assemble(safe(row.name, "title"), safe(f" {' · '.join(parts)}", "quiet"), end="")

    def detail(self, row: HostRow) -> Text:
        return host_detail(row, self.picture, self.console_app.glyphs)

    def note(self, row: HostRow) -> Text:
        return why_text(row, self.console_app.glyphs)

    def side_title(self, row: HostRow) -> Text:
        return Text.assemble("Guests on ", safe(row.name), end="")

    def side(self, row: HostRow) -> Text:
        text = Text(end="")
        for guest in (item for item in self.picture.guests if item.guest.host == row.name):
            text.append_text(self.console_app.glyphs.label(guest.state)).append("  ")
            text.append_text(safe(guest.guest.name))
            text.append_text(safe(f"  {guest.guest.node}", "quiet")).append("\n")
        return text if text.plain else Text("No guest is known of it.", "quiet", end="")

    def log_of(self, row: HostRow) -> str:
        last = [item.last for item in self.picture.guests if item.guest.host == row.name and item.last]
        return max(last, key=lambda record: record.started).run if last else ""

    @property
    def name_to_copy(self) -> str:
        return self.current.name if self.current else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("host", "check", self.current.name) if self.current else ()

    # --- actions ---

    def action_hosts_check(self) -> None:
        for row in self.listing.chosen:
            self.check(row.name)

    def check(self, name: str) -> None:
        if name in self._memory.checking:
            return
        self._memory.checking.add(name)
        console = self.console_app
        carry_out_quietly(
            console, Command(("host", "check", name)), lambda ended: self._check_ended(name, ended)
        )
        self.show_picture()

    def _check_ended(self, name: str, ended: Ended) -> None:
        self._memory.checking.discard(name)
        self._memory.checked[name] = found = checked_from(ended, self.console_app.services.clock.now())
        failing = len(found.failing)
        if found.error:
            said = f"{name} could not be checked: {found.error}"
        elif failing:
            said = f"{name}: {failing} of {len(found.checks)} checks found something. The detail has the remedies."
        else:
            said = f"{name}: all {len(found.checks)} checks are well."
        self.notify(said, severity="warning" if found.error or failing else "information", markup=False)
        self.show_picture()

    def action_hosts_trust(self) -> None:
        if (row := self.current) is not None:
            Trusting(self.console_app, row.name, lambda _: None).begin()

    def action_hosts_add(self) -> None:
        def added(name: str) -> None:
            self.listing.move_to(name)
            Trusting(
                self.console_app, name, lambda all_trusted: self.check(name) if all_trusted else None
            ).begin()

        open_add_host(self.console_app, added)

    def action_hosts_remove(self) -> None:
        if (row := self.current) is not None:
            remove_host(self.console_app, row.name)

    def action_hosts_clean(self) -> None:
        text = Text("Killed runs left these behind; each is undone on its host:\n", end="")
        text.append_text(leftovers_text(self._extras.leftovers))
        text.append("Runs that are alive, and other backup servers', are not touched.", "quiet")

        def answered(yes: bool | None) -> None:
            if yes:
                carry_out_quietly(self.console_app, Command(("doctor", "--clean")), self._cleaned)

        self.app.push_screen(Ask("Remove leftovers?", text, "Remove"), answered)

    def _cleaned(self, ended: Ended) -> None:
        """doctor also ends with a failure when a check of it did, whatever became of the leftovers."""
        self._read = None
        if not isinstance(ended.document, dict) or "cleaned" not in ended.document:
            self.app.push_screen(Said(ended))
            return
        said, failed = said_of_cleaning(ended.document)
        if failed:
            hint = "Look at what the host says, then again: vmconsole doctor --clean"
            told = Ended(ended.command, ended.code, error="\n".join([said, *failed]), hint=hint)
            self.app.push_screen(Said(told))
        else:
            self.notify(said)

    def why_not(self, action: str) -> str:
        row = self.current
        if row is None and action in ("hosts.check", "hosts.trust", "hosts.remove"):
            return "No host is configured yet. n adds one."
        if action == "hosts.check" and row is not None and row.name in self._memory.checking:
            return f"{row.name} is being checked."
        if action == "hosts.clean" and not self._extras.leftovers:
            return "No killed run left anything behind."
        return super().why_not(action)

    # --- what takes a while ---

    def _read_extras(self, picture: Picture) -> None:
        if self._read is picture or self._reading or picture.config is None:
            return
        self._read, self._reading = picture, True
        in_background(
            self.console_app, lambda: read_extras(self.console_app, picture, self._held), self._extras_read
        )

    def _extras_read(self, found: Extras | VmconsoleError) -> None:
        self._reading = False
        if isinstance(found, Extras) and found != self._extras:
            self._extras = found
            self.show_picture()
        else:
            # There may be a newer picture by now.
            self._read_extras(self.picture)

    # --- cells ---

    def _checks_cell(self, row: HostRow) -> Text:
        if row.name in self._memory.checking:
            return safe("checking", "running")
        if row.checked is None:
            return safe("–", "quiet")
        if row.checked.error:
            return safe("none", "failed")
        failing = len(row.checked.failing)
        well = f"{len(row.checked.checks) - failing}/{len(row.checked.checks)}"
        return safe(well, "failed" if row.checked.stops else "warning" if failing else "ok")

    def _seen(self, row: HostRow) -> Text:
        if row.seen is None:
            return safe("never", "quiet")
        return safe(age(self.picture.now - row.seen), "late" if row.failure else "quiet")

    def _fields(self, row: HostRow) -> dict[str, str | float | None]:
        return {
            "name": row.name, "kind": row.kind, "address": row.address, "state": f"{row.state.value} {row.word}",
            "version": row.version, "guests": _count(row), "unprotected": row.unprotected,
            "age": (self.picture.now - row.seen).total_seconds() if row.seen else None,
        }  # fmt: skip


def read_extras(console: Console, picture: Picture, known: dict[str, tuple[Held, ...]]) -> Extras:
    """Leftovers of dead runs, and when the newest backups slowed down. Reads the state; takes a while.

    known: what was read of runs that have ended, by run; is added to.
    """
    store = console.services.store
    held: list[Held] = []
    for run in [run for run in picture.runs if run.kind == "backup"][:_RUNS_LOOKED_AT]:
        found = known.get(run.id)
        if found is None:
            found = tuple(_held(when, document) for _, when, document in store.events(run.id)
                          if document.get("event") == "throttled")  # fmt: skip
            if run.state is not RunState.RUNNING:
                known[run.id] = found
        held += found
    held.sort(key=lambda item: item.when, reverse=True)
    return Extras(tuple(dead_entries(store)), tuple(held))


def _held(when: datetime, document: Mapping[str, object]) -> Held:
    rate = document.get("rate")
    return Held(
        when,
        str(document.get("host", "")),
        rate if isinstance(rate, int) else 0,
        str(document.get("reason", "")),
    )


def _count(row: HostRow) -> int:
    return len(row.inventory.guests) if row.inventory else 0


def _nodes(row: HostRow) -> Text:
    if row.inventory is None or not row.inventory.nodes:
        return safe("–", "quiet")
    online, total = row.nodes
    return safe(f"{online}/{total}", "" if online == total else "failed")


def _guests(row: HostRow) -> Text:
    return safe(str(_count(row)) if row.inventory else "–", "" if row.inventory else "quiet")


def _unprotected(row: HostRow) -> Text:
    return safe(str(row.unprotected) if row.unprotected else "–", "late" if row.unprotected else "quiet")


def _storage(row: HostRow) -> Text:
    if row.inventory is None or not row.inventory.storages:
        return safe("–", "quiet")
    return safe(f"{len(row.low)} low", "late") if row.low else safe("ok", "ok")


def _left(row: HostRow) -> Text:
    return safe(str(len(row.leftovers)) if row.leftovers else "–", "late" if row.leftovers else "quiet")


def screen() -> Hosts:
    return Hosts()
