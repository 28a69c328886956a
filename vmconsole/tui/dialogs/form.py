"""A form that becomes a command. It stays open, with what was typed, until the command has worked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Input, Static

from vmconsole.tui.background import carry_out_quietly
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import safe, safe_lines


@dataclass(frozen=True, slots=True)
class Entry:
    """One line to fill in. choices: one of these instead of free text. needed: must not be empty.

    only: shown while another entry has one of these values, as (its id, values).
    """

    id: str
    label: str
    value: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()
    needed: bool = False
    only: tuple[str, tuple[str, ...]] | None = None


class Choice(Widget, can_focus=True):
    """One of a few words: left, right and space change it."""

    DEFAULT_CSS = """
    Choice { height: 1; width: 1fr; }
    Choice:focus { background: $boost; }
    """
    BINDINGS: ClassVar = [
        Binding("left,h", "turn(-1)", show=False),
        Binding("right,l,space", "turn(1)", show=False),
    ]

    def __init__(self, choices: Sequence[str], value: str, id: str, changed: Callable[[], object]) -> None:
        super().__init__(id=id)
        self._choices, self.value, self._changed = tuple(choices), value, changed

    def render(self) -> Text:
        text = Text(end="")
        for choice in self._choices:
            chosen = choice == self.value
            text.append(f"({'x' if chosen else ' '}) ", "key" if chosen else "quiet")
            text.append_text(safe(choice, "strong" if chosen else "quiet")).append("   ")
        return console_of(self).colours.paint(text)

    def action_turn(self, by: int) -> None:
        self.value = self._choices[(self._choices.index(self.value) + by) % len(self._choices)]
        self.refresh()
        self._changed()

    def on_click(self) -> None:
        self.action_turn(1)


class Form(Dialog[Ended]):
    """command: what the values, by id and without blanks around them, ask for. Answers how it ended, or None."""

    DEFAULT_CSS = """
    Form .row { height: 1; }
    Form .row > Static { width: 16; }
    Form .row > Input { width: 1fr; height: 1; border: none; padding: 0; background: $boost; }
    Form .row > Input:focus { background: $primary 30%; }
    Form #about { height: auto; margin-top: 1; }
    """
    BINDINGS: ClassVar = [
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(
        self,
        title: str,
        entries: Sequence[Entry],
        command: Callable[[Mapping[str, str]], Command],
        *,
        intro: str = "",
        yes: str = "Add",
    ) -> None:
        super().__init__()
        self._title, self._entries, self._command = title, tuple(entries), command
        self._intro, self._yes = intro, yes
        self._busy = False
        self._problem = Text(end="")

    def heading(self) -> Text:
        return Text(self._title, "title", end="")

    def content(self) -> ComposeResult:
        if self._intro:
            yield self.text(safe_lines(f"{self._intro}\n", "quiet"))
        for entry in self._entries:
            row = Horizontal(classes="row", id=f"row-{entry.id}")
            with row:
                yield self.text(Text(entry.label, "quiet"))
                if entry.choices:
                    yield Choice(
                        entry.choices, entry.value or entry.choices[0], f"entry-{entry.id}", self._changed
                    )
                else:
                    yield Input(entry.value, placeholder=entry.help, id=f"entry-{entry.id}")
        yield Static(id="about", markup=False)
        with Horizontal(classes="buttons"):
            yield Button(Content(self._yes), id="yes", variant="primary")
            yield Button(Content("Cancel"), id="no")

    def on_mount(self) -> None:
        self._changed()
        first = next((entry for entry in self._entries if entry.needed and not entry.value), self._entries[0])
        self.query_one(f"#entry-{first.id}").focus()

    @property
    def values(self) -> dict[str, str]:
        """Of the entries that are shown."""
        every = {entry.id: self._value(entry) for entry in self._entries}
        return {
            entry.id: every[entry.id]
            for entry in self._entries
            if entry.only is None or every[entry.only[0]] in entry.only[1]
        }

    def _value(self, entry: Entry) -> str:
        widget = self.query_one(f"#entry-{entry.id}")
        return widget.value.strip() if isinstance(widget, Input | Choice) else ""

    def _changed(self) -> None:
        shown = self.values
        for entry in self._entries:
            self.query_one(f"#row-{entry.id}").display = entry.id in shown
        self._show()

    def _show(self) -> None:
        """The command as it would be typed, and what went wrong."""
        values = self.values
        text = Text(end="")
        if not self._missing(values):
            text.append("$ ", "quiet").append_text(safe_lines(self._command(values).text, "quiet"))
        if self._busy:
            text.append("\nWorking …", "running")
        elif self._problem.plain:
            text.append("\n").append_text(self._problem)
        self.query_one("#about", Static).update(console_of(self).colours.paint(text))

    def _missing(self, values: Mapping[str, str]) -> Entry | None:
        return next((item for item in self._entries if item.needed and not values.get(item.id, "x")), None)

    def on_input_changed(self) -> None:
        self._problem = Text(end="")
        self._changed()

    def on_input_submitted(self) -> None:
        self._send()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "yes":
            self._send()
        else:
            self.action_close()

    def action_close(self) -> None:
        if self._busy:
            self.notify("The command is still running; it cannot be called back.", severity="warning")
        else:
            self.dismiss(None)

    def _send(self) -> None:
        values = self.values
        if self._busy:
            return
        if (missing := self._missing(values)) is not None:
            self._problem = Text(f"{missing.label} is missing.", "late", end="")
            self.query_one(f"#entry-{missing.id}").focus()
            self._show()
            return
        self._busy = True
        self._show()
        carry_out_quietly(console_of(self), self._command(values), self._ended)

    def _ended(self, ended: Ended) -> None:
        self._busy = False
        if not self.is_attached:
            return
        if ended.ok:
            if ended.text:
                self.notify(ended.text, markup=False)
            self.dismiss(ended)
            return
        self._problem = Text.assemble(("✗ ", "failed"), safe_lines(ended.error), end="")
        if ended.hint:
            self._problem.append("\n→ ", "key").append_text(safe_lines(ended.hint))
        self._show()
