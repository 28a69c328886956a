"""Pull-mode export against the real libvirt when things go wrong: nothing is lost, nothing is left."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.access import SshAccess, ssh_access
from lab.accounts import OPERATOR, VIEWER
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.leftovers import guest_leftovers, leftovers
from lab.session import Lab
from lab.waiting import wait_for
from libvirt_bench import Bench
from libvirt_shelf import Shelf, only_our_checkpoint, problem, same, started

from vmconsole.errors import (
    BackupFailed,
    GuestBusy,
    GuestStopped,
    HostError,
    OutOfSpace,
)
from vmconsole.hypervisors.held.line import GuardLine
from vmconsole.hypervisors.libvirt import guard, hold, journal
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.model.point import Mode

pytestmark = pytest.mark.rig

DISKS = (DiskSpec("vda", fs="ext4"), DiskSpec("vdb"), DiskSpec("vdc", size=32 * MIB, format="raw"))
MakeGuest = Callable[..., Guest]


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[Guest]:
    """A running guest whose tests leave it as they found it, but for its checkpoints."""
    with lab.guest("prod db <1>", DISKS, title="The database #prod #db") as guest:
        yield guest


@pytest.fixture
def guest(shared: Guest) -> Iterator[Guest]:
    yield shared
    for name in shared.checkpoints():
        shared.virsh("checkpoint-delete", name)


@pytest.fixture
def shelf(lab: Lab, tmp_path: Path) -> Shelf:
    return Shelf(Bench(lab.host), tmp_path / "shelf")


# --- other jobs ---


def test_a_foreign_job_is_named_and_left_alone(guest: Guest, shelf: Shelf) -> None:
    plan = shelf.plan(guest.uuid)
    guest.virsh(
        "backup-begin", "/dev/stdin",
        stdin="<domainbackup mode='pull'><server transport='unix' socket='/var/lib/libvirt/qemu/other.sock'/>"
        "<disks><disk name='vda' backup='yes' type='file'>"
        f"<scratch file='{guest.folder}/other.scratch'/></disk></disks></domainbackup>",
    )  # fmt: skip
    try:
        with pytest.raises(GuestBusy, match=r"another program.*other\.sock"):
            shelf.plan(guest.uuid)
        with pytest.raises(GuestBusy, match="another program"):
            shelf.host.export(plan, shelf.bench.context)
        assert guest.job()
        assert not guest.frozen()
        assert not shelf.bench.journal.entries
    finally:
        guest.virsh("domjobabort")
        wait_for(lambda: not guest.job(), "the job to end", 60)
        guest.host.run(["rm", "-f", "/var/lib/libvirt/qemu/other.sock"])


def test_a_second_run_on_the_same_guest_is_told_and_disturbs_nothing(guest: Guest, shelf: Shelf) -> None:
    stale = shelf.plan(guest.uuid)
    _, export, _ = shelf.open(guest.uuid)
    try:
        with pytest.raises(GuestBusy, match="another run of vmconsole"):
            shelf.plan(guest.uuid)
        shelf.bench.run = "second"
        with pytest.raises(GuestBusy):
            shelf.host.export(stale, shelf.bench.context)
        for disk in export.disks:
            shelf.store(disk)
        export.check()
        export.release()
    finally:
        export.rollback()
    assert leftovers(guest) == []


# --- things that go wrong ---


def test_rollback_leaves_the_host_as_it_was_and_may_be_called_twice(guest: Guest, shelf: Shelf) -> None:
    first = shelf.backup(guest.uuid)
    _, export, _ = shelf.open(guest.uuid)
    export.disks[0].extents()
    export.rollback()
    export.rollback()

    assert guest.checkpoints() == [first.disks[0].bitmap]
    assert not shelf.bench.journal.entries
    assert shelf.plan(guest.uuid).mode is Mode.INCREMENTAL


def test_rollback_after_release_removes_the_new_checkpoint(guest: Guest, shelf: Shelf) -> None:
    _, export, _ = shelf.open(guest.uuid)
    export.release()
    assert not guest.job()
    assert guest.checkpoints()
    export.rollback()
    assert leftovers(guest) == []


def hold_an_export(shelf: Shelf, uuid: str, pipe: object) -> None:
    """In a process of its own: open an export, say so, wait to be killed."""
    shelf.open(uuid)
    pipe.send(shelf.bench.journal.entries)  # type: ignore[attr-defined]  # a Connection
    signal.pause()


def test_when_vmconsole_is_killed_the_guard_cleans_up_and_clean_finds_nothing_left(
    guest: Guest, shelf: Shelf
) -> None:
    before = shelf.backup(guest.uuid)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold_an_export, args=(shelf, guest.uuid, theirs))
    process.start()
    try:
        assert ours.poll(30)
        entries = ours.recv()
        assert guest.job()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()

    wait_for(lambda: not guest.job(), "the guard to end the job", 30)
    wait_for(
        lambda: guest.checkpoints() == [before.disks[0].bitmap], "the guard to remove the checkpoint", 30
    )
    wait_for(lambda: len(leftovers(guest)) == 1, "the guard to end", 30)
    shelf.bench.journal.entries.update(entries)
    assert "Cleaned up" in shelf.host.clean(shelf.bench.journal.entry())
    assert shelf.plan(guest.uuid).mode is Mode.INCREMENTAL


def test_clean_undoes_what_even_a_killed_guard_left(guest: Guest, shelf: Shelf) -> None:
    _, export, _ = shelf.open(guest.uuid)
    for pid in guest.host.run(
        ["pgrep", "-f", f"vmconsole-guard hold qemu:///system {guest.uuid}"]
    ).stdout.split():
        guest.host.run(["kill", "-9", pid], check=False)
    assert guest.job()
    assert isinstance(wait_for(lambda: problem(export), "the loss of the guard to be noticed", 10), HostError)

    entry = shelf.bench.journal.entry()
    assert entry.kind == journal.KIND
    assert "Cleaned up" in shelf.host.clean(entry)
    assert "Cleaned up" in shelf.host.clean(entry)
    assert guest_leftovers(guest) == []
    export.rollback()
    assert not shelf.bench.journal.entries
    wait_for(lambda: leftovers(guest) == [], "what the guard had started to end", 10)


def test_clean_does_not_touch_a_job_that_is_not_ours(guest: Guest, shelf: Shelf) -> None:
    _, export, _ = shelf.open(guest.uuid)
    entry = shelf.bench.journal.entry()
    export.rollback()
    _, other, _ = shelf.open(guest.uuid)
    try:
        shelf.host.clean(entry)
        assert guest.job()
        other.check()
        assert len(guest.checkpoints()) == 1
    finally:
        other.rollback()


def test_a_guest_that_powers_off_is_reported_and_the_next_backup_is_incremental(
    make_guest: MakeGuest, shelf: Shelf
) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB)])
    shelf.backup(guest.uuid)
    _, export, _ = shelf.open(guest.uuid)
    export.disks[0].extents()
    guest.virsh("destroy")

    with pytest.raises(GuestStopped):
        shelf.store(export.disks[0])
    export.rollback()
    guest.start()

    plan = shelf.plan(guest.uuid)
    assert plan.mode is Mode.INCREMENTAL
    shelf.backup(guest.uuid)
    only_our_checkpoint(guest, shelf)


def test_libvirtd_may_be_killed_and_restarted_in_the_middle(
    guest: Guest, shelf: Shelf, lab: Lab, tmp_path: Path
) -> None:
    _, export, context = shelf.open(guest.uuid)
    shelf.store(export.disks[0])
    lab.host.kill_libvirtd()
    shelf.store(export.disks[1])
    lab.host.start_libvirtd()
    shelf.store(export.disks[2])
    export.check()
    export.release()
    shelf.keep(shelf.plan(guest.uuid), export, context)
    export.advance()

    only_our_checkpoint(guest, shelf)
    assert same(shelf, guest, "vdb", tmp_path)
    assert not shelf.bench.journal.entries


def test_scratch_space_that_runs_out_ends_the_backup_and_not_the_guest(
    lab: Lab, make_guest: MakeGuest, shelf: Shelf
) -> None:
    small = lab.folder("small-scratch")
    lab.host.tmpfs(small, 8)
    guest = make_guest(disks=[DiskSpec("vda", size=64 * MIB)])
    guest.pattern("vda", 0, 48 * MIB, seed=1)
    shelf.settings = LibvirtSettings(scratch=str(small), scratch_min_free=2 * MIB)
    _, export, _ = shelf.open(guest.uuid)
    guest.sh("(labtool pattern /dev/vda 0 50331648 2; echo done > /var/run/wrote) >/dev/null 2>&1 &")

    assert isinstance(wait_for(lambda: problem(export), "the guard to notice", 30), OutOfSpace)
    wait_for(lambda: guest.sh("cat /var/run/wrote", check=False) == "done\n", "the guest to write on", 30)
    export.rollback()
    assert leftovers(guest) == []

    shelf.settings = LibvirtSettings(scratch=str(small), scratch_min_free=64 * MIB)
    with pytest.raises(OutOfSpace, match=str(small)):
        shelf.plan(guest.uuid)


def test_a_guest_that_resets_in_the_middle_is_backed_up_nevertheless(
    make_guest: MakeGuest, shelf: Shelf, tmp_path: Path
) -> None:
    """libvirt 9.0 blocks its event thread for 30 s and ends the job up to a minute late."""
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB)])
    guest.pattern("vda", MIB, MIB, seed=1)
    _, export, context = shelf.open(guest.uuid)
    guest.virsh("reset")
    # Not by its agent: libvirt 9.0 takes no notice of its coming back.
    wait_for(lambda: started(guest), "the guest to start up again", 60)
    guest.pattern("vda", 2 * MIB, MIB, seed=2)

    shelf.store(export.disks[0])
    export.check()
    export.release()
    assert not guest.job()
    shelf.keep(shelf.plan(guest.uuid), export, context)
    export.advance()

    second = shelf.backup(guest.uuid)
    assert second.mode is Mode.INCREMENTAL
    assert second.disks[0].bytes_dirty == MIB
    assert same(shelf, guest, "vda", tmp_path)


def test_a_guest_that_only_lives_until_it_is_switched_off_is_read_in_full(
    make_guest: MakeGuest, shelf: Shelf
) -> None:
    guest = make_guest(disks=[DiskSpec("vda", size=16 * MIB)])
    guest.virsh("undefine")

    assert shelf.backup(guest.uuid).mode is Mode.FULL
    assert guest.virsh("dominfo").count("Persistent:     no") == 1


def test_an_aborted_job_is_noticed_and_named(guest: Guest, shelf: Shelf) -> None:
    _, export, _ = shelf.open(guest.uuid)
    guest.virsh("domjobabort")
    wait_for(lambda: not guest.job(), "the job to end", 60)
    with pytest.raises(BackupFailed, match="somebody ended it"):
        export.release()
    export.rollback()
    assert leftovers(guest) == []


# --- when the guard, or the way to it, dies ---


def test_a_killed_guard_is_replaced_by_its_watcher(guest: Guest, shelf: Shelf) -> None:
    _, export, _ = shelf.open(guest.uuid)
    guest.host.run(["pkill", "-9", "-o", "-f", f"vmconsole-guard hold qemu:///system {guest.uuid}"])
    wait_for(lambda: not guest.job(), "the watcher to end the job", 20)
    wait_for(lambda: not guest.checkpoints(), "the watcher to remove the checkpoint", 20)
    export.rollback()
    wait_for(lambda: leftovers(guest) == [], "what the guard had started to end", 10)


def test_a_guard_that_hears_nothing_more_cleans_up(
    guest: Guest, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the network goes away without a word: sshd would keep the connection for hours."""
    monkeypatch.setattr(GuardLine, "_beat", lambda self: None)
    monkeypatch.setattr(hold, "Watched", functools.partial(guard.Watched, silence=2))
    _, export, _ = shelf.open(guest.uuid)
    wait_for(lambda: not guest.job(), "the guard to give up", 20)
    wait_for(lambda: not guest.checkpoints(), "the guard to remove the checkpoint", 20)
    with pytest.raises(HostError):
        export.release()
    export.rollback()
    assert leftovers(guest) == []


@pytest.fixture
def ssh(lab: Lab, tmp_path: Path) -> Iterator[Callable[[str], SshAccess]]:
    with ExitStack() as stack:
        yield lambda user: stack.enter_context(ssh_access(lab.host, lab.folder("ssh"), user=user))


def test_over_ssh_as_an_operator_without_root(
    guest: Guest, shelf: Shelf, tmp_path: Path, ssh: Callable[[str], SshAccess]
) -> None:
    shelf.machine = ssh(OPERATOR).machine
    guest.pattern("vdb", 8 * MIB, MIB, seed=3)
    shelf.backup(guest.uuid)
    guest.pattern("vdb", 9 * MIB, MIB, seed=4)
    shelf.backup(guest.uuid)

    assert shelf.points[0].disks[1].bytes_dirty == MIB
    assert same(shelf, guest, "vdb", tmp_path)
    assert all(check.ok for check in shelf.host.check())


def test_a_user_who_may_not_open_the_sockets_is_told_what_to_do(
    guest: Guest, shelf: Shelf, ssh: Callable[[str], SshAccess]
) -> None:
    shelf.machine = ssh(VIEWER).machine
    assert [check.name for check in shelf.host.check() if not check.ok] == ["NBD sockets"]
    with pytest.raises(HostError) as caught:
        shelf.open(guest.uuid)
    assert "libvirt-qemu" in caught.value.hint
    assert not shelf.bench.journal.entries
    assert guest_leftovers(guest) == []


def test_when_the_connection_drops_the_guard_cleans_up(
    guest: Guest, shelf: Shelf, ssh: Callable[[str], SshAccess]
) -> None:
    access = ssh("root")
    shelf.machine = access.machine
    before = shelf.backup(guest.uuid)
    _, export, _ = shelf.open(guest.uuid)
    access.sshd.cut()

    wait_for(lambda: not guest.job(), "the guard to end the job", 30)
    wait_for(
        lambda: guest.checkpoints() == [before.disks[0].bitmap], "the guard to remove the checkpoint", 30
    )
    with pytest.raises(HostError):
        shelf.store(export.disks[0])
    export.rollback()
    assert not shelf.bench.journal.entries
    access.machine.close()
    wait_for(lambda: len(leftovers(guest)) == 1, "the guard to end", 30)
