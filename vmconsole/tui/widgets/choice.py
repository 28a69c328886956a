"""One of a few values, on one line: space and the arrows go round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.message import Message
from textual.widget import Widget

from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe


class Choice(Widget, can_focus=True):
    """values: (what it stands for, how it is shown). value is always one of them."""

    DEFAULT_CSS = "Choice { height: 1; width: 1fr; } Choice:focus { text-style: reverse; }"
    BINDINGS: ClassVar = [
        Binding("right,space,plus", "step(1)", show=False),
        Binding("left,minus", "step(-1)", show=False),
    ]

    class Changed(Message):
        """Another value was chosen."""

    def __init__(self, values: Sequence[tuple[str, str]], value: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._values = tuple(values)
        self._at = next((at for at, (key, _) in enumerate(self._values) if key == value), 0)

    @property
    def value(self) -> str:
        return self._values[self._at][0]

    def render(self) -> Text:
        text = Text.assemble(("< ", "key"), safe(self._values[self._at][1]), (" >", "key"), end="")
        return console_of(self).colours.paint(text)

    def action_step(self, by: int) -> None:
        if len(self._values) < 2:
            self.notify("There is no other choice.")
            return
        self._at = (self._at + by) % len(self._values)
        self.refresh()
        self.post_message(self.Changed())

    def on_click(self) -> None:
        self.action_step(1)
