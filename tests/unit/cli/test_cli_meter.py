from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmconsole.cli.meter import Meter


def test_rate_and_time_left():
    meter = Meter(0, 1000, 0.0)
    assert meter.rate(0.5) is None
    assert meter.left(0.5) is None
    meter.update(100, 1000, 2.0)
    assert meter.rate(2.0) == 50
    assert meter.left(2.0) == 18


def test_what_was_long_ago_counts_no_more():
    meter = Meter(0, 10_000, 0.0)
    for second in range(1, 61):
        meter.update(min(second, 30) * 10 + max(0, second - 30) * 100, 10_000, float(second))
    assert meter.rate(60.0) == 100


def test_a_stall_is_seen_and_the_rate_falls():
    meter = Meter(0, 1000, 0.0)
    meter.update(500, 1000, 1.0)
    assert meter.stalled(10.9) == 0
    assert meter.stalled(31.0) == 30
    assert meter.rate(51.0) == 500 / 51
    meter.update(1000, 1000, 52.0)
    assert meter.stalled(500.0) == 0


def test_nothing_moved_has_no_time_left():
    meter = Meter(0, 1000, 0.0)
    assert meter.rate(5.0) == 0
    assert meter.left(5.0) is None


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 1 << 40)), max_size=30))
def test_it_never_fails_nor_goes_negative(steps):
    meter, now, done = Meter(0, 1 << 45, 0.0), 0.0, 0
    for seconds, count in steps:
        now, done = now + seconds, done + count
        meter.update(done, 1 << 45, now)
        assert (meter.rate(now) or 0) >= 0
        assert (meter.left(now) or 0) >= 0
        assert meter.stalled(now) >= 0
