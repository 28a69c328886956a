"""What dead runs left is undone before the next backup, and what cannot be undone is said."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fakes import Diary, FakeClock, FakeHypervisor, FakeRepository, FakeStore, guest

from vmconsole.errors import EXIT_DONE, EXIT_WARNINGS, HostUnreachable
from vmconsole.events import Warned
from vmconsole.interfaces import Cancel
from vmconsole.model.run import JournalEntry
from vmconsole.runs.cleanup import clean
from vmconsole.runs.runner import Runner, Target


class Host(FakeHypervisor):
    """cleaned: ids of the entries it undid. refuses: what it cannot undo."""

    def __init__(self, diary):
        super().__init__(diary)
        self.cleaned = []
        self.refuses = set()

    def clean(self, entry):
        self.diary.append("clean")
        if entry.id in self.refuses:
            raise HostUnreachable("gone")
        self.cleaned.append(entry.id)
        return "undone"


def entry(number, process="dead:1:1", host="kvm1", **payload):
    return JournalEntry(number, f"run-{number}", process, host, "job", payload, datetime.now(UTC))


@pytest.fixture
def host():
    return Host(Diary())


@pytest.fixture
def store():
    return FakeStore()


def back_up(host, store):
    events = []
    repository = FakeRepository(host.diary)
    runner = Runner(store, FakeClock(), Cancel(), [events.append])
    return runner.backup([Target(guest(), host, repository)], "web"), events


def test_what_dead_runs_left_is_undone_first_newest_before_oldest(host, store):
    store.entries = [entry(1, disk="a"), entry(2, disk="b")]
    outcome, _ = back_up(host, store)
    assert host.cleaned == [2, 1]
    assert host.diary[:4] == ["clean", "clean", "plan", "export"]
    assert store.released == [2, 1]
    assert outcome.exit_code == EXIT_DONE


def test_runs_that_live_and_other_hosts_are_left_alone(host, store):
    store.entries = [entry(1, process="alive:1:1"), entry(2, host="kvm2")]
    back_up(host, store)
    assert host.cleaned == []
    assert store.released == []


def test_what_cannot_be_undone_is_a_warning_and_stays(host, store):
    store.entries = [entry(1)]
    host.refuses = {1}
    outcome, events = back_up(host, store)
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert "run-1" in warning.message
    assert "gone" in warning.message
    assert "doctor --clean" in warning.hint
    assert store.released == []
    assert (outcome.exit_code, len(outcome.points)) == (EXIT_WARNINGS, 1)


def test_the_same_thing_left_many_times_is_undone_once(host, store):
    store.entries = [entry(1, guest="db"), entry(2, guest="db"), entry(3, guest="web")]
    found = clean(store, lambda name: host)
    assert host.cleaned == [3, 2]
    assert store.released == [3, 2, 1]
    assert all(item.done for item in found)


def test_a_twin_of_what_cannot_be_undone_is_not_tried_again(host, store):
    store.entries = [entry(1, guest="db"), entry(2, guest="db")]
    host.refuses = {1, 2}
    found = clean(store, lambda name: host)
    assert host.diary == ["clean"]
    assert [item.done for item in found] == [False, False]
    assert store.released == []
