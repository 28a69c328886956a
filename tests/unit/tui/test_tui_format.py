"""Text for widgets: foreign text is harmless, widths are those of the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from vmconsole.tui.format import clip, fit, safe, spark


@given(st.text(max_size=60), st.integers(0, 40), st.booleans())
def test_a_cell_is_exactly_as_wide_as_it_should_be(text, width, right):
    assert cell_len(fit(safe(text), width, right=right).plain) == width


@given(st.text(max_size=60))
def test_nothing_foreign_controls_the_terminal(text):
    plain = safe(text).plain
    assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in plain)
    assert "\u202e" not in plain


def test_markup_stays_text():
    assert safe("vm[/prod]").plain == "vm[/prod]"
    assert safe("[bold]x").spans == []


@given(st.text(max_size=60), st.integers(1, 40))
def test_a_clipped_text_fits(text, width):
    assert cell_len(clip(safe(text).plain, width)) <= width


def test_wide_letters_are_cut_between_letters():
    assert fit(safe("備份主機"), 5).plain == "備份…"
    assert fit(safe("備份主機"), 4).plain == "備 …"


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e15)), max_size=20))
def test_a_column_for_each_value(values):
    bars = spark(values)
    assert len(bars) == len(values)
    assert all((bar == "·") == (value is None) for bar, value in zip(bars, values, strict=True))


def test_the_largest_is_the_highest():
    assert spark([0.0, 5.0, 10.0, None]) == "▁▄█·"
    assert spark([0.0, 0.0]) == "▁▁"
    assert spark([1.0, 8.0, None], ascii_only=True).isascii()
