"""The order of a backup's steps, and what is undone when one of them fails."""

from __future__ import annotations

import hashlib

import pytest
from fakes import MIB, Diary, FakeHypervisor, FakeRepository, FakeStore, context, guest

from vmconsole.errors import (
    BackupFailed,
    Cancelled,
    GuestBusy,
    GuestStopped,
    HostUnreachable,
    ParentUnusable,
    ProtocolError,
    RepositoryFull,
)
from vmconsole.events import GuestFailed, PointMade, RunFinished, StepFinished, Warned
from vmconsole.interfaces import Cancel, ExportOptions
from vmconsole.model.point import Consistency, Mode
from vmconsole.runs.backup import back_up, with_full_rule
from vmconsole.runs.runner import Runner, forecast
from vmconsole.runs.work import Target


@pytest.fixture
def diary():
    return Diary()


@pytest.fixture
def host(diary):
    return FakeHypervisor(diary)


@pytest.fixture
def repository(diary):
    return FakeRepository(diary)


def make(host, repository, events=None, cancel=None, full_every=30):
    target = Target(guest(), host, repository, full_every=full_every)
    return back_up(target, repository.id(), repository, context(events, cancel))


def test_a_full_then_an_incremental_hold_what_the_disk_held(host, repository, diary):
    first = make(host, repository)
    assert diary == ["plan", "export", "release", "commit", "advance"]
    assert first.mode is Mode.FULL
    assert first.disks[0].sha256 == hashlib.sha256(host.content).hexdigest()
    assert first.disks[0].bytes_read == 3 * MIB
    assert repository.disks[first.archive, "disks/vda.raw"] == host.content

    host.content = host.content[: 3 * MIB] + b"d" * MIB
    second = make(host, repository)
    assert second.mode is Mode.INCREMENTAL
    assert second.disks[0].parent == f"id-{first.archive}"
    assert second.disks[0].sha256 == ""
    assert second.disks[0].bytes_read == MIB
    assert second.fulls_ago == 1
    assert second.consistency is Consistency.APPLICATION
    assert repository.disks[second.archive, "disks/vda.raw"] == host.content
    assert second.archive != first.archive, "two cuts in one second get two names"


def test_the_host_is_released_before_the_commit_and_advances_only_after_it(host, repository, diary):
    events = []
    make(host, repository, events)
    steps = [event.step for event in events if isinstance(event, StepFinished)]
    assert steps == ["plan", "read", "release", "commit", "advance"]
    assert isinstance(events[-1], PointMade)


@pytest.mark.parametrize("word", ["release"])
def test_a_failure_on_the_host_leaves_nothing(host, repository, diary, word):
    host.prepare = lambda export: export.fail.update({word: GuestStopped("it powered off")})
    with pytest.raises(GuestStopped):
        make(host, repository)
    assert diary[-2:] == ["abort", "rollback"]
    assert repository.saved == []


def test_a_failed_commit_keeps_the_old_bitmap(host, repository, diary):
    repository.fail_commit = RepositoryFull("no space")
    with pytest.raises(RepositoryFull):
        make(host, repository)
    assert diary[-3:] == ["commit", "abort", "rollback"]
    assert "advance" not in diary


def test_a_broken_stream_is_explained_by_what_the_host_says(host, repository):
    def prepare(export):
        export.disks[0].fail_after = (1, ProtocolError("the stream ended"))
        export.fail["check"] = GuestStopped("web powered off")

    host.prepare = prepare
    with pytest.raises(GuestStopped, match="powered off"):
        make(host, repository)


def test_a_broken_stream_without_reason_stays_what_it_was(host, repository):
    def prepare(export):
        export.disks[0].fail_after = (1, HostUnreachable("the line dropped"))
        export.fail["check"] = HostUnreachable("still dropped")

    host.prepare = prepare
    with pytest.raises(HostUnreachable, match="the line dropped"):
        make(host, repository)


def test_missing_bytes_are_never_committed(host, repository, diary):
    def prepare(export):
        disk = export.disks[0]
        disk.read = lambda extents: iter([(e.offset, bytes(e.length - 1)) for e in extents])

    host.prepare = prepare
    with pytest.raises((ProtocolError, AssertionError)):
        make(host, repository)
    assert repository.saved == []
    assert diary[-1] == "rollback"


def test_a_crash_of_our_own_also_releases_the_guest(host, repository, diary):
    host.prepare = lambda export: setattr(export.disks[0], "fail_after", (0, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        make(host, repository)
    assert diary[-1] == "rollback"


def test_a_failed_advance_is_a_warning_because_the_point_is_safe(host, repository):
    host.prepare = lambda export: export.fail.update({"advance": BackupFailed("virsh said no")})
    events = []
    point = make(host, repository, events)
    assert repository.saved[0].archive == point.archive
    assert any(isinstance(event, Warned) and "safe" in event.message for event in events)


def test_cancelled_before_the_read_moves_nothing(host, repository, diary):
    cancel = Cancel()
    cancel.set("stop")
    with pytest.raises(Cancelled):
        make(host, repository, cancel=cancel)
    assert repository.saved == []
    assert diary[-1] == "rollback"


def test_every_nth_run_reads_everything(host, repository):
    points = [make(host, repository, full_every=3) for _ in range(7)]
    assert [point.mode for point in points] == [
        Mode.FULL,
        Mode.INCREMENTAL,
        Mode.INCREMENTAL,
        Mode.FULL,
        Mode.INCREMENTAL,
        Mode.INCREMENTAL,
        Mode.FULL,
    ]
    assert "every 3 runs" in points[3].reason


def test_zero_means_never_full_by_rule(host, repository):
    point = make(host, repository)
    assert with_full_rule(ExportOptions(), [point], 0, MIB).full_reason == ""


def test_another_chunk_size_needs_a_full_read(host, repository):
    make(host, repository)
    repository.chunk_size = 2 * MIB
    point = make(host, repository)
    assert point.mode is Mode.FULL
    assert "chunk size" in point.reason


class TestRunner:
    @pytest.fixture
    def store(self):
        return FakeStore()

    def target(self, host, repository, **more):
        return Target(guest(**more), host, repository)

    def run(self, store, targets, cancel=None, events=None):
        listeners = [events.append] if events is not None else []
        return Runner(store, context().clock, cancel or Cancel(), listeners).backup(targets, "test")

    def test_a_good_run_is_done(self, store, host, repository):
        events = []
        outcome = self.run(store, [self.target(host, repository)], events=events)
        assert outcome.exit_code == 0
        assert store.finished[0][2] == 0
        assert store.claims == {}
        assert len(store.saved_points["main"]) == 1
        assert isinstance(events[-1], RunFinished)
        assert store.log[0]["event"] == "run_started"

    def test_one_bad_guest_does_not_stop_the_others(self, store, diary, repository):
        bad, good = FakeHypervisor(diary), FakeHypervisor(diary)
        bad.prepare = lambda export: export.fail.update(release=GuestStopped("off"))
        events = []
        outcome = self.run(
            store,
            [
                self.target(bad, repository, name="bad", uuid="bad"),
                self.target(good, repository, uuid="good"),
            ],
            events=events,
        )
        assert outcome.exit_code == 1
        assert len(outcome.points) == 1
        assert [event.guest for event in events if isinstance(event, GuestFailed)] == ["bad"]

    def test_the_only_error_decides_the_exit_code(self, store, host, repository):
        host.prepare = lambda export: export.fail.update(release=HostUnreachable("gone"))
        assert self.run(store, [self.target(host, repository)]).exit_code == 20

    def test_a_guest_in_other_hands_is_busy(self, store, host, repository):
        store.claims[f"guest/{guest().uuid}"] = "other-run"
        outcome = self.run(store, [self.target(host, repository)])
        assert isinstance(outcome.errors[0][1], GuestBusy)
        assert "other-run" in outcome.errors[0][1].hint
        assert store.claims == {f"guest/{guest().uuid}": "other-run"}

    def test_a_parent_that_cannot_be_used_is_read_around(self, store, host, repository, monkeypatch):
        self.run(store, [self.target(host, repository)])
        real = FakeRepository.archive

        def archive(repository, name):
            made = real(repository, name)
            keep = made.disk

            def disk(path, size, parent=None):
                if parent:
                    raise ParentUnusable("the parent is gone")
                return keep(path, size)

            made.disk = disk
            return made

        monkeypatch.setattr(FakeRepository, "archive", archive)
        outcome = self.run(store, [self.target(host, repository)])
        assert outcome.exit_code == 3
        assert outcome.points[0].mode is Mode.FULL
        assert "parent" in outcome.points[0].reason

    def test_a_stopped_run_says_so(self, store, host, repository):
        cancel = Cancel()
        cancel.set("Stopped by SIGTERM.")
        outcome = self.run(store, [self.target(host, repository)], cancel=cancel)
        assert outcome.exit_code == 130
        assert outcome.state.value == "cancelled"

    def test_a_bug_is_recorded_as_one(self, store, host, repository):
        host.prepare = lambda export: (_ for _ in ()).throw(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            self.run(store, [self.target(host, repository)])
        assert store.finished[0][2] == 70

    def test_the_forecast_changes_nothing(self, host, repository, diary):
        plans = list(forecast([self.target(host, repository)], {}))
        assert plans[0][1].mode is Mode.FULL
        assert diary == ["plan"]
