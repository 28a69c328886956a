"""What the commands print: results on stdout, progress, notes and errors on stderr; text or JSON."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from vmconsole.cli.format import visible
from vmconsole.cli.jsontext import json_text
from vmconsole.cli.signals import STOPPING, clean_stop
from vmconsole.cli.streams import Sturdy
from vmconsole.cli.table import Column, layout
from vmconsole.errors import EXIT_FAILED, VmconsoleError
from vmconsole.events import Event, GuestFailed, PointMade, Restored, Throttled, Waiting, Warned
from vmconsole.front.describe import describe, describe_in_full, event_from, indented, unknown
from vmconsole.interfaces import Cancel, Clock
from vmconsole.model.point import iso

if TYPE_CHECKING:
    from vmconsole.cli.progress import Progress

_STYLES = {"✓": "green", "✗": "red", "!": "yellow", "–": "dim", "▶": "cyan", "…": "yellow"}


Cell = str | tuple[str, ...]
"""A table's cell: one text, whatever it holds, is one line; a tuple is as many lines."""


class Moment(Protocol):
    """What showing a run takes: the time, and the token that stops it."""

    @property
    def clock(self) -> Clock: ...

    @property
    def cancel(self) -> Cancel: ...


class Watcher:
    """Shows a run; an EventSink. told: the messages of errors that were shown already."""

    def __init__(self, show: Callable[[Event], None]) -> None:
        self._show = show
        self.told: set[str] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, GuestFailed):
            self.told.add(event.message)
        self._show(event)


class Output:
    """One command's voice. Thread-safe where events arrive; writing never raises (streams.py)."""

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        color: bool = True,
        as_typed: Callable[[str], str] = str,
    ) -> None:
        """as_typed: turns the commands in a text of ours into what must be typed here."""
        self.json = json
        self.quiet = quiet
        self._as_typed = as_typed
        self._stdout, self._stderr = Sturdy(sys.stdout), Sturdy(sys.stderr)
        self._out, self._err = _console(self._stdout, color), _console(self._stderr, color)
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._cancel: Cancel | None = None
        self._speaks_in_lines = False
        self._held: set[str] = set()
        """Hosts that are read slowly."""

    @property
    def on_screen(self) -> bool:
        """A person watches: progress moves, and only what matters gets a line."""
        return not self.json and (self.quiet or (self._lively and self._stdout.isatty()))

    @property
    def unread(self) -> bool:
        """Nobody reads our results any more."""
        return self._stdout.lost is not None

    def finish(self, code: int) -> int:
        """Flush; returns the exit code, which tells when results were lost."""
        self._stdout.settle()
        if self._stdout.lost is not None and not self._stdout.reader_left:
            reason = getattr(self._stdout.lost, "strerror", None) or self._stdout.lost
            self._text(self._err, f"✗ The output could not be written: {reason}.", "bold red")
            code = code or EXIT_FAILED
        self._stderr.settle()
        return code

    # --- results -------------------------------------------------------------------------------

    def document(self, value: Any) -> None:
        """The one JSON document of a command; the last line when it spoke in lines before."""
        if self.json:
            pretty = self._stdout.isatty() and not self._speaks_in_lines
            self._json(value, indent=2 if pretty else None)

    def line(self, text: str = "", style: str = "") -> None:
        """A line of result; text may hold foreign names, it is made safe."""
        if not self.json:
            self._text(self._out, visible(text), style or _STYLES.get(text[:1], ""))

    def raw(self, text: str) -> None:
        """Our own text, as it is: a script."""
        if not self.json:
            self._stdout.write(text + "\n")

    def content(self, piece: bytes) -> None:
        """Bytes of a file, as they are. Look at unread before the next piece: nobody may want it any more."""
        self._stdout.put(piece)

    def remedy(self, text: str) -> None:
        """What puts a line of result right; part of the result."""
        self.line(f"  → {self._as_typed(text)}")

    def hint(self, text: str) -> None:
        """What to do next, under a line of result."""
        if not self.quiet:
            self.remedy(text)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        """Foreign text in cells is made safe. On a pipe: tabs, a header, nothing cut or folded."""
        if self.json:
            return
        safe = [[[visible(part) for part in _parts(cell)] for cell in row] for row in rows]
        if not self._stdout.isatty():
            for row in [[[column.title] for column in columns], *safe]:
                self._stdout.write("\t".join("; ".join(parts) for parts in row) + "\n")
            return
        styled = [
            [Text("\n".join(parts), style=_STYLES.get(parts[0][:1], "")) for parts in row] for row in safe
        ]
        for line in layout(columns, styled, self._out.width, self._out):
            self._out.print(line)

    # --- for the person ------------------------------------------------------------------------

    def note(self, text: str, style: str = "") -> None:
        """A line for the person, not part of the result."""
        if not self.quiet:
            self._text(self._err, visible(self._as_typed(text)), style)

    def error(self, error: VmconsoleError) -> None:
        """Message and hint; with --json also as a document on stdout."""
        if self.json:
            self._json(error.as_json())
        with self._lock:
            self._text(self._err, "✗ " + indented(error.message), "bold red")
            if error.hint:
                self._text(self._err, "  → " + indented(self._as_typed(error.hint), 4))

    @property
    def can_ask(self) -> bool:
        return sys.stdin is not None and sys.stdin.isatty()

    def ask(self, question: str) -> bool:
        """Yes or no, from a terminal; False without one."""
        return self.prompt(f"{question} [y/N]", end=" ").lower() in ("y", "yes")

    def prompt(self, question: str, *, end: str = ": ") -> str:
        """A line of text, from a terminal; empty without one. Raises Cancelled when the run is stopped."""
        if not self.can_ask:
            return ""
        with self._undisturbed():
            self._err.print(Text(visible(question) + end), end="")
            self._stderr.flush()
            answer = ""
            try:
                answer = self._read_line()
            finally:
                if not answer.endswith("\n"):
                    # Ctrl-C or Ctrl-D left the cursor behind the question
                    self._err.print()
            return answer.strip()

    def _read_line(self) -> str:
        # A signal handler that only sets the token would leave us waiting in readline for ever.
        while self._cancel is not None and not select.select([sys.stdin], [], [], 0.2)[0]:
            self._cancel.check()
        return sys.stdin.readline()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        progress = self._progress
        if progress is None:
            yield
            return
        progress.pause()
        try:
            yield
        finally:
            progress.resume()

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Say on a terminal what takes its time, until it is done."""
        if self.json or self.quiet or not self._lively:
            yield
            return
        from vmconsole.cli.progress import waiting

        with waiting(self._err, text):
            yield

    # --- runs ----------------------------------------------------------------------------------

    @contextmanager
    def events(self, moment: Moment, guests: int = 0) -> Iterator[Watcher]:
        """Show a run (JSON lines, progress on a terminal, or plain lines) that Ctrl-C stops cleanly.

        guests: how many it is about, where that is known.
        """
        with clean_stop(moment.cancel, self._tell_stopping), self._watcher(moment, guests) as watcher:
            self._cancel = moment.cancel
            try:
                yield watcher
            finally:
                self._cancel = None

    @contextmanager
    def watching(self, moment: Moment) -> Iterator[Watcher]:
        """Show somebody else's run; Ctrl-C ends the watching."""
        with self._watcher(moment, 0) as watcher:
            yield watcher

    @contextmanager
    def _watcher(self, moment: Moment, guests: int) -> Iterator[Watcher]:
        self._speaks_in_lines = True
        if self.json:
            yield Watcher(lambda event: self._json_line(event, moment.clock.now()))
        elif self.quiet:
            yield Watcher(self._only_problems)
        elif not self._lively:
            yield Watcher(self._show)
        else:
            # Only a terminal needs it, and it takes a while to load.
            from vmconsole.cli.progress import Progress

            with Progress(self._err, moment.clock.monotonic, moment.cancel.is_set, guests) as progress:
                self._progress = progress
                try:
                    yield Watcher(lambda event: self._show_moving(event, progress))
                finally:
                    self._progress = None

    def stored_event(self, when: datetime, document: dict[str, Any]) -> None:
        """One line of a run's log."""
        if self.json:
            self._speaks_in_lines = True
            self._json({"time": iso(when), **document})
            return
        event = event_from(document)
        text = describe_in_full(event) if event is not None else unknown(document)
        if text:
            local = f"{when.astimezone():%H:%M:%S} "
            self._text(self._out, local + text.replace("\n", "\n" + " " * len(local)), _style(event))

    def _json_line(self, event: Event, when: datetime) -> None:
        self._json({"time": iso(when), **event.as_json()})

    def _only_problems(self, event: Event) -> None:
        if isinstance(event, Warned | GuestFailed):
            self._show(event)

    def _show_moving(self, event: Event, progress: Progress) -> None:
        progress.follow(event)
        self._show(event)

    def _show(self, event: Event) -> None:
        text = describe(event)
        if not text or (isinstance(event, Throttled) and not self._is_news(event)):
            return
        is_result = isinstance(event, PointMade | Restored)
        # progress redraws stderr: what shares the screen with it must go through it
        to = self._out if is_result and not (self._progress and self._stdout.isatty()) else self._err
        if to.file.isatty() and cell_len(text) > to.width:
            text = text.replace(" → ", "\n  → ", 1) if is_result else text
        self._text(to, text, _style(event))

    def _is_news(self, event: Throttled) -> bool:
        """In lines, only that a host is read slowly now, and that it is no more: not each rate."""
        with self._lock:
            was_held = event.host in self._held
            (self._held.add if event.rate else self._held.discard)(event.host)
        return self._progress is None and was_held != bool(event.rate)

    def _tell_stopping(self) -> None:
        """Called by a signal handler: takes no lock, uses no buffer. Progress says it by itself."""
        if self._progress is None and self._stderr.isatty():
            with suppress(OSError, ValueError):
                os.write(self._stderr.fileno(), f"\n{STOPPING}\n".encode())

    @property
    def _lively(self) -> bool:
        return self._stderr.isatty() and not self._err.is_dumb_terminal

    def _json(self, value: Any, indent: int | None = None) -> None:
        with self._lock:
            self._stdout.write(json_text(value, indent=indent, encoding=self._stdout.encoding) + "\n")
            self._stdout.flush()

    def _text(self, console: Console, text: str, style: str = "") -> None:
        with self._lock:
            console.print(Text(text, style=style))
            console.file.flush()


def _parts(cell: Cell) -> tuple[str, ...]:
    return (cell,) if isinstance(cell, str) else cell or ("",)


def _console(stream: Sturdy, color: bool) -> Console:
    return Console(
        file=cast(IO[str], stream),
        # said outright: FORCE_COLOR and the like must not put escapes into a file
        force_terminal=stream.isatty(),
        no_color=not color or None,
        highlight=False,
        soft_wrap=True,
    )


def _style(event: Event | None) -> str:
    if isinstance(event, GuestFailed):
        return "red"
    if isinstance(event, Throttled | Warned | Waiting):
        return "yellow"
    return "green" if isinstance(event, PointMade | Restored) else ""
