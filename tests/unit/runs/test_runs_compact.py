"""Compact on a repository in memory and a real state: what is deleted, and what dying in the middle leaves."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prune_world import OLD, World, names, point

from vmconsole.errors import ArchivesVanished, Cancelled, RepositoryDamaged, VmconsoleError
from vmconsole.model.group import Group, Selector
from vmconsole.model.schedule import Retention
from vmconsole.runs.compact import BATCH
from vmconsole.runs.looking import live_marks


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.store.close()


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
