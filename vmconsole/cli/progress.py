"""What a run is doing right now, on a terminal: one line per guest, redrawn in place, gone at the end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from vmconsole.cli.format import countdown, progress_size, size, visible
from vmconsole.cli.meter import Meter
from vmconsole.cli.signals import STOPPING
from vmconsole.events import (
    DiskProgress,
    Event,
    GuestFailed,
    GuestPostponed,
    PointMade,
    Restored,
    RunFinished,
    RunStarted,
    StepStarted,
    Throttled,
    Waiting,
)
from vmconsole.front.describe import held

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TURNS_PER_SECOND = 4
# The terminal echoes ^C where the cursor is, behind the last line: were that to wrap, the line would stay.
_SPARE = 3
_MIN_BAR, _MAX_BAR, _MAX_NAME = 8, 32, 30


@dataclass(slots=True)
class _Guest:
    """What one guest is at. meter is there while a disk moves."""

    step: str
    since: float
    disk: str = ""
    meter: Meter | None = None


class Progress:
    """A context manager; follow() may be called from any thread. Times in seconds, from monotonic."""

    def __init__(
        self,
        console: Console,
        monotonic: Callable[[], float],
        stopping: Callable[[], bool],
        guests: int = 0,
    ) -> None:
        """guests: how many there are to do, where that is known."""
        self._console = console
        self._now = monotonic
        self._stopping = stopping
        self._expected = guests
        self._finished = 0
        self._began = monotonic()
        self._what = ""
        self._guests: dict[str, _Guest] = {}
        self._waiting: tuple[str, _Guest] | None = None
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._live = Live(
            console=console,
            transient=True,
            refresh_per_second=_TURNS_PER_SECOND,
            get_renderable=self._picture,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def pause(self) -> None:
        """Leave the terminal to a question."""
        self._live.stop()

    def resume(self) -> None:
        self._live.start()

    def follow(self, event: Event) -> None:
        with self._lock:
            self._follow(event)

    def _follow(self, event: Event) -> None:
        now = self._now()
        match event:
            case RunStarted():
                self._what = f"{event.what} {event.subject}"
            case StepStarted():
                # whatever the run waited for, it has it now
                self._waiting = None
                self._guests[event.guest] = _Guest(event.step, now)
            case Waiting():
                self._waiting = (event.subject, _Guest(f"waiting: {event.reason}", now))
            case DiskProgress():
                self._move(event, now)
            case Throttled():
                self._held.pop(event.host, None)
                if event.rate:
                    self._held[event.host] = held(event)
            case PointMade() | GuestFailed() | GuestPostponed():
                self._finished += 1
                self._guests.pop(event.guest, None)
            case Restored():
                for guest in self._guests.values():
                    guest.meter = None
            case RunFinished():
                self._guests.clear()
                self._waiting = None
                self._held.clear()

    def _move(self, event: DiskProgress, now: float) -> None:
        guest = self._guests.setdefault(event.guest, _Guest("read", now))
        if guest.meter is None or guest.disk != event.disk:
            guest.disk, guest.meter = event.disk, Meter(event.done, event.total, now)
        guest.meter.update(event.done, event.total, now)

    def _picture(self) -> Group:
        with self._lock:
            now, width = self._now(), self._console.width
            turn = _SPINNER[int((now - self._began) * _TURNS_PER_SECOND) % len(_SPINNER)]
            guests = [*self._guests.items(), *([self._waiting] if self._waiting else [])]
            lines = [_line(turn, name, guest, now, width) for name, guest in guests]
            if not lines:
                lines = [_plain(turn, self._what or "starting", countdown(now - self._began), width)]
            lines += [_cut(Text(f"  {visible(text)}", style="yellow"), width) for text in self._held.values()]
            if self._expected > 1:
                done = f"  {self._finished} of {self._expected} guests, {countdown(now - self._began)}"
                lines.append(_cut(Text(done, style="dim"), width))
            if self._stopping():
                lines.append(_cut(Text(STOPPING, style="yellow"), width))
            return Group(*lines)


@contextmanager
def waiting(console: Console, text: str) -> Iterator[None]:
    """A line that shows that something goes on, until it is done."""
    turns = itertools.cycle(_SPINNER)

    def picture() -> Text:
        return _cut(Text(f"{next(turns)} {visible(text)}"), console.width)

    with Live(console=console, transient=True, refresh_per_second=8, get_renderable=picture):
        yield


def _line(turn: str, name: str, guest: _Guest, now: float, width: int) -> Text:
    meter = guest.meter
    if meter is None or meter.done >= meter.total:
        return _plain(turn, f"{_short(name)}  {guest.step}", countdown(now - guest.since), width)
    return bar(
        f"{turn} {_short(name)} {visible(guest.disk)}",
        meter.done,
        meter.total,
        _speed(meter, now),
        width,
    )


def _speed(meter: Meter, now: float) -> str:
    if idle := meter.stalled(now):
        return f"nothing came for {countdown(idle)}"
    rate, left = meter.rate(now), meter.left(now)
    if not rate or left is None:
        return ""
    # of one width, or the bar beside it would jump
    return f"{size(round(rate)) + '/s':>10}  {countdown(max(1.0, left)) + ' left':>9}"


def bar(title: str, done: int, total: int, speed: str, width: int) -> Text:
    """`db-01 vda ━━━━━━━───────  42 %  170/405 MiB  43.9 MiB/s  6 s left`, within that many columns."""
    share = min(1.0, done / total) if total else 1.0
    # rounded down: 100 % is said when it is true
    figures = f" {int(share * 100):3d} %  {progress_size(done, total)}"
    room = width - _SPARE - cell_len(title) - 1 - cell_len(figures)
    if speed and room - cell_len(speed) - 2 >= 0:
        figures += f"  {speed}"
        room -= cell_len(speed) + 2
    length = min(_MAX_BAR, room)
    line = Text(title + " ")
    if length >= _MIN_BAR:
        filled = int(length * share)
        line.append("━" * filled, style="cyan").append("─" * (length - filled), style="dim")
    line.append(figures)
    return _cut(line, width)


def _plain(turn: str, text: str, took: str, width: int) -> Text:
    return _cut(Text(f"{turn} {visible(text)}  {took}"), width)


def _short(name: str) -> str:
    shown = visible(name)
    return shown if cell_len(shown) <= _MAX_NAME else set_cell_size(shown, _MAX_NAME - 1) + "…"


def _cut(line: Text, width: int) -> Text:
    line.truncate(max(1, width - _SPARE), overflow="ellipsis")
    line.no_wrap = True
    return line
