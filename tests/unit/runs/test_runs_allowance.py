"""Configured rates: by the time of day, and never more than they say over any span of time."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.model.limits import Limits, RateAt
from vmconsole.model.schedule import Window
from vmconsole.runs.allowance import CREDIT, Allowance, Bucket, rate_at

MIB = 1 << 20
BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = RateAt(Window(time(8), time(18)), 20 * MIB)
NIGHT = RateAt(Window(time(22), time(6)), 0)


class Clock:
    def __init__(self, local: datetime) -> None:
        self.local, self.seconds = local, 0.0

    def now(self) -> datetime:
        return self.local + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("at", "rate"),
    [
        ("2026-11-20T07:59:59+01:00", 50 * MIB),
        ("2026-11-20T08:00:00+01:00", 20 * MIB),
        ("2026-11-20T16:59:59+00:00", 20 * MIB),
        ("2026-11-20T17:00:00+00:00", 50 * MIB),
        ("2026-11-20T22:00:00+01:00", 0),
        ("2026-11-21T05:59:59+01:00", 0),
        ("2026-11-21T06:00:00+01:00", 50 * MIB),
        ("2026-07-20T06:30:00+00:00", 20 * MIB),
    ],
)
def test_the_time_of_day_in_its_zone(at: str, rate: int) -> None:
    limits = Limits(rate=50 * MIB, rates=(OFFICE, NIGHT))
    assert rate_at(limits, datetime.fromisoformat(at), BERLIN) == rate


def test_a_window_of_a_whole_day() -> None:
    limits = Limits(rates=(RateAt(Window(time(3), time(3)), 7),))
    assert {rate_at(limits, datetime(2026, 1, 1, hour, tzinfo=UTC), UTC) for hour in range(24)} == {7}


def test_the_first_window_that_fits() -> None:
    limits = Limits(rates=(RateAt(Window(time(8), time(9)), 1), OFFICE))
    assert rate_at(limits, datetime(2026, 1, 1, 8, 30, tzinfo=UTC), UTC) == 1


def test_the_rate_changes_while_a_run_goes_on() -> None:
    clock = Clock(datetime(2026, 11, 20, 7, 59, 58, tzinfo=BERLIN))
    allowance = Allowance(Limits(rates=(OFFICE,)), BERLIN, clock)
    assert allowance.any
    assert allowance.rate() == 0
    clock.seconds = 3
    assert allowance.rate() == 20 * MIB


def test_no_limit_never_waits() -> None:
    allowance = Allowance(Limits(), UTC, Clock(datetime(2026, 1, 1, tzinfo=UTC)))
    assert not allowance.any
    assert [allowance.take(1 << 40, 0.0) for _ in range(3)] == [0.0] * 3


@given(
    rate=st.integers(1000, 10**9),
    lengths=st.lists(st.integers(1, 4 * MIB), min_size=2, max_size=200),
    late=st.lists(st.floats(0, 0.5), min_size=1, max_size=50),
)
def test_no_span_of_time_gets_more_than_its_share(rate: int, lengths: list[int], late: list[float]) -> None:
    """However late a waiter wakes up."""
    bucket, now = Bucket(), 0.0
    taken: list[tuple[float, int]] = []
    for number, length in enumerate(lengths):
        now += bucket.wait(rate, now) + late[number % len(late)]
        assert bucket.wait(rate, now) < 1e-6
        bucket.take(length, rate, now)
        taken.append((now, length))
    for first in range(0, len(taken), 7):
        total = 0
        for end, length in taken[first:]:
            total += length
            assert total <= rate * (end - taken[first][0] + CREDIT) + max(lengths) + 1


def test_what_could_not_wait_makes_others_wait_but_not_for_ever() -> None:
    bucket = Bucket()
    bucket.owe(3 * MIB, MIB, 100.0)
    assert bucket.wait(MIB, 100.0) == pytest.approx(3 - CREDIT)
    bucket.owe(1000 * MIB, MIB, 100.0)
    assert bucket.wait(MIB, 100.0) <= 1000
    for _ in range(50):
        bucket.owe(MIB, MIB, 100.0)
    assert bucket.wait(MIB, 100.0) <= 5
