"""Backing off and coming back, against hosts that are modelled: always the same, no clock, no thread."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
from headroom_hosts import LOOK, MIB, SharedDisk, Trial
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.model.guest import HostLoad
from vmconsole.model.vitals import Vitals, WriteCounters
from vmconsole.runs.headroom import FLOOR, Headroom, Verdict
from vmconsole.runs.symptoms import Sight, Symptoms

HOSTS = st.builds(
    SharedDisk,
    capacity=st.integers(20, 2000).map(lambda rate: rate * MIB),
    guest=st.integers(0, 10).map(lambda rate: rate * MIB),
    demand=st.integers(5, 800).map(lambda rate: rate * MIB),
    write=st.sampled_from([0.0005, 0.002, 0.005, 0.02]),
    writes_per_second=st.sampled_from([0.5, 5.0, 50.0, 500.0]),
)


def test_it_converges_to_what_the_guest_can_bear() -> None:
    host = SharedDisk()
    usual = host.latency(0)
    trial = Trial(host).quiet(5).read(60)
    assert trial.latencies[0] > 20 * usual, "unlimited, the guest hardly gets a turn"
    assert max(trial.latencies[20:]) < 2 * usual
    assert mean(trial.latencies[20:]) < 1.6 * usual
    assert mean(trial.rates[20:]) > 30 * MIB, "and what is free is used"
    assert "its guests' writes take" in trial.verdicts[0].reason
    assert trial.verdicts[0].reason.endswith("times as long")


def test_it_backs_off_from_what_was_reached_not_from_what_was_allowed() -> None:
    trial = Trial(SharedDisk(capacity=50 * MIB)).quiet(5).read(1)
    assert 0 < trial.verdicts[0].rate < 0.6 * trial.rates[0]


def test_it_comes_back_to_full_speed_when_the_others_have_gone() -> None:
    host = SharedDisk()
    trial = Trial(host).quiet(5).read(40)
    assert trial.verdicts[-1].rate
    host.capacity *= 20
    trial.read(60)
    assert trial.verdicts[-1] == Verdict(0, "back to full speed")


def test_a_host_that_bears_it_is_left_alone() -> None:
    trial = Trial(SharedDisk(capacity=2000 * MIB, demand=200 * MIB)).quiet(5).read(60)
    assert {verdict.rate for verdict in trial.verdicts} == {0}


def test_our_own_queue_on_an_idle_host_is_no_suffering() -> None:
    """The disk is busy all the time, and the only guest there does not write."""
    trial = Trial(SharedDisk(guest=0, writes_per_second=0)).quiet(5).read(60)
    assert {verdict.rate for verdict in trial.verdicts} == {0}


def test_writes_that_do_not_suffer_outweigh_pressure() -> None:
    class Deep(SharedDisk):
        def latency(self, rate: float) -> float:
            return self.write

    trial = Trial(Deep()).quiet(5).read(40)
    assert trial.host.psi > 0.9
    assert {verdict.rate for verdict in trial.verdicts} == {0}


def test_pressure_counts_where_nothing_is_known_of_writes() -> None:
    trial = Trial(SharedDisk(tells=False)).quiet(5).read(60)
    assert any("waits for its disks" in verdict.reason for verdict in trial.verdicts)
    assert mean(trial.rates[30:]) < 0.6 * trial.host.capacity
    assert trial.host.psi < 0.6


def test_a_host_that_was_under_pressure_before_is_not_read_at_the_floor_for_that() -> None:
    trial = Trial(SharedDisk(tells=False, guest=120 * MIB, psi=0.6)).quiet(10).read(60)
    assert mean(trial.rates[30:]) > 10 * FLOOR


def test_guests_that_stop_writing_while_they_are_read_are_not_idle() -> None:
    """Writes that hang are not counted. Whoever wrote before is expected to."""
    host = SharedDisk()
    trial = Trial(host).quiet(10)
    host.writes_per_second = 0
    trial.read(20)
    assert any("waits for its disks" in verdict.reason for verdict in trial.verdicts)


def test_slow_reads() -> None:
    judge = Headroom()
    fast = Sight(0, Vitals(HostLoad()), 100.0 * MIB, 0.008)
    for number in range(10):
        assert judge.observe(replace(fast, now=3.0 * number)).rate == 0
    found = judge.observe(Sight(40, Vitals(HostLoad()), 20.0 * MIB, 0.04))
    assert 0 < found.rate < 20 * MIB
    assert found.reason == "it takes 5.0 times as long to read from it"


def test_slow_reads_that_stay_become_usual() -> None:
    symptoms = Symptoms()
    for number in range(10):
        symptoms.look(Sight(number, Vitals(HostLoad()), MIB, 0.01))
    severities = [
        max(
            (item.severity for item in symptoms.look(Sight(10 + number, Vitals(HostLoad()), MIB, 0.1))),
            default=0,
        )
        for number in range(100)
    ]
    assert severities[0] > 2
    assert severities[-1] < 1


def test_a_read_below_20_ms_is_never_slow() -> None:
    symptoms = Symptoms()
    for number in range(20):
        symptoms.look(Sight(number, Vitals(HostLoad()), MIB, 0.0005))
    assert symptoms.look(Sight(20, Vitals(HostLoad()), MIB, 0.019)) == []


def test_a_host_that_does_not_answer_suffers() -> None:
    judge = Headroom()
    judge.observe(Sight(0, Vitals(HostLoad()), 0))
    found = judge.observe(Sight(5, None, 50 * MIB))
    assert 0 < found.rate < 50 * MIB
    assert found.reason == "it does not answer in time"
    for number in range(50):
        found = judge.observe(Sight(5.0 + number, None, found.rate))
    assert found.rate == FLOOR


def test_what_nobody_reads_is_not_our_doing() -> None:
    judge = Headroom()
    for number in range(20):
        assert judge.observe(Sight(number, None, 0)).rate == 0


def test_memory_and_processors() -> None:
    for load, words in (
        (HostLoad(0.1, 0.0, 0.3), "it waits for memory 30 % of the time"),
        (HostLoad(0.9, 0.0, 0.0), "programs there wait for a processor 90 % of the time"),
        (HostLoad(3.0, None, None), "its load is 3.0 per processor"),
    ):
        judge = Headroom()
        judge.observe(Sight(0, Vitals(HostLoad(0.1, None if load.io is None else 0.0, 0.0)), 0))
        assert judge.observe(Sight(3, Vitals(load), 50 * MIB)) == Verdict(judge.verdict.rate, words)
        assert judge.verdict.rate > FLOOR


def test_pressure_is_given_time_to_go_away() -> None:
    """A PSI average remembers ten seconds: one back-off for them, not four."""
    judge = Headroom()
    judge.observe(Sight(0, Vitals(HostLoad(0.1, 0.0, 0.0)), 0))
    high = Vitals(HostLoad(0.1, 0.0, 0.3))
    first = judge.observe(Sight(3, high, 50 * MIB)).rate
    assert [judge.observe(Sight(now, high, first)).rate for now in (6, 9, 12)] == [first] * 3
    assert judge.observe(Sight(15, high, first)).rate < first


def test_a_guest_that_was_started_anew_begins_anew() -> None:
    symptoms = Symptoms()
    for number, count in enumerate((0, 1000, 2000, 10, 900)):
        writes = {"a": WriteCounters(count, count * (0.001 if number < 4 else 0.1))}
        found = symptoms.look(Sight(3.0 * number, Vitals(HostLoad(), writes), 0 if number < 3 else MIB))
        assert number == 4 or found == []
    assert [round(item.severity) for item in found] == [67]


def test_without_anything_known_of_before_the_guest_s_life_is_the_measure() -> None:
    symptoms = Symptoms()
    seen = [WriteCounters(10_000, 10.0), WriteCounters(10_100, 12.0)]
    found = [
        symptoms.look(Sight(3.0 * number, Vitals(HostLoad(), {"a": counters}), MIB))
        for number, counters in enumerate(seen)
    ]
    assert found[0] == []
    assert found[1][0].reason == "its guests' writes take 20.0 times as long"


@settings(deadline=None, max_examples=150)
@given(host=HOSTS)
def test_whatever_the_host(host: SharedDisk) -> None:
    """Never below the floor; the guest is at peace or the floor is reached; no swinging to and fro."""
    usual = host.latency(0)
    trial = Trial(host).quiet(8).read(150)
    limits = [verdict.rate for verdict in trial.verdicts]
    assert all(rate == 0 or rate >= FLOOR for rate in limits)
    late, ended = trial.latencies[60:], limits[60:]
    if host.writes_per_second < 5:
        return  # too few to tell soon
    if min(ended) == 0:
        assert set(ended) == {0} or max(trial.latencies[60:]) < 2 * max(usual, 0.004)
    else:
        assert max(ended) / min(ended) <= 4
        assert mean(late) < 1.7 * max(usual, 0.004) or min(ended) <= FLOOR * 1.6
    if host.latency(host.reached(0)) < 1.1 * usual:
        assert set(limits) == {0}


@settings(deadline=None, max_examples=50)
@given(host=HOSTS.filter(lambda host: host.writes_per_second >= 5), burst=st.integers(3, 30))
def test_a_burst_that_ends_is_forgotten(host: SharedDisk, burst: int) -> None:
    """A neighbour takes nearly all of the disk for a while."""
    before = host.capacity
    trial = Trial(host).quiet(8)
    host.capacity = max(before / 50, host.guest * 1.05 + MIB)
    trial.read(burst)
    host.capacity = max(before, 20 * (host.guest + host.demand))
    trial.read(200)
    assert trial.verdicts[-1].rate == 0


def test_looks_are_what_the_model_says() -> None:
    host = SharedDisk()
    sight = host.pass_time(0)
    assert (sight.now, sight.rate) == (LOOK, 184 * MIB)


@pytest.mark.parametrize("looks", [200])
def test_the_same_again(looks: int) -> None:
    first, second = (Trial(SharedDisk()).quiet(3).read(looks).verdicts for _ in range(2))
    assert first == second
