"""A figure over time, drawn with letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from rich.text import Text

from vmconsole.model.words import size
from vmconsole.tui.format import spark

_LEAST_WIDTH, _LEAST_HEIGHT = 30, 5
_BITS = 1024


def growth_plot(
    days: Sequence[tuple[date, int]], width: int, height: int, *, ascii_only: bool = False
) -> Text:
    """What was added, summed up day by day: a curve, or one line of bars where there is no room for it.

    days: bytes that each day added, the oldest first, without gaps. width, height: in characters, axes included.
    """
    if len(days) < 2 or width < _LEAST_WIDTH:
        return Text(end="")
    if height < _LEAST_HEIGHT:
        return daily_bars(days, width, ascii_only=ascii_only)
    # Plotting is imported when a curve is first drawn: most sessions never see one.
    from textual_plotext.plot import Plot

    sums: list[int] = []
    for _, added in days:
        sums.append((sums[-1] if sums else 0) + added)
    unit = _unit(sums[-1])
    plot = Plot()
    plot.theme("clear")
    # The library knows only the terminal that it was started in, which may be none at all.
    plot._limit_size(False, False)  # type: ignore[attr-defined]
    plot.plotsize(width, height)
    plot.frame(False)
    plot.xaxes(False, False)
    plot.plot(
        list(range(len(sums))), [value / unit for value in sums], marker="*" if ascii_only else "braille"
    )
    middle = len(sums) // 2
    plot.xticks([0, middle, len(sums) - 1], [f"{days[at][0]:%d %b}" for at in (0, middle, len(sums) - 1)])
    plot.ylim(0, max(sums[-1] / unit, 1 / unit))
    top = sums[-1]
    ticks = [0, top // 2, top]
    plot.yticks([value / unit for value in ticks], [f"{size(value):>9} " for value in ticks])
    drawn = Text.from_ansi(plot.build())
    return Text(
        "\n".join(line.rstrip() for line in drawn.plain.rstrip("\n").split("\n")) + "\n", "running", end=""
    )


def daily_bars(days: Sequence[tuple[date, int]], width: int, *, ascii_only: bool = False) -> Text:
    """One bar a day, as many days as there is room for."""
    shown = days[-width:]
    bars = spark([float(added) if added else None for _, added in shown], ascii_only=ascii_only)
    return Text(bars + "\n", "running", end="")


def _unit(top: int) -> int:
    """The curve is drawn in a unit of its own: floats of bytes lose their last digits, and labels come from us."""
    unit = 1
    while top >= unit * _BITS:
        unit *= _BITS
    return unit
