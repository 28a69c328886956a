"""The configuration cannot be used: what is wrong, where, and how to mend it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from vmconsole.tui.app import Pictured
from vmconsole.tui.context import console_of
from vmconsole.tui.editing import edit_file
from vmconsole.tui.first_steps import is_broken
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.keymap import bindings
from vmconsole.tui.widgets.bars import KeyBar, TopBar
from vmconsole.tui.widgets.pane import Pane


class Broken(Screen[None], Pictured):
    """Goes away by itself once the configuration can be read."""

    CSS = """
    Broken #whole { padding: 1 2; }
    """
    CONTEXTS: ClassVar = ("all", "broken")
    BINDINGS: ClassVar = bindings("broken")

    def __init__(self) -> None:
        super().__init__()
        self._left = False
        """It is left once, though it may be told twice before it is gone."""

    def compose(self) -> ComposeResult:
        yield TopBar("")
        yield Static(id="heading", markup=False)
        yield Pane(id="whole")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(Pane).focus()
        self.show_picture()

    def on_screen_resume(self) -> None:
        self.show_picture()

    def show_picture(self) -> None:
        console = console_of(self)
        if not self.is_mounted:
            return
        if not is_broken(console.picture, console.services):
            if self.is_current and not self._left:
                self._left = True
                self.notify("The configuration is read again.")
                self.dismiss(None)
            return
        problem = console.picture.problem
        assert problem is not None
        heading = Text("The configuration cannot be used", "failed", end="")
        self.query_one("#heading", Static).update(console.colours.paint(heading))
        text = Text.assemble(("✗ " if not console.glyphs.ascii else "x ", "failed"), end="")
        text.append_text(safe_lines(problem.message)).append("\n")
        if problem.hint:
            text.append("→ ", "key").append_text(safe_lines(problem.hint)).append("\n")
        text.append("\nfile      ", "quiet").append_text(safe(str(console.services.config_path))).append("\n")
        text.append("\nNo backup begins before this is mended: scheduled runs read the same file. ", "late")
        text.append("Runs that have begun go on.\n\n")
        text.append("E", "key").append(" opens the file in your editor")
        text.append(". However it is mended, this screen sees it and goes away.", "")
        self.query_one(Pane).show(text)
        self.query_one(KeyBar).refresh()

    def action_broken_edit(self) -> None:
        edit_file(console_of(self))
