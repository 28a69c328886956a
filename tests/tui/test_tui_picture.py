"""What the console knows: the state of each guest, in one sentence, with the key that helps."""

from __future__ import annotations

from datetime import timedelta

import pytest
from world import CONFIG, GIB, NIGHT, NOW, World, a_shop

from vmconsole.model.history import BackupState
from vmconsole.tui.picture import NIGHTS, take
from vmconsole.tui.states import State

HOUR = timedelta(hours=1)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def row_of(world, name):
    world.save()
    return next(row for row in take(world.services).guests if row.guest.name == name)


def test_a_guest_with_a_young_restore_point_is_well(world):
    world.backup(world.guest("web"), ago=6 * HOUR)
    row = row_of(world, "web")
    assert (row.state, row.why, row.fix) == (State.OK, "", "")
    assert row.next == (NOW + NIGHT).replace(hour=2)


def test_an_old_one_is_late_and_says_what_is_allowed(world):
    guest = world.guest("web")
    world.clock.time = NOW - 10 * NIGHT
    row_of(world, "web")  # the schedule is followed since then
    world.backup(guest, ago=3 * NIGHT)
    world.clock.time = NOW + 2 * NIGHT
    row = row_of(world, "web")
    assert row.state is State.LATE
    assert "No good restore point for 5 d" in row.why
    assert "group daily allows" in row.why
    assert "b backs it up now" in row.fix


def test_a_failure_is_told_with_its_reason_and_its_remedy(world):
    guest = world.guest("web")
    world.backup(guest, ago=30 * HOUR)
    world.backup(guest, ago=6 * HOUR, state=BackupState.FAILED, error="No space", hint="Make room.")
    row = row_of(world, "web")
    assert row.state is State.FAILED
    assert row.why.endswith("failed: No space.")
    assert row.fix == "Make room. l shows its log, b tries again"


def test_a_failure_that_was_made_good_is_over(world):
    guest = world.guest("web")
    world.backup(guest, ago=6 * HOUR, state=BackupState.FAILED, error="No space")
    world.backup(guest, ago=5 * HOUR)
    assert row_of(world, "web").state is State.OK


def test_one_under_way_is_running(world):
    world.backup(world.guest("web"), ago=HOUR, state=BackupState.RUNNING)
    row = row_of(world, "web")
    assert row.state is State.RUNNING


def test_a_guest_in_no_group_is_not_safe_whatever_was_made_by_hand(world):
    guest = world.guest("web", tags=())
    world.backup(guest, ago=HOUR, group="")
    row = row_of(world, "web")
    assert row.state is State.NEVER
    assert "in no group" in row.why
    assert row.fix == "a puts it into a group"


def test_templates_and_exceptions_ask_for_nothing(tmp_path):
    world = World(tmp_path, CONFIG.replace('tags = ["prod"]', 'tags = ["prod"]\nexclude = ["test-*"]'))
    world.guest("golden", template=True, tags=())
    world.guest("test-1")
    assert row_of(world, "golden").state is State.OFF
    assert row_of(world, "test-1").state is State.OFF


def test_a_guest_without_a_restore_point_has_one_key(world):
    world.guest("web")
    row = row_of(world, "web")
    assert (row.state, row.fix) == (State.NEVER, "b makes the first one now")


def test_a_paused_schedule_is_said(tmp_path):
    world = World(
        tmp_path, CONFIG.replace('when = "daily 02:00"', 'when = "daily 02:00"\npaused = 2027-01-01')
    )
    world.backup(world.guest("web"), ago=6 * HOUR)
    assert row_of(world, "web").state is State.PAUSED


def test_warnings_are_told_in_their_own_words(world):
    world.backup(world.guest("web"), ago=HOUR, state=BackupState.WARNINGS, error="No agent.")
    row = row_of(world, "web")
    assert row.state is State.WARNING
    assert row.why.endswith("with warnings: No agent.")


def test_nights_are_added_up_by_day_and_failures_have_their_place(world):
    guest = world.guest("web")
    world.backup(guest, ago=6 * HOUR, dirty=GIB)
    world.backup(guest, ago=7 * HOUR, dirty=2 * GIB)
    world.backup(guest, ago=6 * HOUR + NIGHT, state=BackupState.FAILED, error="x")
    world.backup(guest, ago=6 * HOUR + 40 * NIGHT)
    row = row_of(world, "web")
    assert len(row.nights) == len(row.failures) == NIGHTS
    assert row.nights[-1] == 3 * GIB
    assert row.nights[:-1] == (None,) * (NIGHTS - 1)
    assert row.failures == (False,) * (NIGHTS - 2) + (True, False)
    assert row.stored == 3 * GIB // 4


def test_what_needs_attention_comes_first(tmp_path):
    rows = take(a_shop(tmp_path).services).guests
    needs = [row.needs_attention for row in rows]
    assert needs == sorted(needs, reverse=True)


def test_without_a_configuration_there_is_a_problem_and_no_traceback(tmp_path):
    world = World(tmp_path, 'state_dir = "state"\n[hosts.kvm1]\nkind = "nonsense"\n')
    picture = take(world.services)
    assert picture.problem is not None
    assert "line" in picture.problem.message
    assert picture.guests == ()
