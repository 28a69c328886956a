"""Sizes and durations as people write them: "1 MiB", "64KiB", "10 s", "1 h 30 min", and plain numbers."""

from __future__ import annotations

import re
from fractions import Fraction

_SIZE_UNITS = {
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "pib": 1 << 50,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "pb": 10**15,
}
_AMBIGUOUS_SIZES = {"k", "m", "g", "t", "p"}
_DURATION_UNITS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "sec": Fraction(1),
    "second": Fraction(1),
    "seconds": Fraction(1),
    "m": Fraction(60),
    "min": Fraction(60),
    "minute": Fraction(60),
    "minutes": Fraction(60),
    "h": Fraction(3600),
    "hour": Fraction(3600),
    "hours": Fraction(3600),
    "d": Fraction(86400),
    "day": Fraction(86400),
    "days": Fraction(86400),
    "w": Fraction(604800),
    "week": Fraction(604800),
    "weeks": Fraction(604800),
}
_NUMBER = r"[0-9]{1,19}(?:\.[0-9]{1,9})?"
_SIZE = re.compile(rf"({_NUMBER}) *([A-Za-z]*)", re.ASCII)
_DURATION_PART = re.compile(rf" *({_NUMBER}) *([A-Za-z]+) *", re.ASCII)
MAX_SIZE = (1 << 63) - 1
MAX_DURATION = 100 * 366 * 86400.0


def parse_size(value: object) -> int:
    """Bytes. Raises ValueError with a sentence for the user."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _checked_size(value)
    if not isinstance(value, str):
        raise ValueError('a size is a number of bytes or a text such as "1 MiB"')
    match = _SIZE.fullmatch(value.strip())
    if not match:
        raise ValueError('a size is a number of bytes or a text such as "1 MiB"')
    number, unit = match[1], match[2].lower()
    if unit in _AMBIGUOUS_SIZES:
        letter = unit.upper()
        raise ValueError(f'"{letter}" is ambiguous: write "{letter}iB" (1024) or "{letter}B" (1000)')
    if unit and unit not in _SIZE_UNITS:
        raise ValueError(f'"{match[2]}" is not a unit of size: use B, KiB, MiB, GiB, TiB, kB, MB, GB or TB')
    size = Fraction(number) * _SIZE_UNITS.get(unit, 1)
    if size.denominator != 1:
        raise ValueError("a size must come out as whole bytes")
    return _checked_size(int(size))


def _checked_size(size: int) -> int:
    if not 0 <= size <= MAX_SIZE:
        raise ValueError("a size is between 0 and 8 EiB")
    return size


def parse_duration(value: object) -> float:
    """Seconds. Raises ValueError with a sentence for the user."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _checked_duration(value)
    if not isinstance(value, str):
        raise ValueError('a duration is a number of seconds or a text such as "10 min"')
    text = value.strip()
    if re.fullmatch(_NUMBER, text, re.ASCII):
        return _checked_duration(float(text))
    total, position = Fraction(), 0
    while position < len(text):
        match = _DURATION_PART.match(text, position)
        if not match:
            raise ValueError('a duration is a number of seconds or a text such as "10 min"')
        unit = _DURATION_UNITS.get(match[2].lower())
        if unit is None:
            raise ValueError(f'"{match[2]}" is not a unit of time: use ms, s, min, h, d or w')
        total += Fraction(match[1]) * unit
        position = match.end()
    if not text:
        raise ValueError('a duration is a number of seconds or a text such as "10 min"')
    return _checked_duration(float(total))


def _checked_duration(seconds: float) -> float:
    # not (…) also refuses nan, which TOML can write
    if not 0 <= seconds <= MAX_DURATION:
        raise ValueError("a duration is between 0 and 100 years")
    return float(seconds)


def write_size(size: int) -> str:
    """The shortest text that parse_size reads back as exactly this size."""
    for unit, name in (
        (1 << 50, "PiB"),
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def write_duration(seconds: float) -> str:
    """The shortest text that parse_duration reads back as this duration, to the millisecond."""
    milliseconds = round(seconds * 1000)
    for unit, name in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if milliseconds >= unit and milliseconds % unit == 0:
            return f"{milliseconds // unit} {name}"
    return f"{milliseconds} ms" if milliseconds else "0 s"
