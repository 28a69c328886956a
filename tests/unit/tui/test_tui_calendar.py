from __future__ import annotations

from datetime import date

from vmconsole.tui.widgets.calendar import WIDTH, Month, day_at, month_text, weeks

DAY = date(2026, 11, 20)
MONTH = Month(
    2026, 11, {date(2026, 11, 18), DAY}, {date(2026, 11, 19), DAY}, chosen=DAY, today=date(2026, 11, 21)
)


def test_a_month_as_it_looks():
    lines = month_text(MONTH).plain.split("\n")
    assert [line.rstrip() for line in lines] == [
        "       November 2026",
        "  Mo  Tu  We  Th  Fr  Sa  Su",
        "                          1·",
        "  2·  3·  4·  5·  6·  7·  8·",
        "  9· 10· 11· 12· 13· 14· 15·",
        " 16· 17· 18✓ 19✗ 20✓ 21· 22",
        " 23  24  25  26  27  28  29",
        " 30",
    ]
    assert max(len(line) for line in lines) == WIDTH


def test_without_other_characters():
    plain = month_text(MONTH, ascii_only=True).plain
    assert plain.isascii()
    assert " 18+ 19x 20+ 21." in plain


def test_a_good_day_is_good_whatever_else_failed_and_the_chosen_one_is_marked():
    text = month_text(MONTH)
    at = text.plain.index("20✓")
    styles = [span.style for span in text.spans if span.start >= at and span.end <= at + 3]
    assert styles == ["reverse", "ok reverse"]


def test_every_day_is_where_it_is_drawn():
    lines = month_text(MONTH).plain.split("\n")
    for y, row in enumerate(weeks(MONTH), 2):
        for day in filter(None, row):
            x = lines[y].index(f"{day.day:2}")
            assert day_at(MONTH, x, y) == day
            assert day_at(MONTH, x + 2, y) == day
    assert day_at(MONTH, 5, 0) is None
    assert day_at(MONTH, 1, 2) is None, "the first of November is a Sunday"
    assert day_at(MONTH, 28, 3) is None
    assert day_at(MONTH, 1, 9) is None
