"""What `/` understands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.tui.filtering import parse_filter

ROW = {
    "name": "Web-01",
    "host": "kvm1",
    "state": "failed",
    "age": 200_000.0,
    "size": 2.0 * 2**40,
    "group": "daily",
}
NEVER = ROW | {"name": "scan", "age": None}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("web", True),
        ("WEB kvm1", True),
        ("web kvm2", False),
        ("state:failed", True),
        ("state:ok", False),
        ("!state:ok", True),
        ("!web", False),
        ("age>2d", True),
        ("age<=2d", False),
        ("age>3d", False),
        ("size>=2T", True),
        ("size<1T", False),
        ("host:kvm group:daily age>1h", True),
        ("nosuch:thing", False),
        ("!", False),
    ],
)
def test_rows_that_match(text, wanted):
    assert parse_filter(text).matches(ROW) is wanted


def test_who_was_never_backed_up_is_older_than_anything():
    assert parse_filter("age>400d").matches(NEVER)
    assert not parse_filter("age<400d").matches(NEVER)


@given(st.text(max_size=40))
def test_anything_can_be_typed(text):
    parse_filter(text).matches(ROW)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12))
def test_a_word_and_its_opposite_never_both_match(word):
    assert parse_filter(word).matches(ROW) is not parse_filter(f"!{word}").matches(ROW)
