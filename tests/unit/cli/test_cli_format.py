from __future__ import annotations

import re
import unicodedata
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.cli.format import age, duration, size, visible, visible_lines


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (1288490189, "1.2 GiB"),
        (40 << 30, "40 GiB"),
        (40 * (1 << 30) + (1 << 28), "40.2 GiB"),
        (500_000_000, "477 MiB"),
        (-1536, "-1.5 KiB"),
        (1 << 70, "1024 EiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 1 << 63))
def test_size_is_short_and_near(count: int) -> None:
    text = size(count)
    match = re.fullmatch(r"(\d{1,4}(?:\.\d)?) (B|[KMGTPE]iB)", text)
    assert match
    unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(match[2])
    assert unit == 6 or float(match[1]) < 1024
    assert float(match[1]) * 1024**unit == pytest.approx(count, rel=0.05)


@given(st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_larger_never_prints_smaller(one: int, other: int) -> None:
    def value(text: str) -> float:
        number, unit = text.split()
        return float(number) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)

    low, high = sorted((one, other))
    assert value(size(low)) <= value(size(high))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.04, "40 ms"),
        (0.9999, "1.0 s"),
        (3.21, "3.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 m"),
        (200, "3 m 20 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 m"),
        (86_399, "1 d"),
        (3 * 86_400 + 4 * 3600, "3 d 4 h"),
        (-1, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@given(st.floats(0.01, 1e8))
def test_duration_is_near_and_no_unit_overflows(seconds: float) -> None:
    parts = re.findall(r"([\d.]+) (ms|[smhd])", duration(seconds))
    assert " ".join(f"{number} {unit}" for number, unit in parts) == duration(seconds)
    assert sum(float(number) * _UNITS[unit] for number, unit in parts) == pytest.approx(seconds, rel=0.06)
    limits = {"ms": 1000, "s": 60, "m": 60, "h": 24, "d": 10_000}
    assert all(float(number) < limits[unit] for number, unit in parts)


@pytest.mark.parametrize(
    ("since", "text"),
    [
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=-5), "just now"),
        (timedelta(minutes=6), "6 min ago"),
        (timedelta(hours=6, minutes=59), "6 h ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=3), "3 d ago"),
        (timedelta(days=100), "3 months ago"),
        (timedelta(days=800), "2 years ago"),
        (timedelta(hours=-6), "in 6 h"),
    ],
)
def test_ages(since: timedelta, text: str) -> None:
    assert age(since) == text


@given(st.timedeltas())
def test_every_age_can_be_said(since: timedelta) -> None:
    assert len(age(since)) < 25


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1", "web-1"),
        ("Büro 店", "Büro 店"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\nfeed\ttab\r", "line\\nfeed\\ttab\\r"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        ("\u3164", "\\u3164"),
        ("\u2028", "\\u2028"),
    ],
)
def test_foreign_text_is_seen_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_hidden_is_left(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert visible(shown) == shown
    shown.encode("utf-8")
    assert visible_lines(text).count("\n") == text.count("\n")


@given(st.text(st.characters(categories=["L", "Nd", "P", "Sm"], max_codepoint=0x2000)))
def test_ordinary_text_is_untouched(text: str) -> None:
    hidden = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5}
    if not hidden & set(map(ord, text)):
        assert visible(text) == text
