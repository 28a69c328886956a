"""A line that opens something: enter, or a click."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.message import Message
from textual.widget import Widget

from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe


class Opener(Widget, can_focus=True):
    """name: of what it opens. text: what is seen, and may be set anew."""

    DEFAULT_CSS = "Opener { height: 1; width: 1fr; } Opener:focus { text-style: reverse; }"
    BINDINGS: ClassVar = [Binding("enter,space", "open", show=False)]

    class Opened(Message):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name=name)
        self.text = text

    def render(self) -> Text:
        return console_of(self).colours.paint(Text.assemble(("> ", "key"), safe(self.text), end=""))

    def show(self, text: str) -> None:
        self.text = text
        self.refresh()

    def action_open(self) -> None:
        self.post_message(self.Opened(self.name or ""))

    def on_click(self) -> None:
        self.action_open()
