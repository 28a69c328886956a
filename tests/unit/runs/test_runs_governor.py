"""The pace of one host: configured limits, what is under way, what is said."""

from __future__ import annotations

import heapq
import threading
from datetime import UTC, datetime, time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runs_allowance import Clock

from vmconsole.interfaces import Pace
from vmconsole.model.guest import HostLoad
from vmconsole.model.limits import Limits, RateAt
from vmconsole.model.schedule import Window
from vmconsole.model.vitals import Vitals, WriteCounters
from vmconsole.runs.allowance import CREDIT, Allowance
from vmconsole.runs.governor import CONFIGURED, Governor

MIB = 1 << 20
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
CALM = Vitals(HostLoad(0.0, 0.0, 0.0))


class World:
    """A clock, a host that takes its time for each request, and readers that keep to the pace."""

    def __init__(self, limits: Limits = Limits(), total: Limits = Limits(), at: datetime = NOON) -> None:  # noqa: B008
        self.clock = Clock(at)
        self.total = Allowance(total, UTC, self.clock)
        self.said: list[tuple[int, str]] = []
        self.granted: list[tuple[float, int]] = []
        self.governor = self.another(limits)

    def another(self, limits: Limits = Limits()) -> Governor:  # noqa: B008
        host = Allowance(limits, UTC, self.clock)
        return Governor(host, self.total, self.clock, lambda rate, why: self.said.append((rate, why)))

    def read(self, seconds: float, *, speed: float = 200.0 * MIB, window: int = 16, paces: int = 1) -> int:
        """Read from that many hosts at once as the NBD pump does. Returns the bytes that came."""
        governors = [self.governor, *(self.another() for _ in range(paces - 1))]
        end, came = self.clock.seconds + seconds, 0
        free = [self.clock.seconds] * paces
        under_way: list[tuple[float, int, int, float]] = []
        while self.clock.seconds < end:
            hold = 0.05
            for number, pace in enumerate(governors):
                while sum(item[1] == number for item in under_way) < window:
                    length = pace.largest() or MIB
                    wait = pace.wait(length)
                    if wait:
                        hold = min(hold, max(wait, 1e-4))
                        break
                    now = self.clock.seconds
                    self.granted.append((now, length))
                    free[number] = max(free[number], now) + length / speed
                    heapq.heappush(under_way, (free[number], number, length, now))
            if under_way and under_way[0][0] <= self.clock.seconds + hold:
                when, number, length, sent = heapq.heappop(under_way)
                self.clock.seconds = max(self.clock.seconds, when)
                governors[number].came(length, max(1e-9, when - sent))
                came += length
            else:
                self.clock.seconds += hold
        for _, number, length, _ in under_way:
            governors[number].came(length, 0.0)
        return came

    def suffer(self, times: int = 1) -> None:
        """Reading, and a host that does not answer."""
        for _ in range(times):
            self.read(3)
            self.governor.observe(None, self.clock.seconds)


def test_it_is_a_pace() -> None:
    pace: Pace = World().governor
    assert (pace.wait(1 << 30), pace.limit(), pace.largest()) == (0.0, 0, 0)


def test_without_limits_nothing_waits() -> None:
    world = World()
    assert world.read(5) == pytest.approx(5 * 200 * MIB, rel=0.05)


@settings(deadline=None, max_examples=30)
@given(host=st.integers(1, 100), total=st.integers(1, 100), paces=st.integers(1, 3))
def test_configured_limits_hold_over_any_span(host: int, total: int, paces: int) -> None:
    world = World(Limits(rate=host * MIB), Limits(rate=total * MIB))
    world.read(4, paces=paces)
    for first in range(0, len(world.granted), max(1, len(world.granted) // 40)):
        sent = 0
        for when, length in world.granted[first:]:
            sent += length
            assert sent <= total * MIB * (when - world.granted[first][0] + CREDIT) + MIB + 1


def test_they_are_used_up() -> None:
    assert World(Limits(rate=20 * MIB)).read(10) == pytest.approx(200 * MIB, rel=0.05)
    assert World(Limits(rate=2 * MIB)).read(10) == pytest.approx(20 * MIB, rel=0.1)
    assert World(total=Limits(rate=30 * MIB)).read(10, paces=3) == pytest.approx(300 * MIB, rel=0.05)


def test_the_lower_one_is_told_to_those_who_are_told_once() -> None:
    assert World(Limits(rate=20), Limits(rate=10)).governor.limit() == 10
    assert World(Limits(rate=20)).governor.limit() == 20
    assert World(total=Limits(rate=30)).governor.limit() == 30


def test_a_host_that_suffers_is_read_slowly_in_small_pieces() -> None:
    world = World()
    world.governor.observe(CALM, 0.0)
    world.suffer(20)
    assert world.read(10) == pytest.approx(20 * MIB, rel=0.15)
    assert world.governor.largest() == 64 * 1024


def test_what_is_under_way_is_little_while_it_suffers() -> None:
    """Also from a host that is slower than the limit; what was requested before does not count for ever."""
    world = World()
    world.governor.observe(CALM, 0.0)
    world.suffer(20)
    while world.governor.wait(64 * 1024) == 0:
        world.clock.seconds += 1
    assert world.governor._in_flight <= 2 * MIB * 0.25 + 64 * 1024


def test_what_is_given_up_is_not_under_way() -> None:
    world = World()
    world.governor.observe(CALM, 0.0)
    world.suffer(20)
    for _ in range(20):
        world.clock.seconds += 10
        assert world.governor.wait(MIB) == 0
        world.governor.came(MIB, 0.0)


def test_streams_that_cannot_wait_slow_the_others() -> None:
    world = World(Limits(rate=10 * MIB))
    world.governor.took(20 * MIB)
    assert world.governor.wait(MIB) == pytest.approx(1.9)


def test_a_slow_host_is_not_blamed_for_our_queue() -> None:
    """16 requests at a time from a slow disk: each takes long, the host is no slower than ever."""
    world = World()
    world.governor.observe(CALM, 0.0)
    for _ in range(40):
        world.read(3, speed=20 * MIB)
        world.governor.observe(CALM, world.clock.seconds)
    assert world.said == []


def test_what_is_said_when_it_backs_off_and_comes_back() -> None:
    world = World()
    requests, seconds = 1000, 1.0

    def look(latency: float) -> None:
        nonlocal requests, seconds
        requests, seconds = requests + 100, seconds + 100 * latency
        vitals = Vitals(HostLoad(0.0, 0.0, 0.0), {"a": WriteCounters(requests, seconds)})
        world.governor.observe(vitals, world.clock.seconds)

    for _ in range(4):
        world.clock.seconds += 3
        look(0.001)
    world.read(3)
    look(0.0082)
    assert world.said[0][1] == "its guests' writes take 8.2 times as long"
    assert 0 < world.said[0][0] < 0.4 * 200 * MIB
    for _ in range(60):
        world.read(3)
        look(0.001)
    assert world.said[-1] == (0, "back to full speed")
    assert len(world.said) < 15
    rates = [rate for rate, _ in world.said[:-1]]
    assert rates == sorted(rates)


def test_a_configured_limit_is_said_at_once_and_when_it_ends() -> None:
    limits = Limits(rates=(RateAt(Window(time(8), time(18)), 5 * MIB),))
    world = World(limits, at=datetime(2026, 11, 20, 17, 59, 50, tzinfo=UTC))
    world.governor.announce(0.0)
    assert world.said == [(5 * MIB, CONFIGURED)]
    world.governor.observe(CALM, 3.0)
    assert len(world.said) == 1
    world.clock.seconds = 20.0
    world.governor.observe(CALM, 20.0)
    assert world.said[1:] == [(0, "back to full speed")]


def test_when_it_is_better_the_configured_limit_is_what_is_left() -> None:
    world = World(Limits(rate=40 * MIB))
    world.governor.observe(CALM, 0.0)
    world.suffer(4)
    assert world.said[-1][0] < 40 * MIB
    for _ in range(60):
        world.read(3)
        world.governor.observe(CALM, world.clock.seconds)
    assert world.said[-1] == (40 * MIB, CONFIGURED)


def test_when_nobody_observes_any_more_only_the_configured_limit_holds() -> None:
    world = World()
    world.governor.observe(CALM, 0.0)
    world.suffer(10)
    world.governor.give_up()
    assert world.read(1) > 100 * MIB


def test_many_threads_at_once() -> None:
    world = World(Limits(rate=1 << 40))

    def work() -> None:
        for _ in range(2000):
            while world.governor.wait(MIB):
                pass
            world.governor.came(MIB, 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.governor._in_flight == 0
    assert world.governor._came == 8000 * MIB
