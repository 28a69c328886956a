"""Stored events as lines of a log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from rich.text import Text

from vmconsole.front.describe import describe_in_full, event_from, unknown
from vmconsole.tui.format import safe

_SILENT = ("disk_progress", "step_started")
_ASCII = str.maketrans({"✓": "+", "✗": "x", "▶": ">", "…": "...", "→": "->", "–": "-", "·": "."})
_STYLES = {"✓": "ok", "✗": "failed", "!": "warning", "▶": "running", "…": "queued"}


@dataclass(frozen=True, slots=True)
class Line:
    """number: its place in the log, unique; style: by what its first glyph says. follows: it belongs to the one
    before. problem: it tells of a warning or an error.
    """

    number: str
    when: datetime
    text: str
    style: str = ""
    follows: bool = False
    problem: bool = False

    @property
    def is_step(self) -> bool:
        return self.style == "quiet" and not self.follows

    def clock(self, zone: tzinfo) -> str:
        return f"{self.when.astimezone(zone):%H:%M:%S}"


def lines_of(sequence: int, when: datetime, document: dict[str, Any]) -> list[Line]:
    """None of steps that begin and of progress."""
    if document.get("event") in _SILENT:
        return []
    event = event_from(document)
    told = describe_in_full(event) if event else unknown(document)
    style = _STYLES.get(told[:1], "quiet" if told.startswith("  ") else "")
    return [
        Line(
            f"{sequence}.{number}",
            when,
            text.rstrip(),
            style if number == 0 else "quiet",
            number > 0,
            style in ("failed", "warning"),
        )
        for number, text in enumerate(told.split("\n"))
        if text.strip()
    ]


def as_ascii(text: str) -> str:
    """Our own glyphs in it, for terminals and fonts without more."""
    return text.translate(_ASCII)


def tail_text(lines: tuple[Line, ...], zone: tzinfo, count: int, *, ascii_only: bool) -> Text:
    """The last lines but for steps, for a pane."""
    text = Text(end="")
    for line in [line for line in lines if not line.is_step][-count:]:
        text.append("" if line.follows else f"{line.clock(zone)} ", "quiet")
        text.append_text(safe(as_ascii(line.text) if ascii_only else line.text, line.style)).append("\n")
    return text
