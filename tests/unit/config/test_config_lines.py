from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.config.lines import KeyPath, find_lines, line_of


def test_every_shape_of_key() -> None:
    text = (
        '''\
# comment = 1
top = 1 # [not.a.table]
"quoted key" = """
[still.text]
x = 1
"""
dotted . "a.b" . c = 'it'''
        + "'"
        + '''
list = [
  1, # one
  { inner = 2 },
  """two
lines""", 3
]
[table."with.dot"]
a = { b = { c = 1 }, "d]" = "}" }
[[many]]
n = 1
[[many]]
n = 2
[many.sub]
n = 3
[[many.deep]]
when = 1979-05-27 07:32:00
long = \'\'\'x = 1\'\'\'\'\'
last = """a\\""""""
end = 0
'''
    )
    text = text.replace("'it''" + "''", "'it'")
    tomllib.loads(text)
    lines = find_lines(text)
    expected: dict[KeyPath, int] = {
        ("top",): 2,
        ("quoted key",): 3,
        ("dotted", "a.b", "c"): 7,
        ("list",): 8,
        ("list", 0): 9,
        ("list", 1): 10,
        ("list", 1, "inner"): 10,
        ("list", 2): 11,
        ("list", 3): 12,
        ("table", "with.dot"): 14,
        ("table", "with.dot", "a", "b", "c"): 15,
        ("table", "with.dot", "a", "d]"): 15,
        ("many", 0, "n"): 17,
        ("many", 1): 18,
        ("many", 1, "n"): 19,
        ("many", 1, "sub", "n"): 21,
        ("many", 1, "deep", 0): 22,
        ("many", 1, "deep", 0, "when"): 23,
        ("many", 1, "deep", 0, "long"): 24,
        ("many", 1, "deep", 0, "last"): 25,
        ("many", 1, "deep", 0, "end"): 26,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert ("still", "text") not in lines
    assert ("comment",) not in lines


def test_nearest_known_line() -> None:
    lines = find_lines("[a]\nb = 1\n")
    assert line_of(lines, ("a", "b", "c")) == 2
    assert line_of(lines, ("a", "missing")) == 1
    assert line_of({}, ("x",)) == 1


_keys = st.one_of(st.from_regex(r"[a-z0-9_-]{1,4}", fullmatch=True), st.text(min_size=1, max_size=4))
_fillers = st.sampled_from(
    ['"x # ] }"', "'[a]'", '"""\n[z]\nq = 1\n"""', "'''\n\"\n'''", "1.5", "true", "[ # c\n 1 ]"]
)


def _key(name: str) -> str:
    # surrogates cannot come from hypothesis text, and JSON's escapes are TOML's
    return name if name.isascii() and name.replace("-", "_").isidentifier() else _toml_string(name)


def _toml_string(name: str) -> str:
    return '"' + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in name) + '"'


@st.composite
def _documents(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A TOML text in which each number marks a place: the number is unique in the text."""
    number = 100_000
    out: list[str] = []
    document: dict[str, Any] = {}
    for table in draw(st.lists(_keys, unique=True, max_size=4)):
        repeats = draw(st.integers(0, 2))
        for _ in range(max(repeats, 1)):
            content: dict[str, Any] = {}
            out.append(f"[[{_key(table)}]]" if repeats else f"[ {_key(table)} ] # {number - 1}x")
            for key in draw(st.lists(_keys, unique=True, max_size=4)):
                shape = draw(st.integers(0, 3))
                number += 1
                if shape == 0:
                    out.append(f"{_key(key)} = {number}")
                    content[key] = number
                elif shape == 1:
                    out.append(f"{_key(key)} . inner = {number}")
                    content[key] = {"inner": number}
                elif shape == 2:
                    out.append(f"{_key(key)} = [ {draw(_fillers)},\n\n {number}, ]")
                    content[key] = [None, number]
                else:
                    out.append(f"{_key(key)} = {{ f = 'x', n = {number} }}")
                    content[key] = {"n": number}
                out.append(draw(st.sampled_from(["", "# c = [", "\t"])))
            if repeats:
                document.setdefault(table, []).append(content)
            else:
                document[table] = content
    return "\n".join(out), document


def _leaves(value: Any, path: KeyPath = ()) -> list[tuple[KeyPath, int]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in _leaves(item, (*path, index))]
    return [] if value is None else [(path, value)]


@settings(deadline=None)
@given(_documents())
def test_marked_values_are_found_on_their_lines(made: tuple[str, dict[str, Any]]) -> None:
    text, document = made
    tomllib.loads(text)
    lines = find_lines(text)
    for path, number in _leaves(document):
        assert lines[path] == text[: text.index(f" {number}")].count("\n") + 1, json.dumps(text)
