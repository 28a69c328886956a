"""Any action, place or guest by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Input

from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import key_names
from vmconsole.tui.widgets.listing import Column, Listing


@dataclass(frozen=True, slots=True)
class Entry:
    """action: as Textual calls it; guest: the uuid of one to go to."""

    id: str
    name: str
    help: str
    keys: str = ""
    action: str = ""
    guest: str = ""


class Palette(Dialog[None]):
    BINDINGS: ClassVar = [
        Binding("down", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
    ]

    def heading(self) -> Text:
        return Text("Do what?", "title", end="")

    def content(self) -> ComposeResult:
        yield Input(placeholder="an action, a place, a guest", id="wanted")
        columns: list[Column[Entry]] = [
            Column("", 18, lambda entry: safe(entry.name, "strong")),
            Column("", 20, lambda entry: safe(entry.help, "quiet"), grow=True),
            Column("", 8, lambda entry: safe(entry.keys, "key"), drop=1),
        ]
        yield Listing(
            columns,
            lambda entry: entry.id,
            lambda entry: {"name": entry.name, "help": entry.help},
            empty="Nothing is called so.",
        )

    def on_mount(self) -> None:
        listing = self.query_one(Listing)
        listing.styles.height = 12
        listing.show(list(self._entries()))
        self.query_one(Input).focus()

    def _entries(self) -> Iterator[Entry]:
        console = console_of(self)
        for key in console.keys_under_dialog:
            names = " ".join(key_names(console.settings.keys.get(key.id, key.keys)))
            yield Entry(key.id, key.label, key.help, names, action=key.action)
        for row in console.picture.guests:
            yield Entry(row.key, row.guest.name, f"guest on {row.guest.host}", guest=row.key)

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(Listing).set_filter(event.value)
        self.query_one(Listing).action_edge(-1)

    def action_move(self, by: int) -> None:
        self.query_one(Listing).action_move(by)

    def on_listing_opened(self) -> None:
        self.on_input_submitted()

    def on_input_submitted(self) -> None:
        entry: Entry | None = self.query_one(Listing).current
        console = console_of(self)
        self.dismiss(None)
        if entry is None:
            return
        if entry.guest:
            console.call_later(console.show_guest, entry.guest)
        else:
            console.call_later(console.do, entry.action)
