"""Events in, how far a run is out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.events import (
    DiskProgress,
    Event,
    GuestFailed,
    GuestPlanned,
    GuestPostponed,
    PointMade,
    Restored,
    RunFinished,
    StepFinished,
    StepStarted,
    Throttled,
    Waiting,
    Warned,
)
from vmconsole.tui.following import WINDOW_SECONDS, Following, Stage, Told, follow

BEGAN = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
MIB = 1 << 20
RUN = "run-1"


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def told(*events: tuple[float, Event]) -> list[Told]:
    return [(number, at(when), event.as_json()) for number, (when, event) in enumerate(events, 1)]


def after(*events: tuple[float, Event]) -> Following:
    return follow(Following(), told(*events))


def planned(guest: str = "web", expected: int = 100 * MIB) -> GuestPlanned:
    return GuestPlanned(RUN, guest, "kvm1", "full", "no restore point yet", "pull", "", expected)


def read(done: int, total: int = 100, disk: str = "vda", guest: str = "web") -> DiskProgress:
    return DiskProgress(RUN, guest, disk, done * MIB, total * MIB)


def made(guest: str = "web") -> PointMade:
    return PointMade(RUN, guest, f"{guest}.1", "full", "application", 9.0, 80 * MIB, 20 * MIB)


def test_rate_and_time_left_are_of_the_last_twenty_seconds():
    """Slow at first, then 2 MiB a second: only that counts."""
    slow = [(float(second), read(0 if second < 60 else 1)) for second in range(0, 61, 10)]
    fast = [(60.0 + second, read(1 + 2 * second)) for second in range(1, 25)]
    guest = after((0, planned()), (0, StepStarted(RUN, "web", "read")), *slow, *fast).guests["web"]
    assert guest.rate(at(84)) == pytest.approx(2 * MIB)
    assert guest.left(at(84)) == pytest.approx((100 - 49) / 2)


def test_a_rate_falls_while_nothing_comes_and_then_it_is_said_that_nothing_comes():
    guest = after((0, read(0)), (10, read(20))).guests["web"]
    assert guest.rate(at(10)) == pytest.approx(2 * MIB)
    assert guest.rate(at(19)) < 2 * MIB
    assert guest.stalled(at(19)) == 0
    assert guest.stalled(at(25)) == 15


def test_it_is_too_early_to_tell_at_first():
    guest = after((0, read(0)), (0.5, read(20))).guests["web"]
    assert guest.rate(at(0.5)) is None
    assert guest.left(at(0.5)) is None


def test_a_disk_that_begins_anew_is_measured_anew():
    guest = after((0, read(0)), (10, read(90)), (11, read(5)), (16, read(10))).guests["web"]
    assert guest.done == 10 * MIB
    assert guest.rate(at(16)) == pytest.approx(MIB)


def test_disks_that_have_not_begun_are_part_of_what_is_left():
    guest = after((0, planned(expected=300 * MIB)), (0, read(0)), (10, read(50))).guests["web"]
    assert guest.total == 300 * MIB
    assert guest.left(at(10)) == pytest.approx(50)


def test_from_the_plan_to_the_point():
    run = after((0, StepStarted(RUN, "web", "plan")), (1, planned()), (2, StepStarted(RUN, "web", "freeze")))
    guest = run.guests["web"]
    assert (guest.step, guest.since, guest.host, guest.mode) == ("freeze", at(2), "kvm1", "full")
    assert run.working == [guest]
    run = follow(run, [(4, at(9), made().as_json())])
    assert run.guests["web"].stage is Stage.DONE
    assert (run.finished, run.made, run.working, run.bytes_read) == (1, 1, [], 80 * MIB)


def test_what_was_thinned_out_is_read_when_the_step_is():
    guest = after((0, read(97)), (1, StepFinished(RUN, "web", "read", 1.0))).guests["web"]
    assert guest.done == guest.total
    assert not guest.moving


def test_a_guest_that_failed_keeps_the_reason_and_the_remedy():
    run = after((0, read(5)), (1, GuestFailed(RUN, "web", "OutOfSpace", "It is full.", "Make room.")))
    guest = run.guests["web"]
    assert (guest.stage, guest.told, guest.hint) == (Stage.FAILED, "It is full.", "Make room.")
    assert (run.finished, run.made) == (1, 0)


def test_a_guest_that_was_postponed_begins_anew():
    later = GuestPostponed(RUN, "web", "It moves.", "")
    run = after((0, read(50)), (1, later))
    assert run.guests["web"].stage is Stage.POSTPONED
    assert run.finished == 0
    run = after((0, read(50)), (1, later), (60, StepStarted(RUN, "web", "plan")))
    assert run.guests["web"].stage is Stage.WORKING
    assert run.guests["web"].done == 0


def test_what_holds_a_host_is_told_until_it_is_held_no_more():
    held = (1, Throttled(RUN, "kvm1", 40 * MIB, "its disks are busy"))
    assert after(held).held == {"kvm1": "kvm1 held to 40 MiB/s: its disks are busy"}
    assert after(held, (2, Throttled(RUN, "kvm1", 0, ""))).held == {}


def test_a_run_waits_until_the_next_step():
    waits = (1, Waiting(RUN, "main", "another run has it"))
    assert after(waits).waiting == ("main", "another run has it")
    assert after(waits, (2, StepStarted(RUN, "web", "plan"))).waiting is None


def test_warnings_go_to_whom_they_are_about():
    run = after(
        (0, read(1)), (1, Warned(RUN, "web", "No agent.")), (2, Warned(RUN, "kvm1", "Old.", "Renew."))
    )
    assert run.guests["web"].warnings == ("No agent.",)
    assert run.warnings == ("kvm1: Old. Renew.",)


def test_a_restore_of_several_guests():
    def restored(guest: str) -> Restored:
        return Restored(RUN, f"{guest}.1", f"kvm1/{guest}", 7 * MIB, 2.0)

    run = after(
        (0, StepStarted(RUN, "a", "restore vda")), (1, read(9, 9, guest="a")), (2, restored("a")),
        (3, StepStarted(RUN, "b", "restore vda")), (4, read(1, 9, guest="b")),
    )  # fmt: skip
    assert [guest.stage for guest in run.guests.values()] == [Stage.DONE, Stage.WORKING]
    assert run.guests["a"].told == "kvm1/a"
    assert run.guests["a"].bytes_read == 7 * MIB


@pytest.mark.parametrize(
    ("state", "stage"), [("done", Stage.DONE), ("cancelled", Stage.LEFT), ("failed", Stage.LEFT)]
)
def test_nobody_is_worked_on_once_the_run_has_ended(state, stage):
    run = after((0, read(5)), (1, RunFinished(RUN, state, 9.0, 0)))
    assert run.ended
    assert run.guests["web"].stage is stage


def test_what_this_version_does_not_know_is_passed_over():
    run = follow(
        Following(),
        [(1, at(0), {"event": "invented", "x": 1}), (2, at(0), {}), (3, at(0), read(5).as_json())],
    )
    assert run.after == 3
    assert run.guests["web"].done == 5 * MIB


_NAMES = st.sampled_from(["web", "db", ""])
_EVENTS = st.one_of(
    st.builds(planned, _NAMES, st.integers(-5, 10**12)),
    st.builds(lambda guest, step: StepStarted(RUN, guest, step), _NAMES, st.sampled_from(["plan", "read"])),
    st.builds(
        lambda guest, step: StepFinished(RUN, guest, step, 1.0), _NAMES, st.sampled_from(["plan", "read"])
    ),
    st.builds(
        lambda guest, disk, done, total: DiskProgress(RUN, guest, disk, done, total),
        _NAMES,
        st.sampled_from(["vda", "vdb"]),
        st.integers(-5, 10**12),
        st.integers(-5, 10**12),
    ),
    st.builds(made, _NAMES),
    st.builds(lambda guest: GuestFailed(RUN, guest, "X", "no", ""), _NAMES),
    st.builds(lambda guest: GuestPostponed(RUN, guest, "later", ""), _NAMES),
    st.builds(lambda guest: Warned(RUN, guest, "hm"), _NAMES),
    st.builds(lambda rate: Throttled(RUN, "kvm1", rate, "busy"), st.integers(0, 10**9)),
    st.just(Restored(RUN, "web.1", "x", 5, 1.0)),
    st.just(Waiting(RUN, "main", "locked")),
    st.just(RunFinished(RUN, "done", 1.0, 0)),
)
_LOGS = st.lists(st.tuples(st.floats(0, 30), _EVENTS), max_size=40)


@given(_LOGS, st.integers(0, 40), st.floats(0, 100))
def test_any_log_read_in_two_parts_or_with_repetitions_tells_the_same(steps, cut, later):
    moment, log = 0.0, []
    for number, (pause, event) in enumerate(steps, 1):
        moment += pause
        log.append((number, at(moment), event.as_json()))
    whole = follow(Following(), log)
    parts = follow(follow(Following(), log[:cut]), log[max(0, cut - 5) :])
    assert parts == whole
    now = at(moment + later)
    for guest in whole.guests.values():
        assert guest.rate(now) is None or guest.rate(now) >= 0
        assert guest.left(now) is None or guest.left(now) >= 0
        for disk in guest.disks.values():
            assert 0 <= disk.share <= 1
            assert disk.stalled(now) >= 0
            # However long a run takes, what is remembered of it stays small.
            old = [
                when
                for when, _ in disk.samples
                if (disk.samples[-1][0] - when).total_seconds() > WINDOW_SECONDS
            ]
            assert len(old) <= 1
    assert whole.finished <= len(whole.guests)


def test_two_guests_of_one_name_are_followed_each_by_itself() -> None:
    def of(uuid: str, host: str) -> list[Event]:
        plan = replace(planned(), host=host, uuid=uuid)
        return [StepStarted(RUN, "web", "plan", uuid), plan, replace(read(10), uuid=uuid)]

    one, other = of("1111-1", "kvm1"), of("2222-2", "kvm2")
    run = after(*[(1.0, event) for pair in zip(one, other, strict=True) for event in pair])
    more = replace(read(60), uuid="2222-2")
    warned = Warned(RUN, "web", "It is slow.", uuid="1111-1")
    run = follow(run, [(10, at(2.0), more.as_json()), (11, at(2.0), warned.as_json())])
    assert [guest.done // MIB for guest in run.working] == [10, 60]
    assert [run.label(guest) for guest in run.working] == ["kvm1/web", "kvm2/web"]
    assert [guest.warnings for guest in run.working] == [("It is slow.",), ()]
    run = follow(run, [(12, at(3.0), replace(made(), uuid="1111-1").as_json())])
    assert [guest.uuid for guest in run.working] == ["2222-2"]
    assert run.finished == 1


def test_two_of_one_name_on_one_host_are_told_by_their_uuids() -> None:
    run = after(*[(1.0, replace(planned(), uuid=uuid)) for uuid in ("11111111-1", "22222222-2")])
    assert [run.label(guest) for guest in run.working] == ["web (11111111)", "web (22222222)"]


def test_a_run_of_an_older_version_tells_no_uuids() -> None:
    run = after((1.0, planned()), (2.0, read(10)))
    assert "uuid" not in planned().as_json()
    assert run.part("1111-1", "web") is run.working[0]
