"""How much is under way at once, on disks and lines that are modelled."""

from __future__ import annotations

from collections import deque

import pytest

from vmconsole.runs.window import DELAY, LEAST, MIB, MOST, Window


def read(
    window: Window, seconds: float, *, speed: float, alone: float = 0.0, lanes: int = 1, most: int = 48
) -> tuple[int, float, float]:
    """A host that serves so many requests at a time, each lane at speed/lanes, each answer after `alone` more.

    Returns bytes that came, the longest an answer took in the first second, and in the last.
    """
    now, came, under_way = 0.0, 0, 0
    free, answers = [0.0] * lanes, deque[tuple[float, float]]()
    early = late = 0.0
    while now < seconds:
        while under_way < most and (not under_way or (under_way + 1) * MIB <= window.bytes):
            lane = free.index(min(free))
            free[lane] = max(free[lane], now) + MIB * lanes / speed
            answers.append((free[lane] + alone, now))
            under_way += 1
        when, sent = answers.popleft()
        now = max(now, when)
        window.came(MIB, when - sent, under_way * MIB)
        came, under_way = came + MIB, under_way - 1
        if now < 1:
            early = max(early, when - sent)
        if now > seconds - 1:
            late = max(late, when - sent)
    return came, early, late


def test_on_a_slow_disk_the_queue_stays_short() -> None:
    came, early, late = read(Window(), 10, speed=40 * MIB)
    assert early < 4 * DELAY, "and not the 1.2 seconds of 48 requests"
    assert late < 2.5 * DELAY
    assert came > 0.95 * 400 * MIB


@pytest.mark.parametrize("alone", [0.0002, 0.02])
def test_a_fast_host_is_read_as_fast_as_ever(alone: float) -> None:
    best = read(window := Window(), 2, speed=1000 * MIB, alone=alone)[0]
    unlimited = Window()
    unlimited.bytes = MOST
    assert best > 0.9 * read(unlimited, 2, speed=1000 * MIB, alone=alone)[0]
    assert window.bytes > 16 * MIB


def test_a_far_away_host_gets_as_much_as_its_line_holds() -> None:
    """A tenth of a second there and back: 48 requests fit into the line."""
    came, _, _ = read(Window(), 10, speed=1000 * MIB, alone=0.1)
    assert came > 0.8 * 10 * 48 * MIB / 0.148


def test_storage_that_takes_long_and_serves_many_at_once() -> None:
    """At first answers come from memory; then each takes 0.3 s, however many there are."""
    window = Window()
    read(window, 1, speed=1000 * MIB)
    came, _, _ = read(window, 20, speed=1600 * MIB, alone=0.3, lanes=16)
    assert came > 0.7 * 20 * 48 * MIB / 0.34


def test_a_window_that_is_not_used_does_not_grow() -> None:
    window = Window()
    for _ in range(100):
        window.came(MIB // 2, 0.001, MIB // 2)
    assert window.bytes == LEAST


def test_a_host_that_becomes_slow() -> None:
    window = Window()
    read(window, 1, speed=1000 * MIB)
    _, _, late = read(window, 10, speed=20 * MIB)
    assert late < 3 * DELAY
