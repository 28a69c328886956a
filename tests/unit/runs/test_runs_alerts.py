from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from alert_world import DAY, HOUR, NOW, World, guest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.model.alert import AlertKind
from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import HostInventory, HostKind
from vmconsole.model.history import BackupState
from vmconsole.model.ledger import Vanished
from vmconsole.model.message import Delivery
from vmconsole.model.repository import RepositorySpace
from vmconsole.runs.alerts import argument, holding_now
from vmconsole.runs.gathering import figures

FAILED, DIED, DONE = BackupState.FAILED, BackupState.DIED, BackupState.DONE


@pytest.fixture
def world():
    return World()


def found(world, *kinds):
    return [a for a in holding_now(world.facts()) if not kinds or a.kind in kinds]


def names(alerts):
    return [(alert.kind.value, alert.subject) for alert in alerts]


def test_a_good_night_leaves_nothing_to_tell(world):
    world.good_night()
    assert found(world) == []


# --- failures and warnings ---------------------------------------------------------------------


def test_a_failure_says_who_when_why_and_what_to_do(world):
    world.good_night(ago=DAY)
    world.history.add(world.web, FAILED, error="The host kvm1 cannot be reached", hint="Is it up?")
    (alert,) = found(world)
    assert alert.text == (
        "web on kvm1 was not backed up on 2026-11-23 07:00: The host kvm1 cannot be reached."
    )
    assert (alert.kind, alert.hint, alert.group) == (AlertKind.FAILURE, "Is it up?", "daily")


def test_a_run_that_died_and_one_without_reason(world):
    world.good_night(ago=DAY)
    world.history.add(world.web, DIED)
    world.history.add(world.db, FAILED)
    by_guest = {alert.subject: alert for alert in found(world)}
    assert "the run's process vanished." in by_guest["web"].text
    assert by_guest["db"].hint == "See its log: vmconsole runs run-4"


@pytest.mark.parametrize("state", [BackupState.RUNNING, BackupState.POSTPONED, BackupState.CANCELLED])
def test_an_attempt_that_decided_nothing_does_not_end_a_failure(world, state):
    world.good_night(ago=DAY)
    world.history.add(world.web, FAILED, ago=2 * HOUR)
    world.history.add(world.web, state, ago=HOUR)
    assert names(found(world)) == [("failure", "web")]


def test_the_next_good_backup_ends_it_also_one_by_hand(world):
    world.good_night(ago=DAY)
    world.history.add(world.web, FAILED, ago=2 * HOUR)
    world.history.add(world.web, group="")
    assert found(world) == []


def test_a_good_backup_for_another_group_does_not_end_it(world):
    world.groups.append(Group("hourly", Selector(guests=("web",)), "main"))
    world.good_night(ago=DAY)
    world.history.add(world.web, FAILED, ago=2 * HOUR)
    world.history.add(world.web, group="hourly")
    assert [(a.kind, a.group) for a in found(world)] == [(AlertKind.FAILURE, "daily")]


def test_a_failure_by_hand_of_a_guest_in_two_groups_is_told_once(world):
    world.groups.append(Group("hourly", Selector(guests=("web",)), "main"))
    world.good_night(ago=DAY)
    world.history.add(world.web, group="hourly", ago=DAY)
    world.history.add(world.web, FAILED, group="")
    assert names(found(world)) == [("failure", "web")]


def test_a_failure_of_a_guest_that_is_gone_or_left_the_group_is_no_longer_told(world):
    world.history.add(world.web, FAILED)
    world.history.add(world.db, FAILED)
    world.guests.remove(world.web)
    world.groups = [Group("other", Selector(guests=("*",)), "main")]
    assert found(world, AlertKind.FAILURE) == []


def test_warnings(world):
    world.good_night(ago=DAY)
    world.history.add(world.web, BackupState.WARNINGS, error="The agent does not answer.")
    (alert,) = found(world)
    assert alert.kind is AlertKind.WARNING
    assert alert.text.endswith("with warnings: The agent does not answer.")


# --- overdue -----------------------------------------------------------------------------------


def test_overdue_when_nothing_ran_at_all(world):
    assert found(world) == []
    world.now += 27 * HOUR
    assert names(found(world)) == [("overdue", "db"), ("overdue", "web")]


def test_a_guest_never_backed_up_counts_from_when_the_schedule_began(world):
    world.followed = {"daily": NOW - 25 * HOUR}
    world.facts()
    assert found(world) == []
    world.now += 2 * HOUR
    assert names(found(world)) == []  # known for two hours only
    world.now += 25 * HOUR
    assert names(found(world)) == [("overdue", "db"), ("overdue", "web")]


def test_a_guest_that_is_new_to_an_old_group_gets_its_time(world):
    world.good_night()
    world.guests.append(guest("new", 3))
    assert found(world) == []
    world.now += DAY + HOUR
    world.history.add(world.web)
    world.history.add(world.db)
    assert found(world) == []
    world.now += 2 * HOUR
    (alert,) = found(world)
    assert names([alert]) == [("overdue", "new")]
    assert alert.text == (
        "new on kvm1 has no restore point of group daily, which has waited for one since 2026-11-23 08:00."
    )
    assert alert.hint == "Back it up now: vmconsole backup kvm1/new"


def test_overdue_says_since_when(world):
    world.history.add(world.web, ago=30 * HOUR)
    world.history.add(world.db)
    (alert,) = found(world)
    assert alert.text == (
        "web on kvm1 has had no good restore point since 2026-11-22 02:05; "
        "group daily allows 1 d 2 h without one."
    )


def test_failing_attempts_do_not_count_and_the_groups_own_limit_wins(world):
    world.good_night(ago=5 * HOUR)
    world.history.add(world.web, FAILED)
    world.groups = [replace(world.groups[0], overdue_after=4 * 3600.0)]
    assert names(found(world)) == [("failure", "web"), ("overdue", "db"), ("overdue", "web")]


def test_a_point_in_another_repository_does_not_count(world):
    world.good_night()
    world.history.add(world.web, ago=30 * HOUR)
    world.history.records = [
        replace(r, repository="other") if r.uuid == world.web.uuid and r.started > NOW - DAY else r
        for r in world.history.records
    ]
    world.followed = {}
    world.history.note("alerts/known", f'{{"{world.web.uuid}/daily": "2026-10-01T00:00:00+00:00"}}')
    assert ("overdue", "web") not in names(found(world))  # nothing says since when it could have been


def test_a_long_backup_that_began_in_time_is_not_late(world):
    world.good_night(ago=27 * HOUR)
    world.history.add(world.web, BackupState.RUNNING, ago=3 * HOUR)
    world.history.add(world.db, BackupState.RUNNING, ago=timedelta(minutes=10))
    assert names(found(world)) == [("overdue", "db")]


def test_a_group_without_a_limit_is_never_late(world):
    world.limits = {}
    assert found(world) == []


@given(st.integers(0, 200), st.integers(1, 100))
def test_overdue_exactly_beyond_the_limit(ago, limit):
    world = World()
    world.limits = {"daily": limit * 3600.0}
    world.good_night(ago=ago * HOUR, took=timedelta(0))
    assert bool(found(world, AlertKind.OVERDUE)) == (ago > limit)


# --- the others --------------------------------------------------------------------------------


def test_unprotected_but_not_templates_and_not_named_exceptions(world):
    world.groups = [Group("daily", Selector(guests=("*",), exclude=("db",)), "main")]
    world.good_night()
    assert found(world, AlertKind.UNPROTECTED) == []
    world.groups = [Group("daily", Selector(guests=("web",), exclude=("db",)), "main")]
    world.guests.append(guest("golden", 3, template=True))
    (alert,) = found(world, AlertKind.UNPROTECTED)
    assert alert.text == "db on kvm1 is in no group: nothing backs it up."
    assert alert.hint.endswith("vmconsole group add NAME --guest kvm1/db")


def test_hosts_that_are_not_configured_any_more_do_not_count(world):
    world.good_night()
    world.store.seen["old"] = (
        HostInventory("old", HostKind.LIBVIRT, reachable=True, guests=(guest("x", 9),)),
        NOW,
    )
    world.groups = [Group("daily", Selector(guests=("web", "db")), "main")]
    assert found(world) == []


@pytest.mark.parametrize(("free", "alarm"), [(10, True), (11, False), (0, True)])
def test_a_repository_that_is_nearly_full(world, free, alarm):
    world.good_night()
    world.facts_more = {"spaces": [RepositorySpace("main", 100, free)], "nearly_full": 90}
    assert names(found(world)) == ([("repository", "main")] if alarm else [])


def test_a_repository_that_does_not_work(world):
    world.good_night()
    world.facts_more = {"troubles": [Delivery("main", "It cannot be reached.", "Look.")]}
    (alert,) = found(world)
    assert (alert.text, alert.hint) == ("Repository main: It cannot be reached.", "Look.")


def test_vanished_points_are_told_as_one_and_more_of_them_are_news(world):
    world.good_night()
    gone = [Vanished("main", f"a{n}", f"{n}", "web", NOW - n * DAY, NOW) for n in range(5)]
    world.facts_more = {"vanished": gone}
    (alert,) = found(world)
    assert alert.text.startswith(
        "5 restore points are gone from repository main that nobody here deleted: web"
    )
    assert alert.text.endswith("and 2 more.")
    world.facts_more = {"vanished": [*gone, replace(gone[0], archive_id="x", noticed=NOW + HOUR)]}
    assert len({alert.key for alert in found(world)}) == 2


def test_names_for_the_command_line():
    assert argument("web-01", "kvm1", "u") == "kvm1/web-01"
    assert argument("a; rm -rf /", "kvm1", "u1") == "u1"
    assert argument("-x", "kvm1", "u1") == "u1"
    assert argument("web*", "kvm1", "u1") == "u1"


def test_figures_for_monitoring(world):
    world.history.add(world.web, bytes_read=10, bytes_stored=5)
    world.history.add(world.web, FAILED, ago=timedelta(minutes=5))
    world.facts_more = {"spaces": [RepositorySpace("main", 100, 50)]}
    world.guests.append(guest("stray", 3))
    world.groups = [Group("daily", Selector(guests=("web", "db")), "main")]
    facts = world.facts()
    made = figures(facts, holding_now(facts))
    db, web = made.guests
    assert (web.last_good, web.failed, web.overdue, web.bytes_read) == (NOW - HOUR, True, False, 10)
    assert (db.last_good, db.failed, db.overdue) == (None, False, False)
    assert made.unprotected == 1
    assert made.alerts == {AlertKind.FAILURE: 1, AlertKind.UNPROTECTED: 1}
