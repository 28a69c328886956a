"""Prune, undo and pin on a repository in memory and a real state."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from prune_world import OLD, World, names, point

from vmconsole.errors import RepositoryDamaged, RepositoryLocked
from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import HostInventory, HostKind
from vmconsole.model.run import RunState
from vmconsole.model.schedule import Retention
from vmconsole.runs.prune import governed, guest_of, judge
from vmconsole.runs.writers import Writers


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.store.close()


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
        writers = Writers(context, world.store, world.ledger)
        writers.get(world.repository)
        writers.close()
    assert outcome.exit_code == 3
    assert [item.archive for item in world.ledger.vanished("main")] == [gone.archive]


def test_judging_is_pure(world):
    before = judge("main", world.repository.points(), world.plan)
    assert judge("main", reversed(world.repository.points()), world.plan) == before
