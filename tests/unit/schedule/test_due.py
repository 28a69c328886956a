from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from vmconsole.config.when import parse_when, parse_window
from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import Disk, Guest, GuestKind, GuestState
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.schedule import Schedule
from vmconsole.schedule.due import covered, due_slots, next_due, overdue_after, still_due
from vmconsole.schedule.expect import expect, seconds_for

BERLIN = ZoneInfo("Europe/Berlin")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def group(when: str = "daily 22:00", **more: object) -> Group:
    window = more.pop("window", None)
    schedule = Schedule(
        "daily",
        "main",
        when,
        parse_when(when),
        parse_window(window) if window else None,
        **more,  # type: ignore[arg-type]
    )
    return Group("daily", Selector(guests=("*",)), "main", (schedule,))


def due(made: Group, now: str, since: datetime = LONG_AGO, finished: datetime | None = None):
    found = due_slots([made], at(now), BERLIN, lambda _: since, lambda _: finished)
    return found[0] if found else None


def test_the_newest_time_is_due_until_it_is_finished() -> None:
    slot = due(group(), "2026-11-25 22:00")
    assert slot is not None
    assert (slot.time, slot.opens, slot.closes) == (at("2026-11-25 22:00"), at("2026-11-25 22:00"), None)
    assert due(group(), "2026-11-25 22:00", finished=at("2026-11-25 22:00")) is None
    assert due(group(), "2026-11-26 21:59", finished=at("2026-11-25 22:00")) is None
    assert due(group(), "2026-11-26 22:00", finished=at("2026-11-25 22:00")) is not None


def test_a_new_schedule_is_not_late_for_times_before_it_was_made() -> None:
    assert due(group(), "2026-11-25 23:00", since=at("2026-11-25 22:30")) is None
    assert due(group(), "2026-11-26 22:00", since=at("2026-11-25 22:30")) is not None


def test_of_several_missed_runs_one_is_caught_up() -> None:
    """The host that runs the schedule was off for three days."""
    slot = due(group(), "2026-11-25 12:00", finished=at("2026-11-21 22:00"))
    assert slot is not None
    assert slot.time == at("2026-11-24 22:00")
    assert slot.late == timedelta(hours=14)


def test_a_missed_run_waits_for_the_next_window() -> None:
    nightly = group(window="22:00-06:00")
    during = due(nightly, "2026-11-25 03:00")
    assert during is not None
    assert (during.opens, during.closes) == (at("2026-11-24 22:00"), at("2026-11-25 06:00"))
    after = due(nightly, "2026-11-25 12:00")
    assert after is not None
    assert (after.time, after.opens) == (at("2026-11-24 22:00"), at("2026-11-25 22:00"))
    assert after.closes == at("2026-11-26 06:00")


def test_or_is_left_out() -> None:
    assert due(group(window="22:00-06:00", catch_up=False), "2026-11-25 12:00") is None
    assert due(group(window="22:00-06:00", catch_up=False), "2026-11-25 03:00") is not None


def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    assert due(group(), "2026-11-25 21:00", finished=at("2026-11-25 22:00")) is None
    assert due(group(), "2026-11-25 22:30", finished=at("2026-11-25 22:00")) is None


def test_the_longest_and_the_shortest_day() -> None:
    for day, last in (("2026-03-29", "2026-03-28"), ("2026-10-25", "2026-10-24")):
        slot = due(group("daily 02:30"), f"{day} 12:00", finished=at(f"{last} 02:30"))
        assert slot is not None
        assert slot.time.astimezone(BERLIN).date().isoformat() == day


@pytest.mark.parametrize(("now", "expected"), [("2026-12-01 22:00", False), ("2026-12-24 22:00", True)])
def test_a_pause_ends(now: str, expected: bool) -> None:
    paused = group(pause=at("2026-12-24 00:00"))
    assert (due(paused, now) is not None) == expected


def test_jitter_is_within_its_limit_and_differs() -> None:
    slot = due(group(jitter=600.0), "2026-11-25 22:00")
    assert slot is not None
    starts = {slot.starts(vm(f"u{number}")) - slot.time for number in range(50)}
    assert len(starts) > 40
    assert max(starts) <= timedelta(minutes=10)


def vm(uuid: str = "u", host: str = "kvm1", **more: object) -> Guest:
    return Guest(uuid, "1", f"vm-{uuid}", host, GuestKind.VM, GuestState.RUNNING, **more)  # type: ignore[arg-type]


def record(state: BackupState, **more: object) -> BackupRecord:
    made = BackupRecord(1, "run", "u", "vm-u", "kvm1", "main", at("2026-11-25 22:00"), state)
    return replace(made, ended=at("2026-11-25 22:01"), **more)  # type: ignore[arg-type]


class TestStillDue:
    def due(self, *records: BackupRecord, lost: tuple[str, ...] = (), now: str = "2026-11-25 22:30") -> bool:
        return bool(still_due([vm()], records, lost, at(now)))

    def test_what_was_done_or_is_being_done_is_not(self) -> None:
        assert self.due()
        for state in (BackupState.DONE, BackupState.WARNINGS, BackupState.RUNNING, BackupState.FAILED):
            assert not self.due(record(state)), state

    def test_what_was_cut_short_is(self) -> None:
        for state in (BackupState.CANCELLED, BackupState.DIED, BackupState.POSTPONED):
            assert self.due(record(state)), state

    def test_a_guest_over_which_runs_die_is_given_up(self) -> None:
        died = record(BackupState.DIED)
        assert self.due(died, died)
        assert not self.due(died, died, died)

    def test_a_host_that_is_back_gets_its_turn_and_one_that_is_not_does_not(self) -> None:
        lost = record(BackupState.FAILED, code="HostUnreachable")
        assert self.due(lost)
        assert not self.due(lost, lost=("kvm1",))
        assert not self.due(lost, now="2026-11-25 22:05")

    def test_but_not_for_ever(self) -> None:
        lost = record(BackupState.FAILED, code="RepositoryLocked")
        assert not self.due(lost, lost, now="2026-11-25 22:15")
        assert self.due(lost, lost, now="2026-11-25 22:25")
        assert not self.due(*[lost] * 6, now="2026-12-25 22:00")


def test_the_next_time_of_all() -> None:
    found = next_due([group(), group("daily 12:30")], at("2026-11-25 12:00"), BERLIN)
    assert found is not None
    assert (found[0], found[1].text) == (at("2026-11-25 12:30"), "daily 12:30")
    paused = group(pause=datetime.max.replace(tzinfo=UTC))
    assert next_due([paused], at("2026-11-25 12:00"), BERLIN) is None
    for_a_while = group(pause=at("2026-12-01 00:00"))
    found = next_due([for_a_while], at("2026-11-25 12:00"), BERLIN)
    assert found is not None
    assert found[0] == at("2026-12-01 22:00")


def test_when_a_guest_is_overdue() -> None:
    now = at("2026-11-25 12:00")
    assert overdue_after(group(), now, BERLIN) == 26.4 * 3600
    assert overdue_after(replace(group(), overdue_after=7.0), now, BERLIN) == 7.0
    assert overdue_after(replace(group(), schedules=()), now, BERLIN) is None


def test_which_groups_cover_a_guest() -> None:
    other = Group("web", Selector(guests=("vm-u",)), "main")
    assert covered([group(), other], [vm(), vm("x")]) == {"u": ("daily", "web"), "x": ("daily",)}


def test_expectations_come_from_what_was_measured() -> None:
    guest = vm(disks=(Disk("vda", 100 << 30, "qcow2", "/a"),))
    unknown = expect(guest, [], full=False)
    assert not unknown.known
    assert unknown.bytes == 50 << 30
    good = [
        record(BackupState.DONE, mode="incremental", seconds=float(seconds), bytes_read=seconds << 27)
        for seconds in (10, 30, 20)
    ]
    found = expect(guest, [record(BackupState.FAILED), *good], full=False)
    assert (found.seconds, found.bytes, found.known) == (20.0, 20 << 27, True)
    assert not expect(guest, good, full=True).known
    assert seconds_for(1 << 30, good) == pytest.approx(10 + 8, rel=0.01)
