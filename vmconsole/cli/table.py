"""Tables that stay readable on a narrow terminal: columns fold, move below their row, or go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """How a column behaves when there is not enough room for all.

    least: it may fold down to this width; 0: it is never folded (a name to be copied). drop: the
    column with the highest figure goes first; 0: it stays. below: it moves under its row.
    """

    title: str
    right: bool = False
    least: int = 0
    drop: int = 0
    below: bool = False


@dataclass(frozen=True, slots=True)
class _Placed:
    index: int
    column: Column
    width: int


def layout(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int, console: Console
) -> list[Text]:
    """Lines for a terminal of that width, the header first. Cells hold one line each, or several."""
    placed, below = _choose(columns, rows, width)
    header = [Text(column.title, style="bold") for column in columns]
    lines = list(_row(header, placed, console))
    for row in rows:
        lines += _row(row, placed, console)
        for index in below:
            if row[index].plain:
                lines += _below(row[index], width, console)
    return lines


def _choose(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int
) -> tuple[list[_Placed], list[int]]:
    natural = [
        max([cell_len(column.title), *(_cell_width(row[index]) for row in rows)])
        for index, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    below: list[int] = []
    if _total(natural, shown) > width:
        below = [index for index in shown if columns[index].below]
        shown = [index for index in shown if index not in below]
    # folded only as far as is still readable; what does not fit even so goes
    tight = [
        min(natural[i], max(c.least, cell_len(c.title))) if c.least else natural[i]
        for i, c in enumerate(columns)
    ]
    while _total(tight, shown) > width and any(columns[index].drop for index in shown):
        shown.remove(max(shown, key=lambda index: columns[index].drop))
    widths = dict(zip(shown, _grown(tight, natural, shown, width), strict=True))
    return [_Placed(index, columns[index], widths[index]) for index in shown], below


def _grown(tight: list[int], natural: list[int], shown: list[int], width: int) -> list[int]:
    """The tight widths, with the room that is left given to whoever lacks the most."""
    widths = {index: tight[index] for index in shown}
    room = width - _total(tight, shown)
    while room > 0:
        neediest = max(shown, key=lambda index: natural[index] - widths[index])
        if natural[neediest] == widths[neediest]:
            break
        widths[neediest] += 1
        room -= 1
    return [widths[index] for index in shown]


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[index] for index in shown) + _GAP * max(0, len(shown) - 1)


def _cell_width(cell: Text) -> int:
    return max((cell_len(line) for line in cell.plain.split("\n")), default=0)


def _row(cells: Sequence[Text], placed: Sequence[_Placed], console: Console) -> Iterator[Text]:
    folded = [_folded(cells[place.index], place.width, console) for place in placed]
    for number in range(max(len(lines) for lines in folded)):
        line = Text()
        for place, lines in zip(placed, folded, strict=True):
            cell = lines[number] if number < len(lines) else Text()
            space = " " * max(0, place.width - cell_len(cell.plain))
            line.append(space).append_text(cell) if place.column.right else line.append_text(cell).append(
                space
            )
            line.append(" " * _GAP)
        line.rstrip()
        yield line


def _folded(cell: Text, width: int, console: Console) -> list[Text]:
    lines: list[Text] = []
    for part in cell.split("\n", allow_blank=True):
        lines += (
            part.wrap(console, max(1, width), overflow="fold") if cell_len(part.plain) > width else [part]
        )
    return lines or [Text()]


def _below(cell: Text, width: int, console: Console) -> Iterator[Text]:
    for line in _folded(cell, max(20, width - 4), console):
        line.rstrip()
        yield Text("    ").append_text(line)
