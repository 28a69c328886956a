"""What went wrong, and what to do."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult

from vmconsole.tui.commands import Ended
from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import safe, safe_lines


class Said(Dialog[None]):
    BINDINGS = [("enter,q", "close", "close")]  # noqa: RUF012 - Textual reads it from the class

    def __init__(self, ended: Ended) -> None:
        super().__init__()
        self._ended = ended

    def heading(self) -> Text:
        return Text("It did not work", "failed", end="")

    def content(self) -> ComposeResult:
        ended = self._ended
        text = safe_lines(ended.error)
        if ended.hint:
            text.append("\n\n→ ", "key").append_text(safe_lines(ended.hint))
        text.append("\n\n").append_text(safe(ended.command.text, "quiet")).append(
            f"   exit code {ended.code}", "quiet"
        )
        text.append("\nesc closes this", "quiet")
        yield self.text(text)
