from __future__ import annotations

from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from vmconsole.cli.table import Column, layout


def lines(columns, rows, width):
    console = Console(file=StringIO(), width=width)
    return [
        line.plain for line in layout(columns, [[Text(cell) for cell in row] for row in rows], width, console)
    ]


def test_there_is_room_for_everything():
    shown = lines(
        (Column("guest"), Column("size", right=True), Column("why", below=True)), [("a", "1 GiB", "x")], 80
    )
    assert shown == ["guest   size  why", "a      1 GiB  x"]


def test_the_highest_drop_goes_first_and_names_are_never_folded():
    columns = (Column("point"), Column("took", drop=2), Column("read", drop=1))
    row = ("web-01.1f0c9a3e-20261122T020000Z", "12 seconds", "1 GiB")
    assert lines(columns, [row], 42)[1] == "web-01.1f0c9a3e-20261122T020000Z  1 GiB"
    assert lines(columns, [row], 36)[1] == "web-01.1f0c9a3e-20261122T020000Z"
    assert lines(columns, [row], 10)[1] == "web-01.1f0c9a3e-20261122T020000Z"


def test_what_does_not_fit_moves_below_its_row():
    columns = (Column("guest", least=10), Column("why", below=True))
    shown = lines(columns, [("web", "a long reason " * 4), ("db", "")], 40)
    assert shown[:2] == ["guest", "web"]
    assert all(line.startswith("    ") for line in shown[2:-1])
    assert " ".join("".join(shown[2:-1]).split()) == ("a long reason " * 4).strip()
    assert shown[-1] == "db"


def test_a_folding_column_keeps_every_letter_in_its_own_column():
    name = "n" * 200
    shown = lines((Column("!"), Column("guest", least=16), Column("state")), [("✓", name, "running")], 60)
    assert sum(line.count("n") for line in shown[1:]) == 200 + "running".count("n")
    assert shown[1].endswith("running")
    assert all(line.startswith("   n") for line in shown[2:])


def test_cells_of_several_lines():
    shown = lines((Column("guest"), Column("disks")), [("web", "vda 1 GiB\nvdb 2 GiB")], 80)
    assert shown[1:] == ["web    vda 1 GiB", "       vdb 2 GiB"]


CELLS = st.text(st.characters(categories=["L", "N", "P", "So"]), max_size=60)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(30, 120))
def test_no_line_is_wider_than_the_terminal(rows, width):
    columns = (
        Column("a", least=8),
        Column("b", least=8, drop=1),
        Column("c", right=True, least=8, below=True),
    )
    for line in lines(columns, rows, width):
        assert cell_len(line) <= width


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.integers(30, 120))
def test_no_letter_of_a_column_that_stays_is_lost(rows, width):
    columns = (Column("a", least=8), Column("b", least=8))
    shown = "".join(lines(columns, rows, width)[1:])
    for letter in {letter for row in rows for cell in row for letter in cell}:
        assert shown.count(letter) == sum(cell.count(letter) for row in rows for cell in row)
