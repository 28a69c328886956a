"""Several guests at a time: what goes on beside what, what is tried again, what is told once."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fakes import Diary, FakeClock, FakeHypervisor, FakeRepository, FakeStore, guest

from vmconsole.errors import (
    EXIT_DONE,
    Cancelled,
    GuestBusy,
    NotTogether,
    ParentUnusable,
    RepositoryLocked,
    VmconsoleError,
)
from vmconsole.events import CutTogether, GuestFailed, GuestPostponed, PointMade, StepStarted, Warned
from vmconsole.interfaces import Cancel
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.runs.runner import Runner
from vmconsole.runs.work import Target, Work

LATER = datetime(2026, 11, 20, 2, 5, tzinfo=UTC)


class Bag:
    """All at once; what could not be done is done once more."""

    one_by_one = False

    def __init__(self, *works: Work, tries: int = 0) -> None:
        self.waiting = deque(works)
        self.tries = tries
        self.put_back: list[Work] = []
        self.ended: list[str] = []

    def start(self) -> list[Work]:
        begun, self.waiting = list(self.waiting), deque()
        return begun

    def done(self, work: Work) -> None:
        self.ended.append(work.key)

    def again(self, work: Work, error: VmconsoleError) -> datetime | None:
        if self.tries == 0:
            return None
        self.tries -= 1
        self.put_back.append(work)
        return LATER

    def expired(self) -> tuple[()]:
        return ()

    def pause(self) -> float | None:
        self.waiting, self.put_back = deque(self.put_back), []
        return 0.0 if self.waiting else None


class Memory:
    """A History that keeps what it was told."""

    def __init__(self) -> None:
        self.records: dict[int, BackupRecord] = {}

    def begin(self, record: BackupRecord) -> int:
        number = len(self.records) + 1
        self.records[number] = replace(record, id=number)
        return number

    def end(self, record: BackupRecord) -> None:
        self.records[record.id] = record

    def states(self) -> list[tuple[str, BackupState]]:
        return [(record.guest, record.state) for record in self.records.values()]


class Together(FakeHypervisor):
    """Freezes and cuts as the real ones do, with the others."""

    freezes = True

    def export(self, plan, context):
        if context.together is not None:
            context.together.ready()
            context.together.frozen(5 if self.freezes else None)
            context.together.cut()
        return super().export(plan, context)


class Lab:
    def __init__(self) -> None:
        self.store, self.history, self.events, self.cancel = FakeStore(), Memory(), [], Cancel()
        self.repository = FakeRepository(Diary())

    def target(self, name: str, host: FakeHypervisor | None = None, **more: object) -> Target:
        host = host or FakeHypervisor(Diary())
        uuid = f"uuid-{name}"
        real = host.plan
        host.plan = lambda _uuid, *rest: replace(real(_uuid, *rest), guest=guest(name, uuid))  # type: ignore[method-assign]
        return Target(guest(name, uuid), host, more.pop("repository", self.repository), **more)

    def run(self, bag: Bag):
        runner = Runner(self.store, FakeClock(), self.cancel, [self.events.append], self.history)
        return runner.work(bag, "backup", "test")

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_guests_are_read_at_the_same_time(lab: Lab) -> None:
    both = threading.Barrier(2, timeout=10)

    class Waits(FakeHypervisor):
        def export(self, plan, context):
            both.wait()
            return super().export(plan, context)

    works = [Work(name, (lab.target(name, Waits(Diary())),)) for name in ("a", "b")]
    outcome = lab.run(Bag(*works))
    assert outcome.exit_code == EXIT_DONE
    assert {point.guest for point in outcome.points} == {"a", "b"}
    assert {point.guest for point in lab.store.saved_points["main"]} == {"a", "b"}
    assert lab.store.claims == {}


def test_what_is_told_of_a_guest_says_which_one_of_that_name(lab: Lab) -> None:
    lab.run(Bag(Work("a", (lab.target("a"),)), Work("b", (lab.target("b"),))))
    told = lab.of(StepStarted) + lab.of(PointMade)
    assert {(event.guest, event.uuid) for event in told} == {("a", "uuid-a"), ("b", "uuid-b")}


def test_what_waits_for_its_turn_gets_it(lab: Lab) -> None:
    """One host, one guest at a time: whoever ends last is not the last."""

    class Turns(Bag):
        busy = False

        def start(self) -> list[Work]:
            if self.busy or not self.waiting:
                return []
            self.busy = True
            return [self.waiting.popleft()]

        def done(self, work: Work) -> None:
            super().done(work)
            self.busy = False

        def pause(self) -> float | None:
            return None

    outcome = lab.run(Turns(*(Work(name, (lab.target(name),)) for name in "abc")))
    assert [point.guest for point in outcome.points] == ["a", "b", "c"]


def test_what_becomes_of_each_is_remembered(lab: Lab) -> None:
    bad = FakeHypervisor(Diary())
    bad.prepare = lambda export: export.fail.update(release=GuestBusy("busy"))
    slot = datetime(2026, 11, 20, 1, tzinfo=UTC)
    good = lab.target("good", group="daily", schedule="night", slot=slot)
    lab.run(Bag(Work("1", (good,)), Work("2", (lab.target("bad", bad),))))
    assert dict(lab.history.states()) == {"good": BackupState.DONE, "bad": BackupState.FAILED}
    made = next(record for record in lab.history.records.values() if record.guest == "good")
    assert (made.group, made.schedule, made.slot, made.mode) == ("daily", "night", slot, "full")
    assert made.bytes_read == 3 << 20
    assert made.archive == lab.repository.saved[0].archive
    assert (lab.repository.saved[0].group, lab.repository.saved[0].schedule) == ("daily", "night")


def test_a_busy_guest_is_tried_again_and_not_a_failure(lab: Lab) -> None:
    host = FakeHypervisor(Diary())
    real, tries = host.plan, iter([GuestBusy("web is locked: migrate."), None])

    def plan(*arguments: object):
        error = next(tries)
        if error:
            raise error
        return real(*arguments)

    host.plan = plan  # type: ignore[method-assign]
    outcome = lab.run(Bag(Work("1", (lab.target("web", host),)), tries=1))
    assert outcome.exit_code == EXIT_DONE
    assert [state for _, state in lab.history.states()] == [BackupState.POSTPONED, BackupState.DONE]
    assert [(event.guest, event.until) for event in lab.of(GuestPostponed)] == [("web", LATER.isoformat())]


def test_a_busy_guest_is_a_failure_in_the_end(lab: Lab) -> None:
    host = FakeHypervisor(Diary())
    host.prepare = lambda export: export.fail.update(release=GuestBusy("locked"))
    outcome = lab.run(Bag(Work("1", (lab.target("web", host),)), tries=2))
    assert outcome.exit_code == 1
    assert len(lab.of(GuestPostponed)) == 2
    assert len(lab.of(GuestFailed)) == 1


def test_a_repository_that_cannot_be_opened_is_told_once(lab: Lab) -> None:
    class Locked(FakeRepository):
        opened = 0

        def writer(self, context):
            Locked.opened += 1
            raise RepositoryLocked("main is locked by backup1.")

    locked = Locked(Diary())
    works = [Work(name, (lab.target(name, repository=locked),)) for name in "abc"]
    outcome = lab.run(Bag(*works))
    assert Locked.opened == 1
    assert outcome.exit_code == 11
    assert [(event.guest, event.error) for event in lab.of(GuestFailed)] == [("main", "RepositoryLocked")]
    assert {state for _, state in lab.history.states()} == {BackupState.FAILED}


def test_a_stop_ends_all_that_is_under_way(lab: Lab) -> None:
    class Stops(FakeHypervisor):
        def export(self, plan, context):
            lab.cancel.set("Stopped by SIGTERM.")
            context.cancel.check()

    class Waits(FakeHypervisor):
        def export(self, plan, context):
            context.cancel.wait(30)

    bag = Bag(Work("1", (lab.target("a", Stops(Diary())),)), Work("2", (lab.target("b", Waits(Diary())),)))
    outcome = lab.run(bag)
    assert outcome.exit_code == 130
    assert [state for _, state in lab.history.states()] == [BackupState.CANCELLED] * 2
    assert isinstance(outcome.errors[0][1], Cancelled)
    assert sorted(bag.ended) == ["1", "2"]


def test_what_fails_while_a_stop_is_carried_out_is_remembered(lab: Lab) -> None:
    stopped = threading.Event()

    class Bug(FakeHypervisor):
        def export(self, plan, context):
            stopped.set()
            raise ZeroDivisionError

    class Fails(FakeHypervisor):
        def export(self, plan, context):
            stopped.wait(10)
            while not context.cancel.is_set():
                pass
            raise GuestBusy("web is locked.")

    with pytest.raises(ZeroDivisionError):
        lab.run(
            Bag(Work("1", (lab.target("a", Bug(Diary())),)), Work("2", (lab.target("b", Fails(Diary())),)))
        )
    assert dict(lab.history.states()) == {"a": BackupState.FAILED, "b": BackupState.FAILED}


def test_a_bug_in_one_thread_is_not_lost(lab: Lab) -> None:
    broken = FakeHypervisor(Diary())
    broken.prepare = lambda export: (_ for _ in ()).throw(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        lab.run(Bag(Work("1", (lab.target("a", broken),)), Work("2", (lab.target("b"),))))
    assert dict(lab.history.states())["a"] is BackupState.FAILED


class TestTogether:
    def work(self, lab: Lab, *hosts: FakeHypervisor, apart: bool = False) -> Work:
        names = "abc"[: len(hosts)]
        return Work("all", tuple(lab.target(*pair) for pair in zip(names, hosts, strict=True)), apart)

    def test_the_skew_is_in_each_point(self, lab: Lab) -> None:
        outcome = lab.run(Bag(self.work(lab, *(Together(Diary()) for _ in range(3)))))
        assert outcome.exit_code == EXIT_DONE
        (told,) = lab.of(CutTogether)
        assert told.guests == ("a", "b", "c")
        for point in outcome.points:
            assert point.together == {"guests": ["a", "b", "c"], "skew_ms": told.skew_ms}

    def test_one_that_cannot_be_frozen_fails_all(self, lab: Lab) -> None:
        hosts = [Together(Diary()) for _ in range(3)]
        hosts[1].freezes = False
        outcome = lab.run(Bag(self.work(lab, *hosts)))
        assert outcome.points == []
        assert {type(error) for _, error in outcome.errors} == {NotTogether}
        assert lab.repository.saved == []

    def test_or_each_is_backed_up_by_itself(self, lab: Lab) -> None:
        hosts = [Together(Diary()) for _ in range(3)]
        hosts[1].freezes = False
        outcome = lab.run(Bag(self.work(lab, *hosts, apart=True)))
        assert {point.guest for point in outcome.points} == {"a", "b", "c"}
        assert all(point.together == {} for point in outcome.points)
        assert len(lab.of(Warned)) == 1
        assert "b could not be frozen" in lab.of(Warned)[0].message
        assert len(lab.of(PointMade)) == 3

    def test_a_busy_one_is_waited_for_by_all(self, lab: Lab) -> None:
        hosts = [Together(Diary()) for _ in range(2)]
        real, tries = hosts[0].plan, iter([GuestBusy("a is locked."), None])

        def plan(*arguments: object):
            error = next(tries)
            if error:
                raise error
            return real(*arguments)

        hosts[0].plan = plan  # type: ignore[method-assign]
        outcome = lab.run(Bag(self.work(lab, *hosts), tries=1))
        assert {point.guest for point in outcome.points} == {"a", "b"}
        assert [event.guest for event in lab.of(GuestPostponed)] == ["a"]

    @pytest.mark.timeout(60)
    def test_nobody_waits_for_one_that_fails_before_it_began(self, lab: Lab) -> None:
        real = lab.history.begin

        def begin(record: BackupRecord) -> int:
            if record.guest == "b":
                raise ZeroDivisionError
            return real(record)

        lab.history.begin = begin  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            lab.run(Bag(self.work(lab, *(Together(Diary()) for _ in range(3)))))
        assert dict(lab.history.states()) == {"a": BackupState.FAILED, "c": BackupState.FAILED}

    @pytest.mark.timeout(60)
    def test_a_stop_ends_those_that_wait(self, lab: Lab) -> None:
        """One is stuck on its host; the others are frozen and wait for it for as long as the budget lets them."""

        class Stuck(Together):
            def export(self, plan, context):
                context.together.ready()
                context.cancel.set("Enough.")
                for other in hosts[:2]:
                    assert other.thawed.wait(20)
                context.cancel.check()

        class Waits(Together):
            def __init__(self) -> None:
                super().__init__(Diary())
                self.thawed = threading.Event()

            def export(self, plan, context):
                try:
                    return super().export(plan, context)
                finally:
                    self.thawed.set()

        hosts = [Waits(), Waits(), Stuck(Diary())]
        outcome = lab.run(Bag(self.work(lab, *hosts)))
        assert outcome.exit_code == 130
        assert [state for _, state in lab.history.states()] == [BackupState.CANCELLED] * 3

    def test_what_fails_after_the_cut_fails_alone(self, lab: Lab) -> None:
        class Breaks(Together):
            def export(self, plan, context):
                super().export(plan, context)
                context.together.result()
                raise GuestBusy("The stream broke.")

        outcome = lab.run(Bag(self.work(lab, Together(Diary()), Breaks(Diary()), Together(Diary()))))
        assert {point.guest for point in outcome.points} == {"a", "c"}
        assert [name for name, _ in outcome.errors] == ["b"]
        assert len(lab.of(CutTogether)) == 1

    def test_who_cannot_be_built_upon_its_parent_is_read_again_alone(self, lab: Lab) -> None:
        class Unusable(Together):
            def export(self, plan, context):
                made = super().export(plan, context)
                if context.together is not None:
                    context.together.result()
                    raise ParentUnusable("Its parent lost chunks.")
                return made

        outcome = lab.run(Bag(self.work(lab, Together(Diary()), Unusable(Diary()))))
        assert outcome.errors == []
        found = {point.guest: point.together for point in outcome.points}
        assert found["a"]
        assert found["b"] == {}
        assert "Everything is read" in lab.of(Warned)[0].message
