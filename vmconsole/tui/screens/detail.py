"""The whole detail of one row, for terminals where it does not fit beside the list."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from vmconsole.tui.context import console_of
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.pane import Pane


class DetailScreen(Screen[None]):
    CONTEXTS: ClassVar = ("all",)

    def __init__(self, title: Text, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        yield Static(id="heading", markup=False)
        yield Pane(id="whole")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#heading", Static).update(console_of(self).colours.paint(self._title))
        self.query_one(Pane).show(self._text)
        self.query_one(Pane).focus()
