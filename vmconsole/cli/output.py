"""What the commands print: results on stdout, progress and errors on stderr; text or JSON."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vmconsole.cli.describe import describe, describe_stored
from vmconsole.cli.format import visible, visible_lines
from vmconsole.cli.progress import Progress
from vmconsole.errors import VmconsoleError
from vmconsole.events import (
    DiskProgress,
    Event,
    EventSink,
    GuestFailed,
    PointMade,
    Restored,
    Waiting,
    Warned,
)


class Output:
    """One command's voice. Thread-safe where events arrive."""

    def __init__(self, *, json: bool = False, quiet: bool = False, color: bool = True) -> None:
        self.json = json
        self.quiet = quiet
        settings: dict[str, Any] = {"highlight": False, "no_color": not color, "soft_wrap": True}
        self._out = Console(file=sys.stdout, **settings)
        self._err = Console(file=sys.stderr, **settings)
        self._lock = threading.Lock()

    def document(self, value: Any) -> None:
        """The one JSON document of a command; nothing else goes to stdout with --json."""
        print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))

    def line(self, text: str = "", style: str = "") -> None:
        """A line of result; text may hold foreign names, it is made safe."""
        if not self.json:
            self._out.print(Text(visible(text), style=style))

    def note(self, text: str, style: str = "") -> None:
        """A line for the person, not part of the result."""
        if not self.quiet:
            with self._lock:
                self._err.print(Text(visible(text), style=style))

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
    ) -> None:
        """Columns named in right are right-aligned. On a pipe nothing is cut or padded to a screen."""
        if self.json:
            return
        if not self._out.is_terminal:
            for row in [columns, *rows]:
                print("\t".join(visible(cell) for cell in row))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(visible(cell), style=_cell_style(cell)) for cell in row))
        self._out.print(table, soft_wrap=False)

    def error(self, error: VmconsoleError) -> None:
        """Message and hint; with --json also as a document on stdout."""
        if self.json:
            print(json.dumps(error.as_json(), ensure_ascii=False))
        with self._lock:
            self._err.print(Text("✗ " + visible_lines(error.message), style="bold red"))
            if error.hint:
                self._err.print(Text("  → " + visible_lines(error.hint)))

    def ask(self, question: str) -> bool:
        """Yes or no, from a terminal; False without one."""
        if not sys.stdin.isatty():
            return False
        self._err.print(Text(visible(question) + " [y/N] "), end="")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def ask_or_go(self, question: str) -> bool:
        """Yes or no from a terminal; yes without one, where nobody could answer."""
        return self.ask(question) if sys.stdin.isatty() else True

    def prompt(self, question: str, default: str = "") -> str:
        """A line of text, from a terminal; the default without one."""
        if not sys.stdin.isatty():
            return default
        self._err.print(Text(visible(f"{question} [{default}]: " if default else f"{question}: ")), end="")
        return sys.stdin.readline().strip() or default

    @contextmanager
    def events(self) -> Iterator[EventSink]:
        """A sink that shows a run: JSON lines, progress bars on a terminal, or plain lines."""
        if self.json:
            yield self._json_line
        elif self.quiet:
            yield self._only_problems
        elif self._err.is_terminal:
            with Progress(self._err) as progress:
                yield lambda event: self._show(event, progress)
        else:
            yield lambda event: self._show(event, None)

    def event(self, document: dict[str, Any]) -> None:
        """One stored event, as `runs RUN` shows it."""
        if self.json:
            print(json.dumps(document, ensure_ascii=False), flush=True)
        elif text := describe_stored(document):
            self._out.print(Text(text))

    def _json_line(self, event: Event) -> None:
        with self._lock:
            print(json.dumps(event.as_json(), ensure_ascii=False), flush=True)

    def _only_problems(self, event: Event) -> None:
        if isinstance(event, Warned | GuestFailed):
            self._show(event, None)

    def _show(self, event: Event, progress: Progress | None) -> None:
        with self._lock:
            if isinstance(event, DiskProgress) and progress is not None:
                progress.update(event)
                return
            if progress is not None:
                progress.follow(event)
            text = describe(event)
            if text:
                self._err.print(Text(text, style=_event_style(event)))


def _event_style(event: Event) -> str:
    if isinstance(event, GuestFailed):
        return "red"
    if isinstance(event, Warned | Waiting):
        return "yellow"
    return "green" if isinstance(event, PointMade | Restored) else ""


def _cell_style(cell: str) -> str:
    return {"✓": "green", "✗": "red", "!": "yellow", "–": "dim", "▶": "cyan"}.get(cell[:1], "")
