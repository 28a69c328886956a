"""Foreign and own text for widgets. What comes from outside never reaches a widget as a plain str."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from vmconsole.model.words import visible, visible_lines

SPARKS = "▁▂▃▄▅▆▇█"


def safe(text: str, style: str = "") -> Text:
    """One line of foreign text: no markup, no escapes, no control characters."""
    return Text(visible(text), style, no_wrap=True, overflow="ellipsis", end="")


def safe_lines(text: str, style: str = "") -> Text:
    """Our own message of several lines, with foreign names in it."""
    return Text(visible_lines(text), style, end="")


def fit(text: Text, width: int, *, right: bool = False) -> Text:
    """Exactly width columns of the terminal, wide characters counted as two."""
    if width <= 0:
        return Text("", end="")
    length = cell_len(text.plain)
    if length > width:
        cut = text.copy()
        cut.truncate(width, overflow="ellipsis")
        if short := width - cell_len(cut.plain):
            cut.append(" " * short)
        return cut
    padding = " " * (width - length)
    if right:
        return Text.assemble(padding, text, end="") if padding else text
    padded = text.copy()
    padded.append(padding)
    return padded


def clip(text: str, width: int) -> str:
    """At most width columns of safe text."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


def spark(values: Sequence[float | None], *, ascii_only: bool = False) -> str:
    """A column for each value, by the largest; `·` where there is none."""
    known = [value for value in values if value is not None]
    top = max(known, default=0.0)
    marks = "12345678" if ascii_only else SPARKS
    nothing = "." if ascii_only else "·"

    def mark(value: float | None) -> str:
        if value is None:
            return nothing
        return marks[0] if top <= 0 else marks[min(7, int(7.999 * value / top))]

    return "".join(mark(value) for value in values)
