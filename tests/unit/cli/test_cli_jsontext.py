from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.cli.jsontext import json_text

ANY_TEXT = st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, 2]), st.sampled_from(["utf-8", "UTF8", "ascii", "iso8859-1"]))
def test_any_value_comes_back(value: object, indent: int | None, encoding: str) -> None:
    text = json_text(value, indent=indent, encoding=encoding)
    assert json.loads(text) == value
    text.encode(encoding)


@given(ANY_TEXT)
def test_nothing_a_terminal_obeys_or_hides_is_left(name: str) -> None:
    text = json_text({name: [name]}, indent=2)
    assert not {unicodedata.category(c) for c in text if c != "\n"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Büro 店", '"Büro 店"'),
        ("\x1b[2J", '"\\u001b[2J"'),
        ("\x7f\x9b", '"\\u007f\\u009b"'),
        ("\u202e", '"\\u202e"'),
        ("\U000e0041", '"\\udb40\\udc41"'),
        ("\udcff", '"\\udcff"'),
    ],
)
def test_escapes(value: str, text: str) -> None:
    assert json_text(value) == text


def test_other_encodings_get_pure_ascii() -> None:
    assert json_text("Büro", encoding="iso8859-1") == '"B\\u00fcro"'
