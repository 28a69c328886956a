"""A pane of text that scrolls."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import Static

from vmconsole.tui.context import console_of


class Pane(VerticalScroll, can_focus=True):
    """Text with style names of ours, wrapped."""

    BINDINGS: ClassVar = [
        Binding("j", "scroll_down", show=False),
        Binding("k", "scroll_up", show=False),
        Binding("g", "scroll_home", show=False),
        Binding("G", "scroll_end", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._static = Static(markup=False)
        self._text = Text()

    def compose(self):  # type: ignore[no-untyped-def]  # Textual's own name for it is private
        yield self._static

    @property
    def text(self) -> Text:
        return self._text

    def show(self, text: Text) -> None:
        """Replace the text; nothing is repainted when it is the same."""
        painted = console_of(self).colours.paint(text)
        if painted == self._text and painted.spans == self._text.spans:
            return
        self._text = painted
        self._static.update(painted)
