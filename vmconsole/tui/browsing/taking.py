"""Asking where files that are taken out shall go."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Button, Input

from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import safe


class TakeOut(Dialog[str]):
    """Answers the folder that was typed; None when it was left."""

    DEFAULT_CSS: ClassVar = "TakeOut Input { margin: 1 0 0 0; }"

    def __init__(self, path: str, told: str, folder: str) -> None:
        """path: what is taken out. told: how much that is. folder: the one that is proposed."""
        super().__init__()
        self._path, self._told, self._folder = path, told, folder

    def heading(self) -> Text:
        return Text("Take out", "title", end="")

    def content(self) -> ComposeResult:
        yield self.text(
            Text.assemble(
                safe(self._path, "strong"),
                f"  {self._told}\n\n",
                "Into which folder of this machine? It is made when it is not there, and nothing in it is overwritten.",
                end="",
            )
        )
        yield Input(self._folder, id="to", select_on_focus=False)
        with Horizontal(classes="buttons"):
            yield Button(Content("Cancel"), id="no")
            yield Button(Content("Take out"), id="yes", variant="warning")

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._answer()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "yes":
            self._answer()
        else:
            self.dismiss(None)

    def _answer(self) -> None:
        typed = self.query_one(Input).value.strip()
        if typed:
            self.dismiss(typed)
        else:
            self.notify("Say where: a folder of this machine.", severity="warning")
