"""The threads that look at a host: hosts that answer, fail, hang, and what it means for the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fakes import Diary, FakeHypervisor

from vmconsole.errors import HostError
from vmconsole.events import Event, Throttled
from vmconsole.interfaces import UNHURRIED, Pace
from vmconsole.model.guest import HostLoad
from vmconsole.model.limits import Limits
from vmconsole.model.vitals import Vitals
from vmconsole.runs import watching
from vmconsole.runs.allowance import Allowance
from vmconsole.runs.governor import CONFIGURED
from vmconsole.runs.watching import watched

MIB = 1 << 20


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class Host(FakeHypervisor):
    """answer: what a look returns, raises, or does before it returns."""

    def __init__(self, answer: Callable[[int], Vitals]) -> None:
        super().__init__(Diary())
        self._answer = answer
        self.asked: list[list[str]] = []

    def vitals(self, uuids: Any) -> Vitals:
        self.asked.append(list(uuids))
        return self._answer(len(self.asked))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.02)
    monkeypatch.setattr(watching, "FIRST_INTERVAL", 0.02)
    monkeypatch.setattr(watching, "SLOW", 0.1)
    monkeypatch.setattr(watching, "_SHARE", 1)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while [thread for thread in threading.enumerate() if thread.name.startswith("headroom")]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def watch(host: Host, events: list[Event], limits: Limits = Limits(), **more: Any) -> Any:  # noqa: B008
    total = Allowance(more.pop("total", Limits()), UTC, RealClock())
    return watched(host, ["a"], limits, total, UTC, RealClock(), events.append, "run1", **more)


def read_until(pace: Pace, done: Callable[[], bool]) -> None:
    """Read as if there were a host that gives 1 GB/s."""
    deadline = time.monotonic() + 5
    while not done():
        assert time.monotonic() < deadline
        if not pace.wait(MIB):
            pace.came(MIB, 0.001)
        time.sleep(0.001)


def calm(number: int) -> Vitals:
    return Vitals(HostLoad(0.0, 0.0, 0.0))


def test_switched_off_and_without_limits_there_is_nothing() -> None:
    host = Host(calm)
    with watch(host, [], enabled=False) as pace:
        assert pace is UNHURRIED
    assert host.asked == []


def test_switched_off_limits_hold_and_nobody_looks() -> None:
    host, events = Host(calm), list[Event]()
    with watch(host, events, Limits(rate=5 * MIB), enabled=False) as pace:
        assert pace.limit() == 5 * MIB
        time.sleep(0.05)
    assert host.asked == []
    assert events == [Throttled("run1", "kvm1", 5 * MIB, CONFIGURED)]


def test_a_limit_of_everything_holds_too() -> None:
    with watch(Host(calm), [], total=Limits(rate=7 * MIB), enabled=False) as pace:
        assert pace.limit() == 7 * MIB


def test_it_looks_at_the_guests_of_the_host_and_a_calm_one_is_read_fast() -> None:
    host, events = Host(calm), list[Event]()
    with watch(host, events) as pace:
        read_until(pace, lambda: len(host.asked) > 5)
    assert host.asked[0] == ["a"]
    assert events == []


def test_a_host_under_pressure_is_read_slowly() -> None:
    host = Host(lambda number: calm(number) if number < 3 else Vitals(HostLoad(0.0, 0.0, 0.5)))
    events: list[Event] = []
    with watch(host, events, name="pve/pve1") as pace:
        read_until(pace, lambda: bool(events))
    assert isinstance(events[0], Throttled)
    assert (events[0].run, events[0].host) == ("run1", "pve/pve1")
    assert events[0].reason == "it waits for memory 50 % of the time"


def test_looks_that_fail_change_nothing() -> None:
    def fails(number: int) -> Vitals:
        raise HostError("virsh is missing") if number % 2 else ValueError("a bug")

    host, events = Host(fails), list[Event]()
    with watch(host, events) as pace:
        read_until(pace, lambda: len(host.asked) > 8)
        assert pace.wait(1 << 30) == 0
    assert events == []


def test_a_host_that_does_not_answer_in_time_suffers() -> None:
    held = threading.Event()

    def hangs(number: int) -> Vitals:
        if number > 3:
            held.wait(10)
        return calm(number)

    events: list[Event] = []
    try:
        with watch(Host(hangs), events) as pace:
            read_until(pace, lambda: bool(events))
            began = time.monotonic()
        assert time.monotonic() - began < 3, "the end of the run does not wait for it"
    finally:
        held.set()
    assert isinstance(events[0], Throttled)
    assert events[0].reason == "it does not answer in time"


def test_the_first_look_may_take_its_time() -> None:
    """It has to connect."""

    def connects(number: int) -> Vitals:
        time.sleep(0.3 if number == 1 else 0)
        return calm(number)

    host, events = Host(connects), list[Event]()
    with watch(host, events) as pace:
        read_until(pace, lambda: len(host.asked) > 3)
    assert events == []


def test_the_run_s_own_failure_is_raised() -> None:
    with pytest.raises(HostError, match="read error"), watch(Host(calm), []):
        raise HostError("read error")
