"""The log of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Input, Static

from vmconsole.errors import VmconsoleError
from vmconsole.front.describe import describe_in_full, event_from, unknown
from vmconsole.model.run import Run, RunState
from vmconsole.tui.app import Pictured
from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.keymap import bindings
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.listing import Column, Listing

_FOLLOW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """number: its place in the log; style: by what its first glyph says."""

    number: str
    when: datetime
    text: str
    style: str = ""


class LogScreen(Screen[None], Pictured):
    """One run, line by line; follows it while it runs."""

    CONTEXTS: ClassVar = ("all", "list", "log")
    BINDINGS: ClassVar = bindings("list", "log")
    AUTO_FOCUS = "Listing"

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run
        self._after = 0
        self._lines: list[Line] = []
        self._row: Run | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="heading", markup=False)
        columns: list[Column[Line]] = [
            Column("time", 8, lambda line: safe(f"{line.when.astimezone(self._zone):%H:%M:%S}", "quiet")),
            Column("what happened", 20, lambda line: safe(line.text, line.style), grow=True),
        ]
        yield Listing(
            columns,
            lambda line: line.number,
            lambda line: {"text": line.text},
            lambda line: line.style in ("failed", "warning"),
            empty="Nothing was written yet.",
        )
        yield Input(placeholder="find", id="filter")
        yield KeyBar()

    @property
    def _zone(self):  # type: ignore[no-untyped-def]  # a tzinfo
        return console_of(self).picture.zone

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.show_picture()
        self.query_one(Listing).action_edge(1)
        self.set_interval(_FOLLOW_SECONDS, self.show_picture)

    def show_picture(self) -> None:
        store = console_of(self).services.store
        if self._row is not None and self._row.state is not RunState.RUNNING:
            return
        listing = self.query_one(Listing)
        at_end = not listing.shown or listing.current is listing.shown[-1]
        try:
            self._row = store.run(self._run)
            found = store.events(self._run, self._after)
        except VmconsoleError as error:
            self.query_one("#heading", Static).update(safe_lines(error.message))
            return
        new = [line for event in found for line in _lines(*event)]
        self._after = found[-1][0] if found else self._after
        if new:
            self._lines.extend(new)
            listing.show(list(self._lines))
            if at_end:
                listing.action_edge(1)
        self._show_heading()

    def _show_heading(self) -> None:
        run = self._row
        if run is None:
            return
        text = Text.assemble("Log  ", safe(f"{run.kind} {run.subject}", "title"), end="")
        text.append(
            f"  {run.started.astimezone(self._zone):%Y-%m-%d %H:%M} · {run.state.value} · {run.id}", "quiet"
        )
        self.query_one("#heading", Static).update(console_of(self).colours.paint(text))

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(Listing).set_filter(event.value)

    def on_input_submitted(self) -> None:
        self.query_one(Listing).focus()

    def action_problems(self) -> None:
        self.query_one(Listing).toggle_problems()

    def step_back(self) -> bool:
        line = self.query_one("#filter", Input)
        if not line.display:
            return False
        line.value = ""
        line.display = False
        self.query_one(Listing).set_filter("")
        self.query_one(Listing).focus()
        return True

    @property
    def name_to_copy(self) -> str:
        return self._run

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("runs", self._run)


def _lines(sequence: int, when: datetime, document: dict[str, Any]) -> list[Line]:
    if document.get("event") in ("disk_progress", "step_started"):
        return []
    event = event_from(document)
    told = describe_in_full(event) if event else unknown(document)
    style = {"✓": "ok", "✗": "failed", "!": "warning", "▶": "running"}.get(told[:1], "")
    return [
        Line(f"{sequence}.{number}", when, text.rstrip(), style if number == 0 else "quiet")
        for number, text in enumerate(told.split("\n"))
        if text.strip()
    ]
