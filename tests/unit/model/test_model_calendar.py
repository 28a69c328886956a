from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.config.when import parse_when, parse_window
from vmconsole.model.calendar import (
    closes,
    is_open,
    jitter_of,
    longest_gap,
    newest_time,
    next_time,
    opens,
    overdue_limit,
    times_after,
    window_length,
)
from vmconsole.model.schedule import Window

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = parse_window("22:00-06:00")


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def after(text: str, moment: str, count: int) -> list[str]:
    times = islice(times_after(parse_when(text), local(moment), BERLIN), count)
    return [f"{moment.astimezone(BERLIN):%d %H:%M%z}" for moment in times]


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        # 29 March 2026: 02:00 is 03:00; the time that is left out comes right after the jump, once.
        ("daily 02:30", "2026-03-28 12:00", ["29 03:00+0200", "30 02:30+0200"]),
        ("daily 03:00", "2026-03-28 12:00", ["29 03:00+0200", "30 03:00+0200"]),
        # 25 October: 02:30 comes twice; a daily backup once.
        ("daily 02:30", "2026-10-24 12:00", ["25 02:30+0200", "26 02:30+0100"]),
        ("every 4 h", "2026-03-28 21:00", ["29 00:00+0100", "29 04:00+0200", "29 08:00+0200"]),
        ("every 30 min", "2026-10-25 01:45", ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100"]),
        ("last day 22:00", "2028-02-01 00:00", ["29 22:00+0100", "31 22:00+0200"]),
        ("0 0 29 2 *", "2026-01-01 00:00", ["29 00:00+0100"]),
        ("first sunday 03:00", "2026-11-01 04:00", ["06 03:00+0100"]),
        ("friday-monday 20:00", "2026-11-25 12:00", [f"{day} 20:00+0100" for day in (27, 28, 29, 30)]),
        ("daily 06:00, 18:00", "2026-11-25 12:00", ["25 18:00+0100", "26 06:00+0100"]),
    ],
)
def test_times_as_people_mean_them(text: str, moment: str, expected: list[str]) -> None:
    assert after(text, moment, len(expected)) == expected


def test_the_newest_time_is_not_in_the_future() -> None:
    daily = parse_when("daily 22:00")
    at = local("2026-11-25 22:00")
    assert newest_time(daily, at, BERLIN) == at
    assert newest_time(daily, at - timedelta(seconds=1), BERLIN) == at - timedelta(days=1)


rules = st.sampled_from(
    [
        "daily 02:30",
        "every 4 h",
        "every 90 min",
        "weekdays 12:30",
        "0 22 * * 1-5",
        "hourly :15",
        "last day 23:59",
    ]
)
moments = st.integers(1_577_836_800, 1_956_528_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
zones = st.sampled_from(
    [BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("UTC")]
)


@given(rules, moments, zones)
def test_newest_and_next_are_neighbours(text: str, moment: datetime, zone: ZoneInfo) -> None:
    when = parse_when(text)
    newest, coming = newest_time(when, moment, zone), next_time(when, moment, zone)
    assert newest is not None
    assert coming is not None
    assert newest <= moment < coming
    assert next_time(when, newest, zone) == coming
    assert newest_time(when, coming, zone) == coming


@given(rules, moments, zones)
def test_times_are_in_order_and_never_further_apart_than_the_longest_gap(
    text: str, moment: datetime, zone: ZoneInfo
) -> None:
    when = parse_when(text)
    times = list(islice(times_after(when, moment, zone), 20))
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    assert all(gap > 0 for gap in gaps)
    within = [gap for gap, end in zip(gaps, times[1:], strict=True) if end <= moment + timedelta(days=14)]
    assert max(within, default=0) <= longest_gap(when, moment, zone)


def test_overdue_is_later_than_the_longest_gap() -> None:
    now = local("2026-11-25 12:00")
    assert longest_gap(parse_when("weekdays 12:30"), now, BERLIN) == 3 * 86400
    assert overdue_limit(parse_when("every 30 min"), None, now, BERLIN) == 1800 + 7200
    assert overdue_limit(parse_when("daily 22:00"), NIGHT, now, BERLIN) == 32 * 3600
    # The day of 25 hours is one of the next fourteen.
    assert longest_gap(parse_when("daily 12:00"), local("2026-10-20 12:00"), BERLIN) == 25 * 3600


def test_a_window_over_midnight() -> None:
    assert window_length(NIGHT) == 8 * 3600
    assert is_open(NIGHT, local("2026-11-25 22:00"), BERLIN)
    assert is_open(NIGHT, local("2026-11-26 05:59"), BERLIN)
    assert not is_open(NIGHT, local("2026-11-26 06:00"), BERLIN)
    noon = local("2026-11-26 12:00")
    assert opens(NIGHT, noon, BERLIN) == local("2026-11-26 22:00")
    assert closes(NIGHT, noon, BERLIN) == local("2026-11-27 06:00")
    assert closes(NIGHT, local("2026-11-26 01:00"), BERLIN) == local("2026-11-26 06:00")
    assert opens(None, noon, BERLIN) == noon
    assert closes(None, noon, BERLIN) is None


def test_a_window_that_begins_in_the_hour_that_is_left_out() -> None:
    window = Window(time(2, 30), time(5))
    assert opens(window, local("2026-03-29 01:00"), BERLIN) == local("2026-03-29 03:30")


@given(moments, st.times(), st.times(), zones)
def test_a_window_opens_before_it_closes(moment: datetime, start: time, end: time, zone: ZoneInfo) -> None:
    window = Window(start.replace(second=0, microsecond=0), end.replace(second=0, microsecond=0))
    if window.start == window.end:
        return
    opening, closing = opens(window, moment, zone), closes(window, moment, zone)
    assert closing is not None
    assert moment <= opening < closing
    assert closing - moment <= timedelta(days=2, hours=2)


def test_jitter_is_the_same_every_time_and_differs_between_guests() -> None:
    found = {jitter_of(f"guest-{number}", 600) for number in range(100)}
    assert len(found) > 80
    assert max(found) <= timedelta(seconds=600)
    assert jitter_of("guest-1", 600) == jitter_of("guest-1", 600)
    assert jitter_of("guest-1", 0) == timedelta()
