"""From what is due to work, against a clock and hosts that do as told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fakes import Diary, FakeHypervisor, FakeRepository

from vmconsole.config.when import parse_when, parse_window
from vmconsole.errors import GuestBusy, GuestNotFound
from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import Guest, GuestKind, GuestState, HostInventory, HostKind
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.schedule import Schedule
from vmconsole.runs.work import Target, Work
from vmconsole.schedule.due import Slot
from vmconsole.schedule.jobs import HOST, UPLINK, Capacity, Resource
from vmconsole.schedule.queue import ScheduleQueue
from vmconsole.schedule.sizing import GUEST

TEN = datetime(2026, 11, 25, 22, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = TEN

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


class Memory:
    """A History of what the test says was done."""

    def __init__(self) -> None:
        self.records: list[BackupRecord] = []
        self.notes: dict[str, str] = {}

    def follow(self, group: str, schedule: str, rule: str) -> datetime:
        return datetime(2020, 1, 1, tzinfo=UTC)

    def note(self, key: str, value: str) -> None:
        self.notes[key] = value

    def noted(self, key: str):
        return (self.notes[key], TEN) if key in self.notes else None

    def of_slot(self, group: str, schedule: str, slot: datetime) -> list[BackupRecord]:
        return [
            record
            for record in reversed(self.records)
            if (record.group, record.schedule, record.slot) == (group, schedule, slot)
        ]

    def of_guest(self, uuid: str, limit: int = 100) -> list[BackupRecord]:
        return []

    def latest_good(self) -> dict:
        return {}


def vm(name: str, host: str = "kvm1") -> Guest:
    return Guest(f"uuid-{name}", "1", name, host, GuestKind.VM, GuestState.RUNNING)


class Fleet:
    def __init__(self, *guests: Guest) -> None:
        self.guests = list(guests)
        self.down: set[str] = set()
        self.looks = 0
        self.repository = FakeRepository(Diary())

    def look(self) -> list[HostInventory]:
        self.looks += 1
        hosts = {guest.host for guest in self.guests}
        return [
            HostInventory(
                host,
                HostKind.LIBVIRT,
                host not in self.down,
                "" if host not in self.down else f"{host} does not answer.",
                guests=tuple(guest for guest in self.guests if guest.host == host),
            )
            for host in sorted(hosts)
        ]

    def target(self, guest: Guest, slot: Slot) -> Target:
        return Target(
            guest,
            FakeHypervisor(Diary()),
            self.repository,
            group=slot.group.name,
            schedule=slot.schedule.name,
            slot=slot.time,
        )


def group(name: str = "daily", when: str = "daily 22:00", window: str = "", **more: object) -> Group:
    schedule = Schedule(name, "main", when, parse_when(when), parse_window(window) if window else None)
    return Group(name, more.pop("selector", Selector(guests=("*",))), "main", (schedule,), **more)  # type: ignore[arg-type]


class Lab:
    def __init__(self, *guests: Guest, groups: tuple[Group, ...] = (), per_host: int = 8) -> None:
        self.clock, self.history, self.fleet = Clock(), Memory(), Fleet(*guests)
        self.told: list[str] = []
        self.queue = ScheduleQueue(
            groups or (group(),),
            UTC,
            Capacity(8, {}, {HOST: per_host, GUEST: 1}),
            self.fleet,
            self.history,
            self.clock,
            began=lambda slot: self.told.append(f"began {slot.key}"),
        )

    def finish(self, work: Work, state: BackupState = BackupState.DONE, code: str = "") -> None:
        for target in work.targets:
            made = BackupRecord(
                len(self.history.records), "run", target.guest.uuid, target.guest.name, target.guest.host, "main",
                self.clock.time, state, target.group, target.schedule, target.slot, self.clock.time, code=code,
            )  # fmt: skip
            self.history.records.append(made)
        self.queue.done(work)

    def names(self, works) -> list[str]:
        return [", ".join(target.guest.name for target in work.targets) for work in works]


def test_all_that_is_due_is_handed_out_once_and_then_it_is_finished() -> None:
    lab = Lab(vm("a"), vm("b", "kvm2"))
    begun = lab.queue.start()
    assert sorted(lab.names(begun)) == ["a", "b"]
    assert lab.queue.start() == []
    assert lab.told == ["began daily/main"]
    for work in begun:
        lab.finish(work)
    assert lab.queue.pause() is None
    assert lab.history.notes == {"slot/daily/main": TEN.isoformat()}
    assert lab.queue.due() == []
    assert lab.fleet.looks == 1


def test_no_more_than_its_limit_on_a_host() -> None:
    lab = Lab(vm("a"), vm("b"), vm("c"), per_host=2)
    first = lab.queue.start()
    assert len(first) == 2
    lab.finish(first[0])
    assert len(lab.queue.start()) == 1


def test_a_guest_in_two_groups_is_done_for_both_but_not_at_the_same_time() -> None:
    lab = Lab(vm("a"), groups=(group(), group("hourly", "hourly")))
    (first,) = lab.queue.start()
    lab.finish(first)
    (second,) = lab.queue.start()
    assert {first.targets[0].group, second.targets[0].group} == {"daily", "hourly"}


def test_after_a_crash_only_the_rest_is_done() -> None:
    lab = Lab(vm("a"), vm("b"), vm("c"))
    for work, state in zip(
        lab.queue.start(), (BackupState.DONE, BackupState.DIED, BackupState.FAILED), strict=True
    ):
        lab.finish(work, state)
    again = Lab(vm("a"), vm("b"), vm("c"))
    again.history = lab.history
    again.queue._history = lab.history  # type: ignore[assignment]
    died = next(record.guest for record in lab.history.records if record.state is BackupState.DIED)
    assert again.names(again.queue.start()) == [died]


def test_what_becomes_due_meanwhile_is_done_as_well() -> None:
    lab = Lab(vm("a"), groups=(group(), group("later", "daily 22:30")))
    lab.history.note("slot/later/main", (TEN - timedelta(hours=23, minutes=30)).isoformat())
    (first,) = lab.queue.start()
    lab.clock.time += timedelta(minutes=31)
    assert lab.queue.start() == []  # the guest is still at work
    lab.finish(first)
    (second,) = lab.queue.start()
    assert second.targets[0].group == "later"


def test_a_later_time_of_the_same_schedule_replaces_what_still_waits() -> None:
    lab = Lab(vm("a"), vm("b"), groups=(group(when="hourly"),), per_host=1)
    (first,) = lab.queue.start()
    lab.clock.time += timedelta(hours=1)
    assert lab.queue.start() == []
    lab.finish(first)
    done = []
    while works := lab.queue.start():
        done += works
        for work in works:
            lab.finish(work)
    assert sorted(lab.names(done)) == ["a", "b"]
    assert {target.slot for work in done for target in work.targets} == {TEN + timedelta(hours=1)}


class TestTriedAgain:
    def test_a_busy_guest_after_five_minutes_wherever_it_is_then(self) -> None:
        lab = Lab(vm("a"), vm("x", "kvm2"))
        works = {work.targets[0].guest.name: work for work in lab.queue.start()}
        until = lab.queue.again(works["a"], GuestBusy("in migration"))
        assert until == TEN + timedelta(minutes=5)
        lab.finish(works["a"], BackupState.POSTPONED)
        lab.finish(works["x"])
        assert lab.queue.start() == []
        assert lab.queue.pause() == 60.0
        lab.clock.time = until
        lab.fleet.guests[0] = vm("a", "kvm2")
        (again,) = lab.queue.start()
        assert again.targets[0].guest.host == "kvm2"

    def test_a_guest_that_is_not_there_is_looked_for_at_once(self) -> None:
        lab = Lab(vm("a"))
        (work,) = lab.queue.start()
        assert lab.queue.again(work, GuestNotFound("a is not on kvm1")) == TEN + timedelta(seconds=20)

    def test_until_its_window_closes(self) -> None:
        lab = Lab(vm("a"), groups=(group(window="22:00-22:04"),))
        (work,) = lab.queue.start()
        assert lab.queue.again(work, GuestBusy("locked")) is None

    def test_or_for_two_hours_where_there_is_none(self) -> None:
        lab = Lab(vm("a"))
        (work,) = lab.queue.start()
        tries = 0
        while (until := lab.queue.again(work, GuestBusy("locked"))) is not None:
            lab.finish(work, BackupState.POSTPONED)
            lab.clock.time = until
            (work,) = lab.queue.start()
            tries += 1
        assert tries == 23


def test_work_whose_window_closes_is_told_and_not_begun() -> None:
    lab = Lab(vm("a"), vm("b"), groups=(group(window="22:00-23:00"),), per_host=1)
    (first,) = lab.queue.start()
    lab.clock.time += timedelta(minutes=61)
    assert lab.queue.start() == []
    ((late, error),) = lab.queue.expired()
    assert "the window of daily/main closed before its turn came (kvm1 is busy with" in error.message
    assert late.targets[0].guest.name != first.targets[0].guest.name
    assert lab.queue.expired() == []


def test_guests_of_a_dead_host_are_told_and_not_waited_for() -> None:
    lab = Lab(vm("a"), vm("b", "kvm2"))
    lab.fleet.down = {"kvm2"}
    begun = lab.queue.start()
    assert lab.names(begun) == ["a"]
    ((lost, error),) = lab.queue.expired()
    assert (lost.targets[0].guest.name, error.exit_code) == ("b", 20)
    lab.finish(lost, BackupState.FAILED, "HostUnreachable")
    lab.finish(begun[0])
    assert lab.queue.pause() is None
    assert lab.history.notes == {}, "it is tried again when the host is back"


def test_a_group_that_is_cut_together_is_one_work_on_all_its_hosts() -> None:
    single = group("single", selector=Selector(guests=("x",)))
    guests = (vm("a"), vm("b", "kvm2"), vm("c", "kvm2"), vm("x", "kvm2"))
    both = group(together=True, selector=Selector(guests=("a", "b", "c")))
    lab = Lab(*guests, groups=(both, single), per_host=1)
    (first,) = lab.queue.start()
    assert lab.queue.start() == []
    lab.finish(first)
    (second,) = lab.queue.start()
    assert sorted(lab.names([first, second])) == ["a, b, c", "x"]


def test_a_guest_seen_on_two_hosts_is_where_it_runs() -> None:
    there = replace(vm("a", "kvm2"), state=GuestState.OFF)
    lab = Lab(there, vm("a"))
    (work,) = lab.queue.start()
    assert work.targets[0].guest.host == "kvm1"


def test_hosts_behind_one_line_take_turns() -> None:
    lab = Lab(vm("a"), vm("b", "kvm2"), vm("c", "kvm3"))
    lab.queue = ScheduleQueue(
        (group(),), UTC, Capacity(8, {Resource(UPLINK, "branch"): 1}), lab.fleet, lab.history, lab.clock
    )
    plain = lab.fleet.target
    lines = {"kvm1": "branch", "kvm2": "branch", "kvm3": ""}
    lab.fleet.target = lambda guest, slot: replace(plain(guest, slot), uplink=lines[guest.host])  # type: ignore[method-assign]
    first = lab.queue.start()
    assert len(first) == 2
    assert "c" in lab.names(first)
