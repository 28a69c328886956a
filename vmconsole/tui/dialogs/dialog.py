"""A window over the screen."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Input, Static

from vmconsole.tui.context import console_of

T = TypeVar("T")


class Dialog(ModalScreen[T]):
    """Escape closes it and answers None. A subclass gives title() and content()."""

    BINDINGS: ClassVar = [Binding("escape", "close", show=False)]

    def heading(self) -> Text:
        raise NotImplementedError

    def content(self) -> ComposeResult:
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        window = Vertical(classes="window")
        window.border_title = Content.from_rich_text(console_of(self).colours.paint(self.heading()))
        with window:
            yield from self.content()

    def text(self, text: Text) -> Static:
        """A part of the content, with style names of ours."""
        return Static(console_of(self).colours.paint(text), markup=False)

    def action_close(self) -> None:
        self.dismiss(None)


class Ask(Dialog[bool]):
    """A question with a safe answer in focus. y and n answer it.

    text: what will happen, and what is lost. name: must be typed before the answer can be yes, for what cannot be
    undone.
    """

    BINDINGS: ClassVar = [
        Binding("y", "yes", show=False),
        Binding("n", "no", show=False),
        Binding("left,right", "other", show=False),
    ]

    def __init__(self, title: str, text: Text, yes: str, no: str = "Cancel", *, name: str = "") -> None:
        super().__init__()
        self._title, self._content, self._yes, self._no, self._name = title, text, yes, no, name

    def heading(self) -> Text:
        return Text(self._title, "title", end="")

    def content(self) -> ComposeResult:
        yield self.text(self._content)
        if self._name:
            yield self.text(Text.assemble("Type ", (self._name, "strong"), " to go on:", end=""))
            yield Input(id="typed")
        with Horizontal(classes="buttons"):
            yield Button(Content(self._no), id="no")
            yield Button(Content(self._yes), id="yes", variant="warning", disabled=bool(self._name))

    def on_mount(self) -> None:
        self.query_one("#typed" if self._name else "#no", Widget).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one("#yes", Button).disabled = event.value != self._name

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_yes(self) -> None:
        if not self._name:
            self.dismiss(True)

    def action_no(self) -> None:
        self.dismiss(False)

    def action_other(self) -> None:
        self.focus_next()

    def action_close(self) -> None:
        self.dismiss(False)
