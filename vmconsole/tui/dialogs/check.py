"""How thoroughly is a repository checked?"""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Button

from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import safe


class Check(Dialog[str]):
    """Answers `check`, `verify` or None."""

    BINDINGS: ClassVar = [
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    def __init__(self, name: str, stored: str) -> None:
        super().__init__()
        self._about, self._stored = name, stored

    def heading(self) -> Text:
        return Text.assemble(("Check repository ", "title"), safe(self._about, "title"), end="")

    def content(self) -> ComposeResult:
        yield self.text(
            Text.assemble(
                "Stock borg looks whether the repository and its archives are whole; nothing is repaired. "
                "Verifying reads every chunk as well",
                f" ({self._stored})" if self._stored else "",
                ", which can take hours.\n\nBackups into it wait meanwhile. It goes on when the console is closed; "
                "l shows its log, and the result stays in the list.",
                end="",
            )
        )
        with Horizontal(classes="buttons"):
            yield Button(Content("Cancel"), id="no")
            yield Button(Content("Check"), id="check", variant="primary")
            yield Button(Content("Check and verify all data"), id="verify", variant="warning")

    def on_mount(self) -> None:
        self.query_one("#no", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(None if event.button.id == "no" else event.button.id)
