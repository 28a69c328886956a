"""A month of one guest: the days that have a restore point, and those whose backup failed."""

from __future__ import annotations

import calendar
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widget import Widget

from vmconsole.tui.context import console_of

WIDTH = 28
"""Columns: seven days of four."""
_DAY = 4


@dataclass(frozen=True, slots=True)
class Month:
    """good: days with a restore point. failed: days whose last backup failed; a day in both is good.

    chosen: the day that is marked. today: nothing is said of later days.
    """

    year: int
    month: int
    good: Collection[date] = ()
    failed: Collection[date] = ()
    chosen: date | None = None
    today: date | None = None


def weeks(month: Month) -> list[list[date | None]]:
    """Rows of seven days from Monday on; None for days of other months."""
    rows = calendar.Calendar().monthdayscalendar(month.year, month.month)
    return [[date(month.year, month.month, day) if day else None for day in row] for row in rows]


def month_text(month: Month, *, ascii_only: bool = False) -> Text:
    """Title, days of the week, and a line for each week: ` 7✓` for a day that has a point."""
    title = f"{date(month.year, month.month, 1):%B %Y}"
    text = Text(f"{title:^{WIDTH - 1}}".rstrip() + "\n", "title", end="")
    text.append("  Mo  Tu  We  Th  Fr  Sa  Su\n", "head")
    for row in weeks(month):
        for day in row:
            text.append_text(_cell(day, month, ascii_only=ascii_only))
        text.append("\n")
    text.rstrip()
    return text


def day_at(month: Month, x: int, y: int) -> date | None:
    """The day that month_text() draws in column x of line y."""
    rows = weeks(month)
    row, column = y - 2, x // _DAY
    return rows[row][column] if 0 <= row < len(rows) and 0 <= column < 7 else None


def _cell(day: date | None, month: Month, *, ascii_only: bool) -> Text:
    if day is None:
        return Text(" " * _DAY, end="")
    if day in month.good:
        mark, style = ("+" if ascii_only else "✓"), "ok"
    elif day in month.failed:
        mark, style = ("x" if ascii_only else "✗"), "failed"
    elif month.today is not None and day > month.today:
        mark, style = " ", "off"
    else:
        mark, style = ("." if ascii_only else "·"), "off"
    here = " reverse" if day == month.chosen else ""
    number_style = "" if style == "ok" else "off"
    return Text.assemble(
        " ", (f"{day.day:2}", f"{number_style}{here}".strip()), (mark, f"{style}{here}"), end=""
    )


class Calendar(Widget):
    """Draws a Month; a click on a day says which."""

    DEFAULT_CSS = "Calendar { width: 28; height: 8; }"

    class Picked(Message):
        def __init__(self, day: date) -> None:
            super().__init__()
            self.day = day

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.month: Month | None = None

    def show(self, month: Month) -> None:
        if month != self.month:
            self.month = month
            self.refresh()

    def render(self) -> Text:
        if self.month is None:
            return Text("", end="")
        console = console_of(self)
        return console.colours.paint(month_text(self.month, ascii_only=console.glyphs.ascii))

    def on_click(self, event: events.Click) -> None:
        if self.month is not None and (day := day_at(self.month, event.x, event.y)) is not None:
            self.post_message(self.Picked(day))
