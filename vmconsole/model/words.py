"""Figures and foreign text as people read them. Pure functions, for terminals and logs alike."""

from __future__ import annotations

import math
import unicodedata
from datetime import timedelta

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def size(count: int) -> str:
    """Bytes with a binary unit: `512 B`, `1.2 GiB`, `40 GiB`. Rounded; JSON has the exact figure."""
    sign, rest = ("-", -count) if count < 0 else ("", count)
    unit = 0
    # 1023.95 KiB and more would print as 1024
    while unit + 1 < len(_SIZES) and rest >= 1024 ** (unit + 1) - 1024**unit // 20:
        unit += 1
    value = rest / 1024**unit
    if rest % 1024**unit == 0 or value >= 99.95:
        return f"{sign}{value:.0f} {_SIZES[unit]}"
    return f"{sign}{value:.1f} {_SIZES[unit]}"


def progress_size(done: int, total: int) -> str:
    """`170/405 MiB`, ` 58/405 MiB`: both in the unit of the total, done never rounded up to it."""
    unit = 0
    while unit + 1 < len(_SIZES) and total >= 1000 * 1024**unit:
        unit += 1
    places = 0 if unit == 0 or total >= 100 * 1024**unit else 1
    step = 10**places
    whole = f"{total / 1024**unit:.{places}f}"
    part = f"{done * step // 1024**unit / step:.{places}f}"
    return f"{part:>{len(whole)}}/{whole} {_SIZES[unit]}"


def duration(seconds: float) -> str:
    """`40 ms`, `3.2 s`, `45 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`; a dash for what is no duration."""
    if not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return _two(whole, _MINUTE, "m", 1, "s")
    # what is not shown is rounded first, so that no unit reaches its next
    whole = round(seconds / _MINUTE) * _MINUTE
    if whole < _DAY:
        return _two(whole, _HOUR, "h", _MINUTE, "m")
    whole = round(seconds / _HOUR) * _HOUR
    return _two(whole, _DAY, "d", _HOUR, "h")


def countdown(seconds: float) -> str:
    """As duration(), for what is redrawn all the time: whole seconds."""
    whole = max(0, round(seconds)) if math.isfinite(seconds) else -1
    return f"{whole} s" if 0 <= whole < _MINUTE else duration(whole)


def _two(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    first, rest = divmod(whole, large)
    second = rest // small
    return f"{first} {large_name} {second} {small_name}" if second else f"{first} {large_name}"


def age(since: timedelta) -> str:
    """`just now`, `6 min ago`, `6 h ago`, `3 d ago`, `5 months ago`; `in 6 h` when clocks disagree."""
    seconds = int(since.total_seconds())
    distance = abs(seconds)
    if distance < _MINUTE:
        return "just now"
    for limit, unit, name in (
        (_HOUR, _MINUTE, "min"),
        (2 * _DAY, _HOUR, "h"),
        (60 * _DAY, _DAY, "d"),
        (730 * _DAY, 30.44 * _DAY, "months"),
        (math.inf, 365.25 * _DAY, "years"),
    ):
        if distance < limit:
            text = f"{int(distance / unit)} {name}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    raise AssertionError("the last limit is infinite")


# Neither controls nor format characters by category, but drawn as nothing.
_INVISIBLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
    | set(range(0x180B, 0x1810))
    | set(range(0xFE00, 0xFE10))
    | set(range(0xE0100, 0xE01F0))
)
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """One line of foreign text made harmless: controls, terminal escapes, bidirectional overrides and
    invisible characters become `\\x1b`, `\\u202e` … and are seen instead of obeyed.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _is_hidden(letter) else letter for letter in text)


def visible_lines(text: str) -> str:
    """As visible(), for our own messages of several lines: line feeds stay."""
    return "\n".join(visible(line) for line in text.split("\n"))


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in _HIDDEN_CATEGORIES or ord(letter) in _INVISIBLE


def _escaped(letter: str) -> str:
    code = ord(letter)
    if letter in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[letter]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
