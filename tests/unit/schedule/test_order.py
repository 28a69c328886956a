"""The order of work: limits, who goes first, and that everybody's turn comes."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime
from heapq import heappop, heappush

import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_fleets import (
    DAY,
    HOUR,
    NIGHT,
    PlainOrder,
    capacities,
    capacity,
    fleets,
    job,
    jobs,
    later,
    within,
)

from vmconsole.schedule.jobs import HOST, REPOSITORY, STORAGE, Capacity, Job, Resource, heaviest, rank
from vmconsole.schedule.lanes import Item, Lanes, Place
from vmconsole.schedule.order import Order


def names(started: list[Job]) -> list[str]:
    return [one.guest for one in started]


class TestWhoGoesFirst:
    def test_the_most_overdue_then_the_longest_then_by_key(self):
        order = Order(
            [
                job("short", seconds=60),
                job("twin-b"),
                job("twin-a"),
                job("long", seconds=7200),
                job("overdue", overdue=HOUR),
                job("more-overdue", overdue=2 * HOUR, seconds=60),
            ],
            capacity(kvm1=10),
        )
        assert names(order.start(NIGHT)) == ["more-overdue", "overdue", "long", "twin-a", "twin-b", "short"]

    def test_a_job_that_waited_long_goes_before_a_longer_one(self):
        old = job("old", seconds=60, due=later(-9 * HOUR))
        order = Order([old, job("new", seconds=5 * HOUR)], capacity())
        assert order.start(NIGHT) == [old]

    def test_overdue_is_counted_from_when_the_job_came(self):
        order = Order([job("running")], capacity())
        order.start(NIGHT)
        early = job("early", overdue=HOUR)
        order.add(early)
        order.start(NIGHT)
        order.add(job("late", overdue=2 * HOUR))  # three hours on: by now early is overdue by four
        order.start(later(3 * HOUR))
        assert names(order.waiting) == ["early", "late"]

    @given(fleets())
    def test_the_rank_says_so(self, fleet: list[Job]):
        young = [one for one in fleet if one.due >= later(-20 * HOUR)]
        overdue = [one for one in young if one.overdue > 0]
        ranked = sorted(young, key=lambda one: rank(one, NIGHT.timestamp()))
        assert ranked[: len(overdue)] == sorted(
            overdue, key=lambda one: (-one.overdue, -one.seconds, one.key)
        )
        together = [one for one in ranked if one.overdue == 0 and one.due == NIGHT]
        assert together == sorted(together, key=lambda one: (-one.seconds, one.key))


class TestLimits:
    def test_one_at_a_time_on_a_host(self):
        first, second = job("a"), job("b")
        order = Order([second, first], capacity())
        assert order.start(NIGHT) == [first]
        assert order.why(second) == "kvm1 is busy with a"
        assert order.start(later(60)) == []
        order.finish(first)
        assert order.start(later(600)) == [second]
        assert order.why(second) == ""

    def test_a_storage_that_hosts_share(self):
        limits = Capacity(9, {Resource(STORAGE, "san"): 1})
        order = Order(
            [job("a", "kvm1", storages=("san",)), job("b", "kvm2", storages=("san", "san"))], limits
        )
        assert names(order.start(NIGHT)) == ["a"]
        assert order.why(order.waiting[0]) == "storage san is busy with a"

    def test_the_total(self):
        order = Order([job("a", "kvm1"), job("b", "kvm2"), job("c", "kvm3")], capacity(2))
        assert names(order.start(NIGHT)) == ["a", "b"]
        assert order.why(order.waiting[0]) == "as many guests as may be are being backed up (2)"

    def test_a_full_repository_does_not_keep_the_host_from_others(self):
        limits = Capacity(9, {Resource(REPOSITORY, "main"): 1})
        order = Order([job("a"), job("b"), job("c", repository="second", seconds=1)], limits)
        assert names(order.start(NIGHT)) == ["a", "c"]
        assert order.why(order.waiting[0]) == "repository main is busy with a"

    def test_what_takes_nothing(self):
        order = Order([job("a")], capacity(kvm1=0))
        assert order.start(NIGHT) == []
        assert order.why(order.waiting[0]) == "kvm1 takes no backups"
        assert order.next_change() is None

    def test_many_are_not_all_named(self):
        order = Order([job(name, "kvm1") for name in "abcdef"], capacity(kvm1=5))
        order.start(NIGHT)
        assert order.why(order.waiting[0]) == "kvm1 is busy with a, b and 3 more"


class TestHeavy:
    """Of kvm1's guests two are much larger than the others."""

    FLEET = (
        job("db1", seconds=2 * HOUR, bytes=1 << 40),
        job("db2", seconds=2 * HOUR, bytes=1 << 40),
        *(job(f"web{n}") for n in range(4)),
    )

    def test_two_do_not_run_together_while_lighter_ones_wait(self):
        order = Order(self.FLEET, capacity(kvm1=3))
        assert names(order.start(NIGHT)) == ["db1", "web0", "web1"]
        assert order.why(self.FLEET[1]) == "kvm1 is busy with db1, web0 and web1"
        order.finish(self.FLEET[2])
        assert names(order.start(later(600))) == ["web2"]

    def test_they_do_when_nothing_else_is_left(self):
        order = Order(self.FLEET, capacity(kvm1=6))
        assert names(order.start(NIGHT)) == ["db1", "web0", "web1", "web2", "web3", "db2"]

    def test_nor_into_one_repository(self):
        fleet = [replace(one, host=f"kvm{n}") for n, one in enumerate(self.FLEET)]
        order = Order(fleet, capacity(main=2))
        assert names(order.start(NIGHT)) == ["db1", "web0"]

    def test_which_are_heavy(self):
        heavy = heaviest(self.FLEET)
        assert [heavy(one) for one in self.FLEET] == [True, True, False, False, False, False]

    def test_nobody_is_among_equals(self):
        fleet = [job(name) for name in "abcdef"]
        heavy = heaviest(fleet)
        assert not any(heavy(one) for one in fleet)
        assert not heaviest([])(fleet[0])


class TestTimes:
    def test_nothing_starts_before_it_is_due(self):
        late = job("a", due=later(600))
        order = Order([late], capacity())
        assert order.start(NIGHT) == []
        assert order.why(late) == "it is not due before 2026-11-02 22:10"
        assert order.next_change() == late.due
        assert order.start(later(600)) == [late]
        assert order.next_change() is None

    def test_nothing_starts_from_its_deadline_on(self):
        first, second = job("a"), job("b", deadline=later(300))
        order = Order([first, second], capacity())
        assert order.start(NIGHT) == [first]
        assert order.next_change() == later(300)
        order.start(later(300))
        order.finish(first)
        assert order.start(later(600)) == []
        assert order.take_expired() == [(second, "kvm1 is busy with a")]
        assert order.take_expired() == []
        assert order.waiting == ()

    def test_what_may_not_finish_still_starts(self):
        order = Order([job("a", seconds=HOUR, deadline=later(60))], capacity())
        assert names(order.start(NIGHT)) == ["a"]


class TestComingAndGoing:
    def test_a_key_is_known_once(self):
        order = Order([job("a")], capacity())
        with pytest.raises(ValueError, match="known"):
            order.add(job("a"))
        order.start(NIGHT)
        with pytest.raises(KeyError):
            order.remove(job("a"))
        order.finish(job("a"))
        with pytest.raises(KeyError):
            order.finish(job("a"))
        order.add(job("a"))
        assert names(order.start(NIGHT)) == ["a"]

    def test_what_is_removed_does_not_start(self):
        order = Order([job("a"), job("b"), job("c")], capacity())
        order.start(NIGHT)
        order.remove(job("b"))
        order.finish(job("a"))
        assert names(order.start(NIGHT)) == ["c"]

    def test_a_job_that_comes_back_to_another_host(self):
        moved = job("c")
        order = Order([job("a"), job("b", "kvm2"), moved], capacity())
        order.start(NIGHT)
        order.remove(moved)
        order.add(replace(moved, host="kvm2"))
        order.start(NIGHT)
        order.finish(job("a"))
        assert order.start(NIGHT) == []
        order.finish(job("b", "kvm2"))
        assert names(order.start(NIGHT)) == ["c"]

    def test_places_are_held_for_a_job_whose_needs_are_never_free_together(self):
        """Short jobs on the host, and others into the repository, take turns for ever; one job needs both."""
        limits = capacity(kvm1=1, kvm2=1, main=1)
        wants_both = job("both")
        order = Order([], limits)
        on_host = [job(f"h{n}", repository="second", overdue=9 * DAY) for n in range(200)]
        into_main = [job(f"r{n}", "kvm2", overdue=9 * DAY) for n in range(200)]
        order.add(on_host[0])
        order.add(into_main[0])
        assert len(order.start(NIGHT)) == 2
        order.add(wants_both)
        for n in range(1, 200):
            order.add(on_host[n])
            order.add(into_main[n])
            order.finish(on_host[n - 1])
            started = order.start(later(n * HOUR))
            if on_host[n] not in started:
                assert order.why(on_host[n]) == "kvm1 is kept for both, which has waited for a day"
                order.finish(into_main[n - 1])
                assert order.start(later(n * HOUR + 60)) == [wants_both]
                assert 24 <= n <= 26
                return
            order.finish(into_main[n - 1])
            assert order.start(later(n * HOUR + 60)) == [into_main[n]]
        pytest.fail("it starved")


def test_few_looks_per_job_however_many_wait(monkeypatch: pytest.MonkeyPatch):
    """3,000 jobs of 100 hosts into 5 repositories, four at a time into each."""
    looks = 0
    look = Lanes._look

    def counted(lanes: Lanes, place: Place) -> Item | None:
        nonlocal looks
        looks += 1
        return look(lanes, place)

    monkeypatch.setattr(Lanes, "_look", counted)
    fleet = [
        job(f"g{n}", f"host{n % 100}", repository=f"r{n * 7919 % 5}", seconds=60 + n * 31 % 997)
        for n in range(3000)
    ]
    limits = Capacity(100, {}, {HOST: 1, REPOSITORY: 4})
    starts = carry_out(Order([], limits), [(0.0, one) for one in fleet], limits, ask_why=False)
    assert len(starts) == len(fleet)
    assert looks < 6 * len(fleet)


def carry_out(
    order: Order, coming: list[tuple[float, Job]], limits: Capacity, ask_why: bool = True
) -> list[tuple[datetime, Job]]:
    """Hand in jobs at their time, let each run as long as expected; checks the limits all the while."""
    starts: list[tuple[datetime, Job]] = []
    running: dict[str, Job] = {}
    events: list[tuple[float, int, str, Job]] = [(at, 1, one.key, one) for at, one in coming]
    events.sort()
    while events:
        at, kind, _, one = heappop(events)
        if kind == 0:
            del running[one.key]
            order.finish(one)
        else:
            order.add(one)
        if events and events[0][0] == at:
            continue
        for started in order.start(later(at)):
            starts.append((later(at), started))
            running[started.key] = started
            heappush(events, (at + max(started.seconds, 1e-3), 0, started.key, started))
        assert set(running) == {one.key for one in order.running}
        assert within(running.values(), limits)
        assert not ask_why or all(order.why(one) for one in order.waiting)
    return starts


class TestAnyFleet:
    @given(fleets(size=12), capacities(), st.data())
    def test_it_is_what_looking_at_every_job_gives(
        self, fleet: list[Job], limits: Capacity, data: st.DataObject
    ):
        order, plain = Order([], limits), PlainOrder(limits)
        at = 0.0
        while fleet or plain.known:
            for _ in range(data.draw(st.integers(0, len(fleet)))):
                new = fleet.pop()
                order.add(new)
                plain.add(new)
            assert order.start(later(at)) == plain.start(later(at))
            if not plain.running:
                assert not plain.known
            for done in data.draw(
                st.lists(st.sampled_from(plain.running), unique=True) if plain.running else st.just([])
            ):
                order.finish(done)
                plain.finish(done)
            at += data.draw(st.floats(0, 600))

    @given(fleets(), capacities(), st.randoms(use_true_random=False))
    def test_the_order_of_handing_in_does_not_matter(
        self, fleet: list[Job], limits: Capacity, dice: random.Random
    ):
        shuffled = dice.sample(fleet, len(fleet))
        there = [(0.0, one) for one in fleet]
        assert carry_out(Order([], limits), there, limits) == carry_out(
            Order([], limits), [(0.0, one) for one in shuffled], limits
        )

    @given(fleets(), capacities(), st.data())
    def test_everybody_starts_also_when_more_keep_coming(
        self, fleet: list[Job], limits: Capacity, data: st.DataObject
    ):
        coming = [(data.draw(st.floats(0, 3 * DAY)), one) for one in fleet]
        starts = carry_out(Order([], limits), coming, limits)
        assert sorted(one.key for _, one in starts) == sorted(one.key for one in fleet)

    @given(jobs(0), st.integers(1, 3))
    def test_nobody_starves_under_a_stream_of_work(self, one: Job, parallel: int):
        """On the job's host and into its repository more comes than can be done, for a week."""
        limits = Capacity(8, {}, {"host": parallel, "storage": 1, "repository": parallel, "uplink": 1})
        stream = [
            replace(
                one, key=f"new{n:03}", due=later(n * HOUR), seconds=parallel * 2 * HOUR, overdue=n % 3 * HOUR
            )
            for n in range(7 * 24)
        ]
        coming = [(0.5, one), *((n * HOUR, new) for n, new in enumerate(stream))]
        starts = carry_out(Order([], limits), coming, limits)
        found = next(at for at, started in starts if started.key == one.key)
        assert found <= later(4 * DAY)

    @given(fleets(until=5 * HOUR, windows=True), capacities())
    def test_nothing_starts_outside_its_window(self, fleet: list[Job], limits: Capacity):
        order, at, running, seen = Order(fleet, limits), NIGHT, [], set()
        while True:
            for started in order.start(at):
                assert started.due <= at
                assert started.deadline is None or at < started.deadline
                running.append(started)
                seen.add(started.key)
            seen |= {one.key for one, _ in order.take_expired()}
            following = order.next_change()
            if running:
                order.finish(running.pop(0))
            elif following is None:
                break
            at = max(at, following) if following and not running else at
        assert seen == {one.key for one in fleet}
