from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.config.units import MAX_SIZE, parse_duration, parse_size, write_duration, write_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1 MiB", 1 << 20),
        ("64KiB", 65536),
        ("64kib", 65536),
        (" 1.5 GiB ", 3 << 29),
        ("2 GB", 2 * 10**9),
        ("0", 0),
        ("512", 512),
        ("512 B", 512),
        (4096, 4096),
    ],
)
def test_sizes_people_write(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MiB",
        "-1",
        "1 M",
        "1 MiB extra",
        "1,5 GiB",
        "0.3 B",
        "9 EiB",
        "9999999 PiB",
        -1,
        True,
        1.5,
        None,
        "１ MiB",
    ],
)
def test_sizes_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"size|unit|ambiguous"):
        parse_size(text)


def test_ambiguous_size_says_both_ways_out() -> None:
    with pytest.raises(ValueError, match=r'"GiB" \(1024\) or "GB" \(1000\)'):
        parse_size("3g")


@given(st.integers(0, MAX_SIZE))
def test_size_survives_writing(size: int) -> None:
    assert parse_size(write_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10 s", 10),
        ("5 min", 300),
        ("2h", 7200),
        ("1 h 30 min", 5400),
        ("1h30m", 5400),
        ("250 ms", 0.25),
        ("1.5 d", 129600),
        ("90", 90),
        (90, 90),
        (0.5, 0.5),
    ],
)
def test_durations_people_write(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "ten s",
        "10 fortnights",
        "-5 s",
        "5 s,",
        float("nan"),
        float("inf"),
        -1,
        False,
        None,
        [],
        "999999 w",
    ],
)
def test_durations_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|unit"):
        parse_duration(text)


@given(st.integers(0, 10**10))
def test_duration_survives_writing(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(write_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
