"""A guest's months as calendars: one glyph a day."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import date

from rich.text import Text

from vmconsole.tui.points import Day

WIDTH = 35
"""Columns of a month."""
HEIGHT = 8
"""Lines of a month at most, its name and the week days among them."""
_GLYPHS = {"ok": "✓", "failed": "✗", "warning": "!", "pinned": "◆", "pruned": "∘", "none": "·"}
_ASCII = {"ok": "+", "failed": "x", "warning": "!", "pinned": "P", "pruned": "-", "none": "."}
_STYLES = {
    "ok": "ok",
    "failed": "failed",
    "warning": "warning",
    "pinned": "key strong",
    "pruned": "off",
    "none": "quiet",
}


def glyph(what: str, *, ascii_only: bool) -> str:
    return (_ASCII if ascii_only else _GLYPHS)[what]


def month_text(
    days: Mapping[date, Day], year: int, month: int, at: date, today: date, *, ascii_only: bool = False
) -> Text:
    """at: the day of the row under the cursor, in brackets. Days after today are empty."""
    text = Text(f" {date(year, month, 1):%B %Y}\n", "title", end="")
    text.append("".join(f"  {name} " for name in ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")) + "\n", "head")
    for week in calendar.Calendar().monthdatescalendar(year, month):
        for day in week:
            text.append_text(_cell(day, days, month, at, today, ascii_only=ascii_only))
        text.append("\n")
    return text


def _cell(
    day: date, days: Mapping[date, Day], month: int, at: date, today: date, *, ascii_only: bool
) -> Text:
    if day.month != month:
        return Text(" " * 5, end="")
    what = days.get(day, Day()).what
    shown = " " if day > today else glyph(what, ascii_only=ascii_only)
    opening, closing = ("[", "]") if day == at else (" ", " ")
    return Text.assemble(
        (opening, "key strong"),
        (f"{day.day:>2}", "strong" if day == at else "quiet"),
        (shown, _STYLES[what]),
        (closing, "key strong"),
        end="",
    )


def legend(*, ascii_only: bool = False) -> Text:
    words = {"ok": "ok", "failed": "failed", "warning": "warnings"}
    words |= {"pinned": "pinned", "pruned": "pruned", "none": "none"}
    text = Text(end="")
    for number, (what, word) in enumerate(words.items(), 1):
        text.append(f" {glyph(what, ascii_only=ascii_only)}", _STYLES[what])
        text.append(f" {word:<9}" if number % 3 else f" {word}\n", "quiet")
    return text


def before(year: int, month: int) -> tuple[int, int]:
    """The month before."""
    return (year - 1, 12) if month == 1 else (year, month - 1)
