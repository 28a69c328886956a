"""guard.sh in real shells, against a virsh that fails in every way."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from libvirt_fake import JOB, RECORD, UUID, FakeHost, Start, cut, lose, make_fake_host, wait_until

from vmconsole.errors import (
    BackupFailed,
    CommandFailed,
    GuestBusy,
    GuestStopped,
    HostError,
    HostUnreachable,
    OutOfSpace,
)
from vmconsole.hypervisors.held.cutting import CutReport
from vmconsole.hypervisors.held.line import GuardLine
from vmconsole.hypervisors.libvirt import guard as guards
from vmconsole.hypervisors.libvirt.guard import Guard

SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]
CHECKPOINT = "vmconsole-deadbeef-run1"


# --- the good way ---


@pytest.mark.parametrize("shell", SHELLS)
def test_a_whole_backup_in_every_shell(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_fake_host(tmp_path, monkeypatch.setenv, shell)
    host.write("checkpoints", "vmconsole-deadbeef-run0\nforeign\n")
    scratch = host.folder / "vmconsole-c65fe78e-vda-run1.scratch"
    scratch.touch()
    phases: list[tuple[str, bool]] = []
    guard = Guard.start(host.machine, host.watched(freeze=True))

    report = cut(guard, phases)

    assert report.frozen
    assert not report.early
    assert not report.pending
    assert report.freeze_ms is not None
    assert report.freeze_ms < 5000
    assert phases == [(name, done) for name in ("freeze", "cut", "thaw") for done in (False, True)]
    assert not host.exists("frozen")
    # Both documents arrived whole.
    assert host.read("job").strip() == JOB
    assert host.read("record").strip() == RECORD
    guard.check()
    guard.explain()
    assert guard.release()
    assert not host.exists("job")
    assert not scratch.exists()
    guard.keep()
    guard.done()
    assert host.read("checkpoints").split() == ["vmconsole-deadbeef-run0", "foreign", CHECKPOINT]


@pytest.mark.parametrize("shell", SHELLS)
def test_documents_arrive_as_they_are(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_fake_host(tmp_path, monkeypatch.setenv, shell)
    guard = Guard.start(host.machine, host.watched())
    start = JOB[: -len("</domainbackup>")]
    hostile = r"""<x a='$(touch hacked) `id` \n \\ "q" é'/>"""
    backup = f"{start}{hostile}{'y' * 20_000}</domainbackup>"
    guard.cut(backup, "", lambda *_: None)
    assert host.read("job") == backup + "\n"
    assert not host.exists("record")
    assert not host.exists("hacked")
    assert guard.rollback()


def test_the_order_is_timeout_freeze_cut_thaw(host: FakeHost, start: Start) -> None:
    cut(start(freeze=True))
    commands = [line.split()[0] for line in host.log]
    order = [
        "domjobinfo",
        "guest-agent-timeout",
        "domfsfreeze",
        "backup-begin",
        "domfsthaw",
        "guest-agent-timeout",
    ]
    assert [command for command in commands if command in order] == order


def test_without_freezing_the_agent_is_left_alone(host: FakeHost, start: Start) -> None:
    report = cut(start(freeze=False))
    assert report == CutReport()
    assert not any("fs" in line or "agent" in line for line in host.log)


# --- giving up ---


@pytest.mark.parametrize("shell", SHELLS)
def test_the_end_of_our_side_undoes_everything(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_fake_host(tmp_path, monkeypatch.setenv, shell)
    host.write("checkpoints", "vmconsole-deadbeef-run0\n")
    guard = Guard.start(host.machine, host.watched())
    cut(guard)
    (host.folder / "vmconsole-c65fe78e-vda-run1.scratch").touch()
    lose(guard)
    assert not host.exists("job")
    assert host.read("checkpoints").split() == ["vmconsole-deadbeef-run0"]
    assert not list(host.folder.iterdir())


def test_after_keep_the_checkpoint_stays(host: FakeHost) -> None:
    guard = Guard.start(host.machine, host.watched())
    cut(guard)
    guard.release()
    guard.keep()
    lose(guard)
    assert host.read("checkpoints").split() == [CHECKPOINT]


def test_before_the_cut_there_is_nothing_to_undo(host: FakeHost) -> None:
    host.write("checkpoints", "foreign\n")
    lose(Guard.start(host.machine, host.watched()))
    assert host.read("checkpoints") == "foreign\n"
    assert not host.called("domjobabort")


def test_a_foreign_job_is_never_ended(host: FakeHost, start: Start) -> None:
    guard = start()
    host.write("job", "<domainbackup>somebody else's</domainbackup>")
    with pytest.raises(GuestBusy, match="another program"):
        cut(guard)
    assert guard.rollback()
    assert guards.clean(host.machine, host.watched()) == ""
    assert host.exists("job")
    assert not host.called("domjobabort")
    assert not host.called("domfsfreeze")


def test_other_jobs_are_waited_for_by_nobody_with_a_frozen_guest(host: FakeHost, start: Start) -> None:
    host.write("operation", "Operation:        Outgoing migration\n")
    host.write("job", "")
    with pytest.raises(GuestBusy):
        cut(start(freeze=True))
    assert not host.called("domfsfreeze")


def test_a_refused_job_is_said_with_libvirts_words(host: FakeHost, start: Start) -> None:
    host.write("fail.backup-begin", "error: internal error: something odd\n")
    guard = start(freeze=True)
    with pytest.raises(CommandFailed, match="something odd"):
        cut(guard)
    assert not host.exists("frozen")
    assert guard.rollback()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("cannot acquire state change lock (held by monitor=x)", GuestBusy),
        ("checkpoint inconsistent: missing or broken bitmap 'v0' for disk 'vdc'", BackupFailed),
        ("Requested operation is not valid: domain is not running", GuestStopped),
        ("Cannot store dirty bitmaps in qcow2 v2 files", BackupFailed),
        ("cannot create file '/s/x': No space left on device", OutOfSpace),
    ],
)
def test_what_libvirts_refusals_mean(
    host: FakeHost, start: Start, words: str, error: type[Exception]
) -> None:
    host.write("fail.backup-begin", f"error: {words}\n")
    with pytest.raises(error) as caught:
        cut(start())
    assert caught.value.hint  # type: ignore[attr-defined]  # all are VmconsoleError


def test_a_job_that_libvirt_began_although_the_answer_was_lost_is_ended(host: FakeHost, start: Start) -> None:
    """libvirtd restarts while it carries out backup-begin: virsh fails, the job is there a little later."""
    host.write("fail.backup-begin", "error: End of file while reading data: Input/output error\n")
    guard = start()
    with pytest.raises(HostError):
        cut(guard)
    looked = host.called("backup-dumpxml")

    def begin_late() -> None:
        wait_until(lambda: host.called("backup-dumpxml") > looked + 2, "the guard to look for the job")
        host.write("checkpoints", f"{CHECKPOINT}\n")
        host.write("job", JOB)

    libvirtd = threading.Thread(target=begin_late)
    libvirtd.start()
    assert guard.rollback()
    libvirtd.join()
    assert not host.exists("job")
    assert host.read("checkpoints") == ""


def test_libvirtd_away_for_a_moment_does_not_stop_the_clean_up(host: FakeHost, start: Start) -> None:
    guard = start()
    cut(guard)
    host.write("fail.backup-dumpxml", "error: failed to connect to the hypervisor\n" * 3)
    assert guard.rollback()
    assert not host.exists("job")


def test_a_checkpoint_with_a_lost_bitmap_goes_by_its_metadata(host: FakeHost, start: Start) -> None:
    guard = start()
    cut(guard)
    host.write("fail.checkpoint-delete", "error: bitmap 'v0' not found in backing chain of 'vda'\n")
    assert guard.rollback()
    assert host.log[-1] == f"checkpoint-delete {UUID} {CHECKPOINT} --metadata"


def test_what_cannot_be_undone_is_said(host: FakeHost, start: Start) -> None:
    guard = start()
    cut(guard)
    host.write("fail.checkpoint-delete", "error: no way\n" * 9)
    assert not guard.rollback()
    host.write("fail.checkpoint-delete", "error: no way\n" * 9)
    assert "no way" in guards.clean(host.machine, host.watched())


# --- while it lasts ---


def test_too_little_space_ends_the_job_at_once(host: FakeHost, start: Start) -> None:
    guard = start(reserve=10**17)
    cut(guard)
    wait_until(lambda: not host.exists("job"), "the job to end")
    with pytest.raises(OutOfSpace, match="bytes were left"):
        guard.check()
    assert guard.rollback()
    assert host.read("checkpoints") == ""


@pytest.mark.slow
def test_a_guest_paused_by_an_io_error_goes_on(host: FakeHost, start: Start) -> None:
    guard = start()
    cut(guard)
    host.write("state", "paused (I/O error)\n")
    wait_until(lambda: host.read("state") == "running (unpaused)\n", "the guest to go on")
    assert not host.exists("job")
    with pytest.raises(OutOfSpace, match="I/O error"):
        guard.explain()


@pytest.mark.slow
def test_a_guest_that_was_paused_by_an_io_error_before_stays_so(host: FakeHost, start: Start) -> None:
    host.write("state", "paused (I/O error)\n")
    guard = start()
    cut(guard)
    asked = host.called("domstate")
    wait_until(lambda: host.called("domstate") > asked, "the watcher to look")
    guard.explain()
    assert guard.rollback()
    assert not host.called("resume")


@pytest.mark.slow
def test_a_guest_that_stops_is_noticed(host: FakeHost, start: Start) -> None:
    guard = start()
    cut(guard)
    host.write("state", "shut off (shutdown)\n")
    (host.root / "job").unlink()
    with pytest.raises(GuestStopped):
        guard.explain()

    def noticed() -> bool:
        try:
            guard.check()
        except GuestStopped:
            return True
        return False

    wait_until(noticed, "the watcher to say so")
    host.write("fail.checkpoint-delete", "error: cannot delete checkpoint for inactive domain\n")
    assert guard.rollback()


def test_an_aborted_job_is_explained(host: FakeHost, start: Start) -> None:
    guard = start()
    cut(guard)
    (host.root / "job").unlink()
    with pytest.raises(BackupFailed, match="somebody ended it"):
        guard.explain()


@pytest.mark.slow
def test_silence_ends_the_guard(host: FakeHost, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardLine, "_beat", lambda self: None)
    guard = start(silence=2)
    cut(guard)
    wait_until(lambda: not host.exists("job"), "the guard to give us up")
    wait_until(lambda: host.read("checkpoints") == "", "the checkpoint to go")
    with pytest.raises(HostError):
        guard.release()


@pytest.mark.slow
def test_signs_of_life_keep_it(host: FakeHost, start: Start) -> None:
    guard = start(silence=2)
    cut(guard)
    begun = len(host.log)
    # The watcher asks after three seconds; silence would have ended it by then.
    wait_until(lambda: any("domstate" in line for line in host.log[begun:]), "three seconds of watching")
    guard.explain()
    assert host.exists("job")


def test_a_guard_that_is_gone_is_noticed(host: FakeHost) -> None:
    guard = Guard.start(host.machine, host.watched())
    lose(guard)
    with pytest.raises(HostUnreachable):
        guard.keep()
    guard.done()


# --- clean ---


def test_clean_undoes_what_is_ours_and_thaws(host: FakeHost) -> None:
    host.write("job", JOB)
    host.write("checkpoints", f"foreign\n{CHECKPOINT}\n")
    host.write("frozen", "")
    assert guards.clean(host.machine, host.watched(freeze=True)) == ""
    assert not host.exists("job")
    assert not host.exists("frozen")
    assert host.read("checkpoints") == "foreign\n"
    assert guards.clean(host.machine, host.watched(freeze=True)) == ""


def test_clean_says_when_the_guest_may_still_be_frozen(host: FakeHost) -> None:
    host.write("fail.domfsthaw", "error: Guest agent is not responding: timeout\n")
    assert "may be frozen" in guards.clean(host.machine, host.watched(freeze=True))
    host.write("fail.domfsthaw", "error: Requested operation is not valid: domain is not running\n")
    assert guards.clean(host.machine, host.watched(freeze=True)) == ""


def test_clean_of_a_guest_that_is_gone(host: FakeHost) -> None:
    words = "error: failed to get domain 'x'\n"
    for command in ("backup-dumpxml", "checkpoint-delete", "domstate"):
        host.write(f"fail.{command}", words * 9)
    assert guards.clean(host.machine, host.watched()) == ""
