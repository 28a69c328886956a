"""Which points are kept. The properties hold for any points and rules; the examples say what the words mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import Guest, GuestKind, GuestState
from vmconsole.model.point import Consistency, RestorePoint
from vmconsole.model.schedule import KEEP_ALL, Retention, Schedule, When
from vmconsole.runs.retention import Rules, decide, rules_for

BERLIN = ZoneInfo("Europe/Berlin")
UUID = "aaaa1111-0000-4000-8000-000000000001"
NIGHT = datetime(2026, 3, 10, 22, 0, tzinfo=UTC)


def point(when, group="daily", schedule="main", number=0):
    name = f"web.aaaa1111-{when.astimezone(UTC):%Y%m%dT%H%M%SZ}{number or ''}"
    return RestorePoint(
        name,
        "web",
        UUID,
        "kvm1",
        "libvirt",
        when,
        Consistency.CRASH,
        (),
        group=group,
        schedule=schedule,
        archive_id=f"id-{name}",
    )


def rules(minimum=1, **kept):
    retention = Retention(**kept, minimum=minimum)
    return Rules({("daily", "main"): retention}, {"daily": retention}, "daily", minimum)


def kept(verdicts):
    return [verdict.point.archive for verdict in verdicts if verdict.keep]


def why(verdicts):
    return [verdict.why for verdict in verdicts]


# --- examples ----------------------------------------------------------------------------------


def test_the_newest_of_each_of_the_last_days_that_have_one():
    """A night without a backup does not cost a day."""
    points = [point(NIGHT - timedelta(days=day)) for day in (0, 1, 5, 6)]
    verdicts = decide([*points, point(NIGHT - timedelta(hours=3))], rules(daily=3), (), UTC)
    assert why(verdicts) == [
        "daily 1 of 3",
        "not kept by any rule",
        "daily 2 of 3",
        "daily 3 of 3",
        "not kept by any rule",
    ]


def test_every_rule_that_keeps_a_point_is_named():
    points = [point(NIGHT - timedelta(days=day)) for day in range(15)]
    verdicts = decide(points, rules(last=1, daily=2, weekly=2, monthly=2, yearly=1), (), UTC)
    assert why(verdicts)[:3] == [
        "last 1 of 1, daily 1 of 2, weekly 1 of 2, monthly 1 of 2, yearly 1 of 1",
        "daily 2 of 2",
        "weekly 2 of 2",  # NIGHT is a Tuesday
    ]
    assert why(verdicts)[10] == "monthly 2 of 2"  # the last of February
    assert sum(verdict.keep for verdict in verdicts) == 4


def test_pinned_points_are_kept_and_do_not_count():
    points = [point(NIGHT - timedelta(days=day)) for day in range(4)]
    verdicts = decide(points, rules(daily=2), {points[0].archive}, UTC)
    assert why(verdicts) == ["pinned", "daily 1 of 2", "daily 2 of 2", "not kept by any rule"]


def test_the_newest_stay_whatever_the_rules_say():
    points = [point(NIGHT - timedelta(minutes=minute)) for minute in range(4)]
    assert why(decide(points, rules(minimum=3, yearly=1), (), UTC)) == [
        "yearly 1 of 1",
        "newest 2 of 3",
        "newest 3 of 3",
        "not kept by any rule",
    ]


def test_each_schedule_counts_its_own_points():
    hourly, daily = Retention(hourly=2), Retention(daily=2)
    both = Rules(
        {("g", "hourly"): hourly, ("g", "daily"): daily}, {"g": Retention(last=1)}, default="g", minimum=1
    )
    points = [point(NIGHT - timedelta(hours=hour), "g", "hourly") for hour in range(3)]
    points += [point(NIGHT - timedelta(days=day, minutes=5), "g", "daily") for day in range(3)]
    points += [point(NIGHT - timedelta(minutes=30), "", ""), point(NIGHT - timedelta(minutes=40), "", "")]
    points += [point(NIGHT - timedelta(minutes=50), "g", "a schedule of old")]
    lost = [verdict.point for verdict in decide(points, both, (), UTC) if not verdict.keep]
    assert {(p.schedule, NIGHT - p.time) for p in lost} == {
        ("hourly", timedelta(hours=2)),
        ("daily", timedelta(days=2, minutes=5)),
        ("", timedelta(minutes=40)),
        ("a schedule of old", timedelta(minutes=50)),
    }


def test_nothing_is_pruned_where_everything_is_kept_or_no_group_covers_the_guest():
    points = [point(NIGHT - timedelta(minutes=minute)) for minute in range(3)]
    everything = Rules({}, {"daily": KEEP_ALL}, "daily")
    assert set(why(decide(points, everything, (), UTC))) == {"everything is kept"}
    uncovered = Rules({("daily", "main"): Retention(last=1)}, {})
    assert set(why(decide(points, uncovered, (), UTC))) == {"no group covers the guest"}


def test_days_begin_where_the_configuration_says():
    late, early = datetime(2026, 6, 1, 21, 50, tzinfo=UTC), datetime(2026, 6, 1, 22, 10, tzinfo=UTC)
    assert len(kept(decide([point(late), point(early)], rules(daily=2), (), BERLIN))) == 2
    assert len(kept(decide([point(late), point(early)], rules(daily=2), (), UTC))) == 1


def test_the_hour_that_comes_twice_is_two_hours():
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 summer time
    points = [point(first + timedelta(hours=hour)) for hour in range(3)]  # 02:30, 02:30 again, 03:30
    assert why(decide(points, rules(hourly=3), (), BERLIN)) == [
        "hourly 1 of 3",
        "hourly 2 of 3",
        "hourly 3 of 3",
    ]
    assert len(kept(decide(points, rules(daily=3), (), BERLIN))) == 1


@pytest.mark.parametrize(
    ("times", "period"),
    [
        (["2028-02-28T12:00", "2028-02-29T12:00", "2028-03-01T12:00"], "daily"),
        (["2028-01-31T12:00", "2028-02-29T12:00", "2028-03-31T12:00"], "monthly"),
        (["2026-03-28T12:00", "2026-03-29T12:00", "2026-03-30T12:00"], "daily"),  # a day of 23 hours
        (["2026-12-27T12:00", "2026-12-28T12:00", "2027-01-04T12:00"], "weekly"),  # 2026 has week 53
    ],
)
def test_leap_days_clock_changes_and_week_53(times, period):
    points = [point(datetime.fromisoformat(text).replace(tzinfo=BERLIN)) for text in times]
    assert len(kept(decide(points, rules(**{period: 3}), (), BERLIN))) == 3
    assert len(kept(decide(points, rules(**{period: 2}), (), BERLIN))) == 2


def test_new_years_week_is_one_week():
    points = [point(datetime(2026, 12, 31, 12, tzinfo=UTC)), point(datetime(2027, 1, 2, 12, tzinfo=UTC))]
    assert len(kept(decide(points, rules(weekly=2), (), UTC))) == 1


# --- whose rules -------------------------------------------------------------------------------

WEB = Guest(UUID, "1", "web", "kvm1", GuestKind.VM, GuestState.RUNNING, tags=("prod",))


def schedule(group, name, retention):
    return Schedule(group, name, "daily 22:00", When(("0 22 * * *",)), retention=retention)


def test_the_rules_of_a_guest_are_those_of_its_groups():
    nights = Group(
        "nights", Selector(tags=("prod",)), "main", (schedule("nights", "main", Retention(daily=3)),)
    )
    second = Group("second", Selector(guests=("web",)), "far", (), Retention(last=9, minimum=4))
    other = Group(
        "other", Selector(guests=("db",)), "main", (schedule("other", "x", Retention(last=1, minimum=7)),)
    )
    found = rules_for(WEB, [nights, second, other], "main")
    assert (found.default, found.minimum) == ("nights", 4)
    assert rules_for(WEB, [nights, second, other], "far").default == "second"
    assert rules_for(WEB, [nights, second, other], "third").default == "nights"
    made = [
        point(NIGHT, *by)
        for by in (("nights", "main"), ("nights", "gone"), ("second", ""), ("gone", "x"), ("", ""))
    ]
    assert [found.pool(p) for p in made] == [
        ("nights", "main"),
        ("nights", ""),
        ("second", ""),
        ("nights", ""),
        ("nights", ""),
    ]
    assert found.pool(point(NIGHT, "other", "x")) == ("other", "x"), (
        "a guest that left a group keeps its rule"
    )
    assert rules_for(WEB, [other], "main").default == ""


# --- properties --------------------------------------------------------------------------------

ZONES = st.sampled_from([UTC, BERLIN, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/Sao_Paulo")])


def between(first, last):
    begin, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (first, last))
    return st.integers(0, int((end - begin).total_seconds())).map(lambda s: begin + timedelta(seconds=s))


MOMENTS = st.one_of(
    between("2016-01-01", "2028-12-31"),
    between("2026-10-24T20:00", "2026-10-25T06:00"),  # a clock change
    between("2028-02-28", "2028-03-02"),  # a leap day
)
MADE_BY = st.sampled_from([("daily", "main"), ("daily", "old"), ("b", "x"), ("b", ""), ("", "")])
POINTS = st.lists(st.tuples(MOMENTS, MADE_BY), max_size=40).map(
    lambda drawn: [point(when, *by, number) for number, (when, by) in enumerate(drawn, 1)]
)
COUNT = st.one_of(st.just(0), st.integers(0, 6))
RETENTION = st.builds(Retention, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, minimum=st.integers(1, 5))
RULES = st.builds(
    lambda one, two, three, minimum: Rules(
        {("daily", "main"): one, ("b", "x"): two}, {"daily": three}, "daily", minimum
    ),
    RETENTION,
    RETENTION,
    RETENTION,
    st.integers(1, 5),
)


@settings(max_examples=150, deadline=None)
@given(POINTS, RULES, ZONES, st.data())
def test_what_must_hold_for_any_points(points, held, zone, data):
    pinned = set(data.draw(st.lists(st.sampled_from([p.archive for p in points]))) if points else [])
    verdicts = decide(points, held, pinned, zone)
    stay = set(kept(verdicts))
    assert [v.point for v in verdicts] == sorted(points, key=lambda p: (p.time, p.archive), reverse=True)
    assert pinned <= stay
    newest = [v.point.archive for v in verdicts][: held.minimum]
    assert set(newest) <= stay, "the newest are kept, pinned ones counted or not"
    unpinned = [v.point.archive for v in verdicts if v.point.archive not in pinned][: held.minimum]
    assert set(unpinned) <= stay
    shuffled = data.draw(st.permutations(points))
    assert decide(shuffled, held, pinned, zone) == verdicts, "their order does not matter"


@settings(max_examples=150, deadline=None)
@given(POINTS, RULES, ZONES)
def test_what_was_kept_is_kept_again(points, held, zone):
    verdicts = decide(points, held, (), zone)
    again = decide([v.point for v in verdicts if v.keep], held, (), zone)
    assert all(v.keep for v in again)


@settings(max_examples=150, deadline=None)
@given(POINTS, POINTS, RULES, ZONES)
def test_newer_points_never_bring_back_what_was_pruned(points, more, held, zone):
    last = max((p.time for p in points), default=NIGHT)
    newer = [
        point(last + (p.time - datetime(2015, 1, 1, tzinfo=UTC)), p.group, p.schedule, number)
        for number, p in enumerate(more, 100)
    ]
    before = set(kept(decide(points, held, (), zone)))
    after = set(kept(decide([*points, *newer], held, (), zone)))
    assert after & {p.archive for p in points} <= before


@settings(max_examples=150, deadline=None)
@given(POINTS, RULES, ZONES)
def test_as_many_periods_as_asked_for_and_no_more(points, held, zone):
    retention = held.schedules["daily", "main"]
    mine = [p for p in points if (p.group, p.schedule) == ("daily", "main")]
    stay = set(kept(decide(points, held, (), zone)))
    days = {p.time.astimezone(zone).date() for p in mine}
    covered = {p.time.astimezone(zone).date() for p in mine if p.archive in stay}
    wanted = sorted(days, reverse=True)[: retention.daily]
    assert set(wanted) <= covered
    only_days = Rules({}, {"daily": Retention(daily=3)}, "daily", 1)
    alone = kept(decide(mine, only_days, (), zone))
    assert len(alone) == min(3, len(days))
