"""Prune, undo, pin and compact on a repository in memory and a real state."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import fakes
import pytest

from vmconsole.errors import ArchivesVanished, Cancelled, RepositoryDamaged, RepositoryLocked, VmconsoleError
from vmconsole.interfaces import Cancel
from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import HostInventory, HostKind
from vmconsole.model.point import Consistency, RestorePoint
from vmconsole.model.run import RunState
from vmconsole.model.schedule import Retention
from vmconsole.runs.compact import BATCH, run_compact
from vmconsole.runs.looking import Memory, live_marks
from vmconsole.runs.pins import run_pins
from vmconsole.runs.prune import governed, guest_of, judge, plan_of, run_prune
from vmconsole.runs.runner import Runner
from vmconsole.state.ledger import StateLedger
from vmconsole.state.store import StateStore

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WEEK = 7 * 86400.0


class Clock:
    def __init__(self):
        self.time = NOW

    def now(self):
        return self.time

    def monotonic(self):
        return (self.time - NOW).total_seconds()


def point(days_ago, guest="web", number=1, **changes):
    uuid = f"{number:04x}1111-0000-4000-8000-000000000001"
    when = NOW - timedelta(days=days_ago)
    archive = f"{guest}.{uuid[:8]}-{when:%Y%m%dT%H%M%SZ}"
    made = RestorePoint(archive, guest, uuid, "kvm1", "libvirt", when, Consistency.CRASH, ())
    return replace(made, archive_id=f"id-{archive}", **changes)


class World:
    """A repository with two guests' points of five days each, of which a group keeps two."""

    def __init__(self, folder):
        self.clock = Clock()
        self.store = StateStore.open(folder / "state.sqlite", self.clock, "here:1:1", lambda _: False)
        self.memory = Memory(self.store, StateLedger(self.store.database, self.clock))
        self.ledger = self.memory.ledger
        self.cancel = Cancel()
        self.repository = fakes.FakeRepository(fakes.Diary())
        self.repository.saved = [
            point(day, guest, number) for day in range(5) for guest, number in (("web", 1), ("db", 2))
        ]
        self.groups = [Group("daily", Selector(guests=("web", "db")), "main", (), Retention(daily=2))]
        self.events = []

    @property
    def runner(self):
        return Runner(self.store, self.clock, self.cancel, [self.events.append], self.ledger)

    @property
    def plan(self):
        return plan_of(self.groups, self.store.inventories(), UTC)

    def prune(self, group=""):
        return run_prune(self.runner, self.repository, self.plan, self.memory, group)

    def compact(self, undo=WEEK):
        return run_compact(self.runner, self.repository, undo, self.memory)

    def pin(self, *points, pinned=True):
        return run_pins(self.runner, self.repository, points, self.memory, pinned=pinned)

    @property
    def marked(self):
        return sorted(mark.archive for mark in self.ledger.marks("main"))

    @property
    def there(self):
        return sorted(p.archive for p in self.repository.saved)

    def said(self, kind):
        return [event for event in self.events if event.kind == kind]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.store.close()


def names(*points):
    return sorted(p.archive for p in points)


OLD = names(*(point(day, *guest) for day in (2, 3, 4) for guest in (("web", 1), ("db", 2))))


# --- prune -------------------------------------------------------------------------------------


def test_prune_marks_and_deletes_nothing(world):
    outcome, verdicts = world.prune()
    assert outcome.exit_code == 0
    assert world.marked == OLD
    assert world.repository.diary == []
    assert len(world.there) == 10
    assert [v.point.guest for v in verdicts] == ["db"] * 5 + ["web"] * 5
    assert [(e.guest, len(e.archives)) for e in world.said("pruned")] == [("db", 3), ("web", 3)]
    (run,) = world.store.runs()
    assert (run.kind, run.subject, run.state) == ("prune", "main", RunState.DONE)


def test_pruning_again_changes_nothing(world):
    world.prune()
    marks = world.ledger.marks("main")
    world.clock.time += timedelta(days=1)
    _, verdicts = world.prune()
    assert all(v.keep != v.marked for v in verdicts)
    assert world.ledger.marks("main") == marks, "with the time of the first mark"
    assert len(world.said("pruned")) == 2


def test_what_mended_rules_keep_comes_back(world):
    world.prune()
    world.groups[0] = Group("daily", Selector(guests=("web", "db")), "main", (), Retention(daily=4))
    world.prune()
    assert world.marked == names(point(4), point(4, "db", 2))
    assert [(e.guest, len(e.archives)) for e in world.said("unpruned")] == [("db", 2), ("web", 2)]
    world.groups.clear()
    world.prune()
    assert world.marked == [], "guests that no group covers any more"


def test_a_mark_on_a_pinned_point_goes(world):
    world.prune()
    world.repository.pinned = {point(4).archive: point(4).archive_id}
    assert world.prune()[0].exit_code == 0
    assert world.marked == sorted(set(OLD) - set(names(point(4))))


def test_undone_points_are_points_again(world):
    world.prune()
    world.ledger.unmark("main", OLD)
    assert world.marked == []
    world.prune()
    assert world.marked == OLD, "until the next prune"


def test_a_group_prunes_what_its_own_rules_decide(world):
    world.groups.append(Group("other", Selector(guests=("db",)), "main", (), Retention(last=1)))
    world.repository.saved.append(point(9, "db", 2, group="other"))
    world.repository.saved.append(point(9.5, "db", 2, group="other"))
    world.prune("other")
    assert world.marked == names(point(9.5, "db", 2))
    left = [p for p in world.repository.saved if p.group == "other"]
    assert governed(world.repository.saved, "other", "main", world.plan) == left
    assert governed(world.repository.saved, "nobody", "main", world.plan) == []


def test_guests_are_judged_as_they_were_last_seen(world):
    """A dead host changes nothing, and a guest nobody remembers is known by its point."""
    world.groups[0] = Group("daily", Selector(tags=("prod",)), "main", (), Retention(daily=2))
    world.prune()
    assert world.marked == [], "no group covers what has no tags"
    web = replace(guest_of(point(0)), tags=("prod",))
    world.store.save_inventory(
        HostInventory("kvm1", HostKind.LIBVIRT, reachable=True, guests=(web,)), world.clock.now()
    )
    world.prune()
    assert world.marked == [name for name in OLD if name.startswith("web")]


def test_two_guests_of_one_name_are_two(world):
    world.repository.saved = [point(day, "web", number) for day in range(2) for number in (1, 2)]
    world.groups[0] = Group("daily", Selector(guests=("web",)), "main", (), Retention(last=1))
    world.prune()
    assert world.marked == names(point(1, "web", 1), point(1, "web", 2))


def test_prune_does_nothing_while_it_cannot_be_told_what_is_pinned(world):
    world.repository.pinned = RepositoryDamaged("unreadable")
    outcome, verdicts = world.prune()
    assert outcome.exit_code == 1
    assert (world.marked, verdicts) == ([], [])


def test_prune_warns_of_what_vanished(world):
    world.prune()
    world.repository.saved = [p for p in world.repository.saved if p.archive != point(0).archive]
    outcome, _ = world.prune()
    assert outcome.exit_code == 3
    (warning,) = world.said("warned")
    assert point(0).archive in warning.message
    assert "vmconsole repo accept main" in warning.hint


# --- pins --------------------------------------------------------------------------------------


def test_a_pin_keeps_a_point_and_takes_its_mark(world):
    world.prune()
    outcome, changed = world.pin(point(4))
    assert (outcome.exit_code, changed) == (0, names(point(4)))
    assert world.marked == sorted(set(OLD) - set(names(point(4))))
    assert world.repository.pinned == {point(4).archive: point(4).archive_id}
    assert [p.pinned for p in world.store.points("main")].count(True) == 1
    verdicts = world.prune()[1]
    assert [v.why for v in verdicts if v.point.pinned] == ["pinned"]
    assert world.pin(point(4))[1] == [], "it was pinned already"
    assert world.pin(point(4), pinned=False)[1] == names(point(4))
    assert world.repository.pinned == {}
    world.prune()
    assert world.marked == OLD
    assert [run.kind for run in world.store.runs()].count("unpin") == 1


def test_pins_of_what_is_gone_are_dropped_at_the_next_write(world):
    world.repository.pinned = {"gone": "id-gone", point(3).archive: point(3).archive_id}
    world.pin(point(4))
    assert sorted(world.repository.pinned) == names(point(3), point(4))


def test_pins_that_somebody_else_took_are_told_once(world):
    world.pin(point(3), point(4))
    world.pin(point(4), pinned=False)
    assert world.said("warned") == [], "that was us"
    world.repository.pinned = {}
    assert world.prune()[0].exit_code == 3
    (warning,) = world.said("warned")
    assert "1 point is pinned no longer in repository main" in warning.message
    assert warning.hint == f"Pin again: vmconsole pin {point(3).archive}"
    assert world.prune()[0].exit_code == 0


def test_pins_are_changed_by_one_at_a_time(world):
    holder = world.store.start_run("pin", "x").id
    world.store.claim("pins/main", holder)
    outcome, changed = world.pin(point(4))
    assert outcome.exit_code == 11
    assert isinstance(outcome.errors[0][1], RepositoryLocked)
    assert (changed, world.repository.pinned) == ([], {})


# --- compact -----------------------------------------------------------------------------------


def test_compact_waits_until_nothing_can_be_undone(world):
    world.prune()
    world.clock.time += timedelta(days=6, hours=23)
    outcome, freed = world.compact()
    assert (outcome.exit_code, freed.deleted, freed.bytes_freed) == (0, [], 5 << 20)
    assert world.repository.diary == ["compact"]
    world.clock.time += timedelta(hours=1)
    outcome, freed = world.compact()
    assert sorted(freed.deleted) == OLD
    assert world.there == names(*(point(day, *g) for day in (0, 1) for g in (("web", 1), ("db", 2))))
    assert world.repository.diary.words() == ["compact", "delete", "compact"]
    assert world.marked == []
    assert [len(e.archives) for e in world.said("deleted")] == [6]
    assert world.said("compacted")[-1].bytes_freed == 5 << 20
    assert {p.archive for p in world.store.points("main")} == set(world.there)
    assert world.compact()[0].exit_code == 0, "our own deletions are no surprise"


def test_now_means_now(world):
    world.prune()
    assert sorted(world.compact(None)[1].deleted) == OLD


def test_pinned_points_are_never_deleted(world):
    """Also when the pin was set by somebody whose state does not know of the mark."""
    world.prune()
    world.repository.pinned = {point(4).archive: point(4).archive_id}
    assert point(4).archive not in world.compact(None)[1].deleted
    assert point(4).archive in world.there
    assert live_marks(world.ledger.marks("main"), world.repository.points()) == {}


def test_nothing_is_deleted_while_it_cannot_be_told_what_is_pinned(world):
    world.prune()
    world.repository.pinned = RepositoryDamaged("unreadable")
    assert world.compact(None)[0].exit_code == 1
    assert world.repository.diary == []


def test_the_last_point_of_a_guest_is_never_deleted(world):
    world.prune()
    world.repository.saved = [p for p in world.repository.saved if p.archive in OLD]
    world.compact(None)
    world.ledger.accept("main")
    outcome, freed = world.compact(None)
    assert outcome.exit_code == 3
    assert world.there == names(point(2), point(2, "db", 2))
    assert len(freed.deleted) == 4
    assert world.marked == []
    assert "it is the last point of web" in " ".join(e.message for e in world.said("warned"))


def test_what_vanished_stops_everything_until_it_is_accepted(world):
    world.prune()
    world.repository.saved = [p for p in world.repository.saved if p.guest == "web"]
    outcome, freed = world.compact(None)
    (error,) = [error for _, error in outcome.errors]
    assert isinstance(error, ArchivesVanished)
    assert "5 restore points vanished" in error.message
    assert point(0, "db", 2).archive in error.message
    assert "vmconsole repo accept main" in error.hint
    assert (outcome.exit_code, freed.deleted, world.repository.diary) == (1, [], [])
    world.ledger.accept("main")
    assert world.compact(None)[0].exit_code == 0
    assert world.repository.diary.words() == ["delete", "compact"]


def test_what_vanishes_while_we_delete_stops_the_compaction(world):
    world.prune()
    delete = world.repository.delete

    def also_another(archives, context):
        delete([*archives, point(0).archive], context)

    world.repository.delete = also_another
    outcome, freed = world.compact(None)
    assert isinstance(outcome.errors[0][1], ArchivesVanished)
    assert "compact" not in world.repository.diary
    assert sorted(freed.deleted) == OLD, "what was done is told"


def test_archives_go_in_batches(world):
    world.repository.saved = [point(day / 24) for day in range(2 * BATCH + 50)]
    world.groups[0] = Group("daily", Selector(guests=("web",)), "main", (), Retention(last=1))
    world.prune()
    world.compact(None)
    assert [len(entry.split()) - 1 for entry in world.repository.diary if "delete" in entry] == [100, 100, 49]


def test_a_stop_ends_between_batches(world):
    world.prune()
    world.cancel.set()
    outcome, _ = world.compact(None)
    assert isinstance(outcome.errors[0][1], Cancelled)
    assert (world.repository.diary, world.marked) == ([], OLD)


def test_a_deletion_that_fails_is_tried_again(world):
    world.prune()
    world.repository.fail_delete = VmconsoleError("the line broke")
    outcome, freed = world.compact(None)
    assert (outcome.exit_code, freed.deleted, world.marked) == (1, [], OLD)
    world.repository.fail_delete = None
    assert sorted(world.compact(None)[1].deleted) == OLD


class Killed(BaseException):
    """As kill -9: nothing after it runs, and nobody catches it."""


@pytest.mark.parametrize("before", [True, False], ids=["before borg", "after borg"])
def test_killed_between_the_note_and_the_end(world, before):
    world.prune()
    delete = world.repository.delete

    def die(archives, context):
        if not before:
            delete(archives, context)
        raise Killed

    world.repository.delete = die
    with pytest.raises(Killed):
        world.compact(None)
    world.repository.delete = delete
    outcome, verdicts = world.prune()
    assert outcome.exit_code == 0, "no false alarm"
    assert sum(v.keep for v in verdicts) == 4
    assert world.marked == (OLD if before else []), "not deleted: pruned as before, and to be had back"
    assert world.compact(None)[0].exit_code == 0
    assert len(world.there) == 4


def test_one_compact_at_a_time(world):
    holder = world.store.start_run("compact", "x").id
    world.store.claim("compact/main", holder)
    assert world.compact(None)[0].exit_code == 11


def test_who_waits_for_a_lock_says_so(world):
    opened = world.repository.reader

    def locked(*, wait=None):
        if wait is not None:
            raise RepositoryLocked("main is locked by a backup.")
        return opened()

    world.repository.reader = locked
    assert world.prune()[0].exit_code == 0
    assert [e.reason for e in world.said("waiting")] == ["main is locked by a backup."]


def test_a_backup_notices_what_vanished(world):
    """The runner compares before it saves what is there."""
    world.prune()
    gone = world.repository.saved.pop()
    runner = world.runner
    with runner.run("backup", "x") as (context, outcome):
        runner._backup_into(world.repository, [], context, outcome)
    assert outcome.exit_code == 3
    assert [item.archive for item in world.ledger.vanished("main")] == [gone.archive]


def test_judging_is_pure(world):
    before = judge("main", world.repository.points(), world.plan)
    assert judge("main", reversed(world.repository.points()), world.plan) == before
