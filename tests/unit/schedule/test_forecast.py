"""What a schedule comes to, before anything is done."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from order_fleets import HOUR, NIGHT, capacities, capacity, fleets, job, later, within

from vmconsole.schedule.forecast import Forecast, Peak, simulate
from vmconsole.schedule.jobs import HOST, REPOSITORY, Capacity, Job, Resource


def lines(forecast: Forecast) -> list[str]:
    return [
        f"{one.job.guest} {one.start:%H:%M}-{one.end:%H:%M} {one.why}".strip() for one in forecast.planned
    ]


def test_a_night_on_two_hosts():
    fleet = [
        job("db", "kvm1", seconds=2 * HOUR),
        job("web", "kvm1"),
        job("mail", "kvm2", seconds=HOUR),
        job("late", "kvm2", due=later(2 * HOUR)),
    ]
    forecast = simulate(fleet, capacity(main=2), NIGHT)
    assert lines(forecast) == [
        "db 22:00-00:00",
        "mail 22:00-23:00",
        "web 00:00-00:10 kvm1 was busy with db",
        "late 00:00-00:10",
    ]
    assert forecast.peaks[Resource(HOST, "kvm1")] == Peak(1, 1)
    assert forecast.peaks[Resource(REPOSITORY, "main")] == Peak(2, 2)
    assert forecast.total == Peak(2, 100)
    assert forecast.end == later(2 * HOUR + 600)
    assert forecast.missed == ()


def test_what_is_in_the_way_is_said():
    fleet = [job("a", "kvm1", seconds=700), job("b", "kvm2"), job("c", "kvm3")]
    assert lines(simulate(fleet, capacity(1), NIGHT))[1:] == [
        "b 22:11-22:21 as many guests as may be were being backed up (1)",
        "c 22:21-22:31 as many guests as may be were being backed up (1)",
    ]
    assert lines(simulate(fleet, capacity(main=1), NIGHT))[1:] == [
        "b 22:11-22:21 repository main was busy with a",
        "c 22:21-22:31 repository main was busy with b",
    ]


def test_deadlines_are_told_of():
    end = later(HOUR)
    fleet = [
        job("long", seconds=2 * HOUR, deadline=end),
        job("short", seconds=60, deadline=end),
        job("other", "kvm2", deadline=end),
    ]
    forecast = simulate(fleet, capacity(), NIGHT)
    assert [one.job.guest for one in forecast.late] == ["long"]
    assert [(one.job.guest, one.why) for one in forecast.left] == [("short", "kvm1 is busy with long")]
    assert [one.guest for one in forecast.missed] == ["short", "long"]


def test_what_can_never_start_is_left():
    forecast = simulate([job("a")], capacity(kvm1=0), NIGHT)
    assert forecast.planned == ()
    assert [one.why for one in forecast.left] == ["kvm1 takes no backups"]
    assert forecast.end is None


def test_nothing_to_do():
    assert simulate([], capacity(), NIGHT) == Forecast((), (), {}, Peak(0, 100))


def test_the_clock_change_is_no_hour_of_work():
    berlin = ZoneInfo("Europe/Berlin")
    evening = datetime(2026, 10, 24, 23, 0, tzinfo=berlin)
    (planned,) = simulate([job("a", seconds=6 * HOUR, due=evening)], capacity(), evening).planned
    assert planned.end == datetime(2026, 10, 25, 4, 0, tzinfo=berlin)
    assert planned.end.tzinfo is berlin


@given(fleets(until=5 * HOUR, windows=True), capacities())
def test_no_limit_is_exceeded_and_nobody_is_forgotten(fleet: list[Job], limits: Capacity):
    forecast = simulate(fleet, limits, NIGHT)
    for moment in {one.start for one in forecast.planned}:
        assert within((one.job for one in forecast.planned if one.start <= moment < one.end), limits)
    keys = [one.job.key for one in (*forecast.planned, *forecast.left)]
    assert sorted(keys) == sorted(one.key for one in fleet)
    assert all(one.job.deadline is not None for one in forecast.left)
    for one in forecast.planned:
        assert one.start >= max(one.job.due, NIGHT)
        assert one.job.deadline is None or one.start < one.job.deadline
        assert abs((one.end - one.start).total_seconds() - one.job.seconds) < 1e-5
        assert bool(one.why) == (one.start > max(one.job.due, NIGHT))


@given(fleets(until=5 * HOUR, windows=True), capacities())
def test_peaks_are_what_was_seen(fleet: list[Job], limits: Capacity):
    forecast = simulate(fleet, limits, NIGHT)
    seen: Counter[Resource] = Counter()
    for moment in {one.start for one in forecast.planned}:
        together = [one.job for one in forecast.planned if one.start <= moment < one.end]
        used = Counter(resource for one in together for resource in one.resources)
        seen = seen | used
    for resource, peak in forecast.peaks.items():
        assert seen[resource] <= peak.used <= peak.limit


@given(fleets(until=5 * HOUR, windows=True), capacities(), st.randoms(use_true_random=False))
def test_the_same_jobs_give_the_same_forecast(fleet: list[Job], limits: Capacity, dice: random.Random):
    assert simulate(dice.sample(fleet, len(fleet)), limits, NIGHT) == simulate(fleet, limits, NIGHT)


@given(fleets(), capacities())
def test_nobody_waits_without_need(fleet: list[Job], limits: Capacity):
    """At every start, what starts later did not fit as well."""
    planned = simulate(fleet, limits, NIGHT).planned
    for moment in {one.start for one in planned}:
        running = [one.job for one in planned if one.start <= moment < one.end]
        ends = any(one.start == one.end == moment for one in planned)
        for waiting in (one for one in planned if one.start > moment and not ends):
            assert not within([*running, waiting.job], limits)
    assert not planned or min(one.start for one in planned) == NIGHT
    assert timedelta(0) <= max((one.end for one in planned), default=NIGHT) - NIGHT
