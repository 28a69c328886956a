"""Freezing by guard.sh: the guest comes first."""

from __future__ import annotations

import pytest
from libvirt_fake import JOB, RECORD, FakeHost, Start, cut, lose, wait_until

from vmconsole.hypervisors.held.cutting import CutReport
from vmconsole.hypervisors.libvirt.guard import Guard


def test_an_agent_that_hangs_leaves_a_pending_freeze(host: FakeHost, start: Start) -> None:
    words = "error: Guest agent is not responding: Guest agent not available for now\n"
    host.write("fail.domfsfreeze", words)
    host.write("fail.domfsthaw", words * 9)
    report = cut(start(freeze=True))
    assert not report.frozen
    assert report.pending
    assert "not responding" in report.reason
    assert host.exists("job")


def test_a_failed_freeze_is_thawed_when_the_agent_answers_again(host: FakeHost, start: Start) -> None:
    host.write("fail.domfsfreeze", "error: Guest agent is not responding: timeout\n")
    report = cut(start(freeze=True))
    assert not report.frozen
    assert not report.pending


@pytest.mark.parametrize(
    "words",
    [
        "Guest agent is not responding: QEMU guest agent is not connected",
        "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': Command "
        "guest-fsfreeze-freeze has been disabled: the agent is in frozen state",
    ],
)
def test_where_nothing_was_frozen_nothing_is_thawed(host: FakeHost, start: Start, words: str) -> None:
    host.write("fail.domfsfreeze", f"error: {words}\n")
    report = cut(start(freeze=True))
    assert report == CutReport(reason=words)
    assert not host.called("domfsthaw")


@pytest.mark.slow
def test_a_thaw_that_fails_is_said_and_tried_again(host: FakeHost, start: Start) -> None:
    host.write("fail.domfsthaw", "error: Guest agent is not responding: timeout\n" * 2)
    guard = start(freeze=True)
    report = cut(guard)
    assert report.frozen
    assert report.pending
    wait_until(lambda: guard_saw_thaw(guard), "the watcher to thaw")
    assert not host.exists("frozen")


def guard_saw_thaw(guard: Guard) -> bool:
    guard.check()
    return guard.thawed_late


@pytest.mark.slow
def test_the_host_thaws_when_the_cut_takes_too_long(host: FakeHost, start: Start) -> None:
    host.write("hang.backup-begin", "2.5")
    report = cut(start(freeze=True, budget=1))
    assert report.early
    assert not report.frozen
    assert report.freeze_ms is not None
    assert report.freeze_ms > 1000


def test_when_we_die_with_the_guest_frozen_it_is_thawed(host: FakeHost) -> None:
    """The connection drops in the middle of the cut: the guard finishes it, thaws, and undoes it."""
    host.write("hang.backup-begin", "1")
    guard = Guard.start(host.machine, host.watched(freeze=True))
    guard._line.send(f"cut\n{JOB}\n{RECORD}")
    wait_until(lambda: host.exists("frozen"), "the freeze")
    lose(guard)
    assert not host.exists("frozen")
    assert not host.exists("job")
    assert host.read("checkpoints") == ""
