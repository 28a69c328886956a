"""What the schedules come to in the hours ahead."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import fakes

from vmconsole.config.when import parse_when
from vmconsole.model.group import Group, Selector
from vmconsole.model.schedule import Schedule
from vmconsole.runs.work import Target
from vmconsole.schedule.jobs import HOST, Capacity, Resource
from vmconsole.schedule.outlook import look_ahead

NOW = datetime(2026, 11, 21, 20, 30, tzinfo=UTC)
GUESTS = [fakes.guest(f"web-{number}", f"{number:08x}-0000-4000-8000-000000000001") for number in range(3)]


def group(*rules, together=False, pause=None):
    schedules = tuple(
        Schedule("daily", f"s{number}", rule, parse_when(rule), pause=pause)
        for number, rule in enumerate(rules)
    )
    return Group("daily", Selector(guests=("web-*",)), "main", schedules, together=together)


def ahead(one, hours=24):
    diary = fakes.Diary()
    host, repository = fakes.FakeHypervisor(diary), fakes.FakeRepository(diary)
    capacity = Capacity(8, {Resource(HOST, "kvm1"): 1})
    until = NOW + timedelta(hours=hours)
    found = look_ahead(
        [one],
        GUESTS,
        NOW,
        until,
        UTC,
        capacity,
        lambda guest, slot: Target(guest, host, repository),
        lambda uuid: [],
    )
    assert diary == [], "nothing is asked"
    return found


def test_every_guest_once_for_every_time():
    found = ahead(group("daily 22:00", "every 6 h"))
    assert len(found.forecast.planned) == 3 * (1 + 4)
    assert set(found.groups.values()) == {"daily"}
    assert all(planned.start >= NOW for planned in found.forecast.planned)


def test_a_host_does_one_after_the_other():
    planned = ahead(group("daily 22:00")).forecast.planned
    assert [work.start >= before.end for before, work in itertools.pairwise(planned)] == [
        True,
        True,
    ]
    assert planned[1].why == "kvm1 was busy with web-0"


def test_guests_that_are_cut_together_are_one_piece_of_work():
    assert len(ahead(group("daily 22:00", together=True)).forecast.planned) == 1


def test_nothing_is_due_while_paused():
    assert ahead(group("daily 22:00", pause=NOW + timedelta(days=2))).forecast.planned == ()
    assert ahead(replace(group("daily 22:00"), schedules=())).forecast.planned == ()
