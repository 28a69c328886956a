"""The log of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, Static

from vmconsole.model.run import Run, RunState
from vmconsole.tui.app import Pictured
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.stopping import ask_to_stop, why_not_stop
from vmconsole.tui.following import Following
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.keymap import bindings
from vmconsole.tui.logreader import LogPart, LogReader
from vmconsole.tui.logtext import Line, as_ascii
from vmconsole.tui.rundetail import label_of
from vmconsole.tui.runrows import RunRow, run_row
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.listing import Column, Listing

_TIME = 8
_BESIDE = _TIME + 6
"""Columns of a line that its text has not."""


class LogScreen(Screen[None], Pictured):
    """One run, line by line. While it goes on and the cursor is on the last line, it stays there."""

    CONTEXTS: ClassVar = ("all", "log", "runs")
    BINDINGS: ClassVar = bindings("log", "runs")
    AUTO_FOCUS = "Listing"
    CSS = """
    LogScreen #heading { height: auto; max-height: 3; background: $surface; }
    LogScreen #line { height: auto; max-height: 6; padding: 0 1; background: $surface; }
    """

    class Read(Message):
        def __init__(self, part: LogPart) -> None:
            super().__init__()
            self.part = part

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run
        self._lines: list[Line] = []
        self._row: Run | None = None
        self._following = Following()
        self._reader: LogReader | None = None
        self._error = ""
        self._steps = False

    def compose(self) -> ComposeResult:
        yield Static(id="heading", markup=False)
        columns: list[Column[Line]] = [
            Column("time", _TIME, lambda line: safe("" if line.follows else line.clock(self._zone), "quiet")),
            Column("what happened", 20, lambda line: safe(self._text(line), line.style), grow=True),
        ]
        yield Listing(
            columns,
            lambda line: line.number,
            lambda line: {"text": line.text},
            lambda line: line.problem,
            empty="Nothing was written yet.",
        )
        yield Static(id="line", markup=False)
        yield Input(placeholder="only lines with …", id="filter")
        yield KeyBar()

    @property
    def _zone(self):  # type: ignore[no-untyped-def]  # a tzinfo
        return console_of(self).picture.zone

    @property
    def listing(self) -> Listing[Line]:
        return self.query_one(Listing)

    def _text(self, line: Line) -> str:
        return as_ascii(line.text) if console_of(self).glyphs.ascii else line.text

    # --- reading ---

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.show_picture()
        self._reader = LogReader(
            console_of(self).services, self._run, lambda part: self.post_message(self.Read(part))
        )
        self._reader.start()

    def on_unmount(self) -> None:
        if self._reader is not None:
            self._reader.stop()

    def on_log_screen_read(self, message: Read) -> None:
        part, first = message.part, self._row is None
        if part.run is None:
            self._error = part.error
            self.show_picture()
            return
        self._row, self._following = part.run, part.following
        if part.lines:
            at_end = not self.listing.shown or self.listing.current is self.listing.shown[-1]
            self._lines.extend(part.lines)
            self._show_lines()
            if at_end:
                self.listing.action_edge(1)
        if first and not self._goes_on:
            self._go_to_reason()
        self.show_picture()

    def _show_lines(self) -> None:
        self.listing.show([line for line in self._lines if self._steps or not line.is_step])

    def _go_to_reason(self) -> None:
        """Of a run that went wrong, the last thing that did is what is looked for."""
        failed = [line for line in self._lines if line.style == "failed"]
        if failed:
            self.listing.move_to(failed[-1].number)

    @property
    def _goes_on(self) -> bool:
        return self._row is not None and self._row.state is RunState.RUNNING

    @property
    def _as_row(self) -> RunRow | None:
        if self._row is None:
            return None
        console = console_of(self)
        now = console.services.clock.now()
        return run_row(self._row, (), self._following, console.picture.guests, now)

    def show_picture(self) -> None:
        console, row = console_of(self), self._as_row
        text = Text("Log  ", end="")
        if self._error:
            text.append_text(safe_lines(self._error, "failed"))
        elif row is None:
            text.append("reading …", "quiet")
        else:
            text.append_text(safe(row.what, "title")).append("\n")
            text.append_text(label_of(row.state, row.word, console.glyphs))
            text.append(f"  {row.run.started.astimezone(self._zone):%Y-%m-%d %H:%M} · {row.took}", "quiet")
            text.append_text(safe(f" · {row.run.id}", "quiet"))
            if row.running and row.told:
                text.append(" · ", "quiet").append_text(safe(row.told, "running"))
        self.query_one("#heading", Static).update(console.colours.paint(text))
        self._show_line()
        self.query_one(KeyBar).refresh()

    def _show_line(self) -> None:
        """The whole line under the cursor, where the list has no room for it."""
        line, part = self.listing.current, self.query_one("#line", Static)
        cut = line is not None and cell_len(line.text) > self.size.width - _BESIDE
        part.display = cut
        if cut and line is not None:
            text = safe_lines(self._text(line).strip(), line.style)
            part.update(console_of(self).colours.paint(text))

    def on_listing_moved(self) -> None:
        self._show_line()
        self.query_one(KeyBar).refresh()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_line)

    # --- actions ---

    def action_log_find(self) -> None:
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.listing.set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.input.display = bool(event.value)
        self.listing.focus()

    def action_log_problems(self) -> None:
        self.listing.toggle_problems()
        if self.listing.problems and not self.listing.shown:
            self.notify("There were no warnings and no errors. ! again shows everything.")

    def action_log_steps(self) -> None:
        self._steps = not self._steps
        self._show_lines()

    def action_log_mark(self) -> None:
        self.listing.toggle_mark()

    def action_runs_stop(self) -> None:
        if (row := self._as_row) is not None:
            ask_to_stop(console_of(self), [(row, self._following)])

    def step_back(self) -> bool:
        line = self.query_one("#filter", Input)
        if line.display:
            line.value = ""
            line.display = False
            self.listing.set_filter("")
            self.listing.focus()
        elif self.listing.marks:
            self.listing.clear_marks()
        elif self.listing.problems:
            self.listing.toggle_problems()
        else:
            return False
        return True

    def why_not(self, action: str) -> str:
        if action == "runs.stop":
            return "It is still being read." if self._as_row is None else why_not_stop([self._as_row])
        if not self._lines and action in ("log.find", "log.problems", "log.steps", "log.mark"):
            return "The log is empty."
        return ""

    @property
    def name_to_copy(self) -> str:
        """The marked lines, or the one under the cursor: in one line, which a shell does not run when it is pasted."""
        chosen = [
            line.text.strip() if line.follows else f"{line.clock(self._zone)} {line.text.strip()}"
            for line in self.listing.chosen
        ]
        return safe(" · ".join(chosen)).plain or self._run

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("runs", self._run)
