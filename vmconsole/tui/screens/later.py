"""A place that is not built yet."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from vmconsole.tui.widgets.bars import KeyBar, TopBar


class Later(Screen[None]):
    CONTEXTS: ClassVar = ("all",)

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def compose(self) -> ComposeResult:
        yield TopBar(self._place)
        yield Static(Text(f"{self._place.capitalize()}: see `vmconsole {self._place} --help`"))
        yield KeyBar()
