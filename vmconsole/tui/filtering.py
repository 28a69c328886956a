"""What `/` understands: words that all must be there, `field:value`, `age>2d`, `size<=1T`, each turned round by `!`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Fields = Mapping[str, str | float | None]
"""Of a row: texts, and numbers (ages in seconds, sizes in bytes). None: it has no such thing."""

_COMPARE = re.compile(r"([a-z]+)(<=|>=|<|>)(\d+(?:\.\d+)?)([a-zA-Z]*)")
_UNITS = {
    "": 1.0,
    "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0,
    "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """text: as typed. problem: what could not be understood; such a word is then looked for as it is."""

    text: str
    tests: tuple[Callable[[Fields], bool], ...] = ()

    def matches(self, fields: Fields) -> bool:
        return all(test(fields) for test in self.tests)


def parse_filter(text: str) -> Filter:
    return Filter(text, tuple(_test(word) for word in text.split()))


def _test(word: str) -> Callable[[Fields], bool]:
    if word.startswith("!") and len(word) > 1:
        inner = _test(word[1:])
        return lambda fields: not inner(fields)
    if (found := _COMPARE.fullmatch(word)) and found[4] in _UNITS:
        return _comparing(found[1], found[2], float(found[3]) * _UNITS[found[4]])
    name, colon, value = word.partition(":")
    if colon and name.isalpha() and value:
        return _in_field(name.lower(), value.casefold())
    return _anywhere(word.casefold())


def _comparing(name: str, sign: str, limit: float) -> Callable[[Fields], bool]:
    def test(fields: Fields) -> bool:
        value = fields.get(name)
        if name == "age" and name in fields and value is None:
            return sign.startswith(">")  # there never was one: older than anything
        if not isinstance(value, (int, float)):
            return False
        return {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[sign]

    return test


def _in_field(name: str, value: str) -> Callable[[Fields], bool]:
    def test(fields: Fields) -> bool:
        if name not in fields:
            return _anywhere(f"{name}:{value}")(fields)
        found = fields[name]
        return isinstance(found, str) and value in found.casefold()

    return test


def _anywhere(word: str) -> Callable[[Fields], bool]:
    return lambda fields: any(word in value.casefold() for value in fields.values() if isinstance(value, str))
