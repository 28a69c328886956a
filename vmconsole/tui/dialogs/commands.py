"""The commands that the console ran."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult

from vmconsole.tui.commands import Ended
from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.widgets.pane import Pane


class CommandLog(Dialog[None]):
    def __init__(self, commands: Sequence[Ended]) -> None:
        super().__init__()
        self._commands = commands

    def heading(self) -> Text:
        return Text("Commands that were run from here", "title", end="")

    def content(self) -> ComposeResult:
        yield Pane(id="commands")

    def on_mount(self) -> None:
        text = Text(end="")
        for ended in self._commands:
            text.append("✓ " if ended.ok else "✗ ", "ok" if ended.ok else "failed")
            text.append_text(safe(ended.command.text)).append("\n")
            if ended.error:
                text.append("  ").append_text(safe_lines(ended.error, "quiet")).append("\n")
        if not self._commands:
            text.append(
                "None yet. Whatever is changed from here is changed by a command that you can type.", "quiet"
            )
        self.query_one(Pane).show(text)
        self.query_one(Pane).focus()
