"""What a guest, and its node, see of an export when things go wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lab.waiting import wait_for

from pve.bench import MIB, Bench, read
from pve.qemu import qemu10
from vmconsole.errors import BackupFailed, GuestBusy, GuestStopped, HostError, OutOfSpace, VmconsoleError
from vmconsole.hypervisors.proxmox.clean import clean_export
from vmconsole.hypervisors.proxmox.document import folder_of
from vmconsole.hypervisors.proxmox.nbd import NbdExport
from vmconsole.model.point import Consistency, Mode
from vmconsole.model.run import JournalEntry

pytestmark = pytest.mark.rig

WAYS = {
    "access-drive": {"access": True, "layout": "drive"},
    "access-blockdev": {"access": True, "layout": "blockdev", "iothread": True},
    "reserved-drive": {"reserve": True, "layout": "drive", "iothread": True},
    "reserved-blockdev": {"reserve": True, "layout": "blockdev"},
    "filter-drive": {"reserve": False, "layout": "drive"},
    "filter-blockdev": {"reserve": False, "layout": "blockdev", "iothread": True},
}
UNRESERVED = [name for name in WAYS if not name.startswith("reserved")]


@pytest.fixture(params=WAYS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, program=qemu10(), **WAYS[request.param]) as made:
        yield made


@contextlib.contextmanager
def small_folder(path: Path, size: int) -> Iterator[Path]:
    """A file system of its own."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def guards(bench: Bench) -> list[int]:
    """The guard's processes, the first of them first."""
    owner = Path(folder_of(bench.vmid), "owner").read_text().split()[1]
    first = int(owner.partition(":")[0])
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [first, *map(int, children)]


def drop(export: NbdExport) -> None:
    """Free what the export has in this process, without a word to the node."""
    for disk in export.disks:
        disk.abandon()
    export._hold._guard._line.close()


def clean(bench: Bench) -> list[str]:
    """As `vmconsole doctor --clean`."""
    said = []
    for number, (kind, payload) in list(bench.journal.entries.items()):
        entry = JournalEntry(number, "run", "process", "pve", kind, payload, datetime.now(UTC))
        said.append(clean_export(bench.nodes, bench.settings, entry))
        bench.journal.release(number)
    return said


def proves_old_and_new(bench: Bench) -> None:
    """The next backup is an increment and holds what the disks hold."""
    bench.write("virtio1", 9, 33 * MIB, 64 << 10)
    last = bench.backup()
    assert {disk.plan.mode for disk in last.disks} == {Mode.INCREMENTAL}
    assert all(bench.same(key) for key in bench.keys)
    assert not bench.leftovers()


# --- somebody dies ---


def begun(bench: Bench) -> None:
    bench.write("scsi0", 1, 0, 4 * MIB)
    bench.backup()
    bench.write("scsi0", 2, MIB, MIB)


def test_a_killed_guard_is_undone_by_its_watcher(bench: Bench) -> None:
    begun(bench)
    export = bench.open()
    bench.write("virtio1", 3, 5 * MIB, MIB)
    os.kill(guards(bench)[0], signal.SIGKILL)
    bench.wait_clean()
    with pytest.raises(HostError):
        wait_for(export.check, "the guard's end to be noticed")
    export.rollback()
    assert not bench.journal.entries
    proves_old_and_new(bench)


def test_our_death_is_undone_by_the_guard(bench: Bench) -> None:
    begun(bench)
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            bench.open()
            os.write(told, b"!")
            time.sleep(600)
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    bench.write("virtio1", 3, 5 * MIB, MIB)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    bench.wait_clean()
    bench.runs += 1
    proves_old_and_new(bench)


def test_when_all_die_clean_undoes_it(bench: Bench) -> None:
    begun(bench)
    export = bench.open()
    bench.write("virtio1", 3, 5 * MIB, MIB)
    for process in reversed(guards(bench)):
        os.kill(process, signal.SIGKILL)
    entries = dict(bench.journal.entries)
    drop(export)
    assert bench.leftovers()

    assert "Cleaned up" in clean(bench)[0]
    assert not bench.leftovers()
    bench.journal.entries = entries
    clean(bench)
    proves_old_and_new(bench)


def test_the_next_run_undoes_what_a_dead_one_left(bench: Bench) -> None:
    begun(bench)
    export = bench.open()
    for process in reversed(guards(bench)):
        os.kill(process, signal.SIGKILL)
    drop(export)
    # Planning refuses a guest with something of ours in it, so clean first, as the core does.
    with pytest.raises(GuestBusy):
        bench.plan()
    clean(bench)
    proves_old_and_new(bench)


def test_a_death_after_the_archive_is_finished_forward(bench: Bench) -> None:
    """The old bitmap is not brought back once the archive that follows it is safe."""
    begun(bench)
    export = bench.open()
    copies = {disk.plan.id: read(disk, bench.copies[bench.points[0].archive]) for disk in export.disks}
    export.release()
    bench.write("virtio1", 3, 5 * MIB, MIB)
    processes = guards(bench)
    assert bench.qemu.proxy_process is not None
    os.kill(bench.qemu.proxy_process.pid, signal.SIGSTOP)
    failures: list[BaseException] = []

    def advance() -> None:
        try:
            export.advance()
        except VmconsoleError as error:
            failures.append(error)

    thread = threading.Thread(target=advance)
    thread.start()
    wait_for(lambda: Path(folder_of(bench.vmid), "committed").exists(), "the commit to begin")
    for process in reversed(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    thread.join(60)
    assert failures
    os.kill(bench.qemu.proxy_process.pid, signal.SIGCONT)

    clean(bench)
    assert not bench.leftovers()
    bench.copies["forward"] = copies
    bench.points[0] = _follow(bench, export)
    proves_old_and_new(bench)


def _follow(bench: Bench, export):
    """The point of the export whose archive was safe."""
    from dataclasses import replace

    point = bench.points[0]
    disks = tuple(
        replace(disk, bitmap=next(item.bitmap for item in export.disks if item.plan.id == disk.id))
        for disk in point.disks
    )
    return replace(point, archive="forward", run=f"run{bench.runs:04}", disks=disks)


def test_a_guest_that_is_stopped_while_it_is_read(bench: Bench) -> None:
    begun(bench)
    export = bench.open()
    bench.qemu.process.kill()
    bench.qemu.process.wait()
    with pytest.raises(GuestStopped):
        wait_for(lambda: export.check(), "the guard to notice", 10)
    export.rollback()
    assert not bench.journal.entries
    assert not list(bench.state.glob("*.lock"))
    assert not list((bench.state / "storage").rglob("*fleece*"))
    assert not Path(folder_of(bench.vmid)).exists()


# --- others ---


def poll(path: Path, stop: threading.Event, failures: list[str]) -> None:
    """As pvestatd does, but more often."""
    while not stop.wait(0.5):
        began = time.monotonic()
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(3)
                client.connect(str(path))
                with client.makefile("rw") as stream:
                    assert "QMP" in json.loads(stream.readline())
                    for name in (
                        "qmp_capabilities",
                        "query-status",
                        "query-proxmox-support",
                        "query-blockstats",
                    ):
                        stream.write(json.dumps({"execute": name, "id": name}))
                        stream.flush()
                        while json.loads(stream.readline()).get("id") != name:
                            pass
        except (OSError, ValueError, AssertionError) as error:
            failures.append(f"{error!r} after {time.monotonic() - began:.1f} s")


def test_a_poller_of_the_monitor_never_fails(bench: Bench) -> None:
    stop, failures = threading.Event(), []
    thread = threading.Thread(target=poll, args=(bench.qemu.qmp, stop, failures))
    thread.start()
    try:
        for round_ in range(3):
            bench.write("scsi0", round_, round_ * MIB, MIB)
            bench.backup(meanwhile=lambda: time.sleep(0.7))
            assert all(bench.same(key) for key in bench.keys)
    finally:
        stop.set()
        thread.join()
    assert not failures


def test_what_others_have_in_qemu_stays(bench: Bench) -> None:
    node = bench.qemu.node("scsi0")
    for name in ("pbs-incremental-dirty-bitmap", "snapshot-access:other", "vmconsole-000000000000"):
        bench.qemu.monitor("block-dirty-bitmap-add", node=node, name=name)
    bench.write("scsi0", 1, 0, MIB)
    before = {name: item["count"] for name, item in bench.qemu.bitmaps("scsi0").items()}
    bench.backup()
    with pytest.raises(VmconsoleError):
        bench.backup(commit=False)
    after = {name: item["count"] for name, item in bench.qemu.bitmaps("scsi0").items()}
    assert before.items() <= after.items()


def test_an_nbd_server_of_others_is_left_alone(bench: Bench) -> None:
    """It was started between planning and cutting."""
    plan = bench.plan()
    bench.qemu.monitor(
        "nbd-server-start", addr={"type": "unix", "data": {"path": str(bench.folder / "other.sock")}}
    )
    bench.qemu.monitor(
        "block-export-add", type="nbd", id="drive-scsi0", node_name=bench.qemu.node("scsi0"), name="other"
    )
    bench.plan = lambda _=None: plan  # type: ignore[method-assign]  # made before
    with pytest.raises(GuestBusy, match="Another backup"):
        bench.open()
    assert [item["id"] for item in bench.qemu.monitor("query-block-exports")] == ["drive-scsi0"]
    bench.qemu.monitor("block-export-del", id="drive-scsi0", mode="hard")
    bench.qemu.monitor("nbd-server-stop")
    assert not bench.leftovers()


def test_a_locked_guest_is_left_alone(bench: Bench) -> None:
    (bench.state / f"{bench.vmid}.lock").write_text("backup\n")
    with pytest.raises(GuestBusy, match="VM is locked"):
        bench.open()
    (bench.state / f"{bench.vmid}.lock").unlink()
    assert not bench.leftovers()


# --- the guest comes first ---


@pytest.mark.parametrize("way", UNRESERVED)
def test_a_full_fleecing_place_breaks_the_backup_and_not_the_guest(way: str, tmp_path: Path) -> None:
    with (
        small_folder(tmp_path / "small", 4 * MIB) as small,
        Bench(
            tmp_path, program=qemu10(), keys=("scsi0", "virtio1"), fleecing=str(small), **WAYS[way]
        ) as bench,
    ):
        bench.write("virtio1", 1, 0, 32 * MIB)

        def fill() -> None:
            for offset in range(0, 32 * MIB, 2 * MIB):
                bench.write("virtio1", 2, offset, 2 * MIB)

        with pytest.raises(OutOfSpace):
            bench.backup(meanwhile=fill)
        assert bench.content("virtio1")[: 32 * MIB] == b"\2" * (32 * MIB)
        assert "write failed" not in (tmp_path / "qemu.log").read_text()
        assert bench.qemu.alive()
        assert not bench.leftovers()


@pytest.mark.parametrize("way", UNRESERVED)
def test_the_backup_is_given_up_before_the_place_runs_full(way: str, tmp_path: Path) -> None:
    with (
        small_folder(tmp_path / "small", 32 * MIB) as small,
        Bench(
            tmp_path, program=qemu10(), keys=("scsi0", "virtio1"), fleecing=str(small), **WAYS[way]
        ) as bench,
    ):
        from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings

        bench.settings = ProxmoxSettings(fleecing_min_free=20 * MIB)
        bench.write("virtio1", 1, 0, 32 * MIB)
        export = bench.open()
        bench.write("virtio1", 2, 0, 16 * MIB)
        bench.wait_clean(but="held")
        with pytest.raises(OutOfSpace, match="bytes were left"):
            export.check()
        export.rollback()
        assert not bench.journal.entries


# --- freezing ---


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, program=qemu10(), layout="blockdev", access=True, keys=("scsi0",)) as made:
        made.agent = True
        yield made


def test_the_guest_is_frozen_at_the_cut_and_thawed(quiet: Bench) -> None:
    quiet.guest()
    quiet.qemu.monitor("cont")
    export = quiet.backup()
    assert export.cut.consistency is Consistency.APPLICATION
    assert export.cut.freeze_ms is not None
    assert not export.cut.warnings
    calls = [line for line in (quiet.state / "calls").read_text().splitlines() if "fsfreeze" in line]
    assert [line.split()[-1] for line in calls] == ["fsfreeze-freeze", "fsfreeze-thaw"]


def test_an_agent_that_hangs_costs_no_backup(quiet: Bench) -> None:
    from vmconsole.interfaces import ExportOptions

    (quiet.state / "agent").write_text("hang")
    began = time.monotonic()
    export = quiet.open(ExportOptions(agent_timeout=0.1, freeze_budget=1))
    assert export.cut.consistency is Consistency.CRASH
    assert any("agent does not answer" in text for text in export.cut.warnings)
    assert [kind for kind, _ in quiet.journal.entries.values()] == ["proxmox-export", "proxmox-freeze-check"]
    (quiet.state / "agent").write_text("ok")
    wait_for(lambda: (quiet.state / "frozen").exists(), "the late thaw", 30)
    export.rollback()
    assert (quiet.state / "frozen").read_text() == "fsfreeze-thaw\n"
    assert time.monotonic() - began < 60
    assert "is thawed" in clean(quiet)[-1]


def test_a_slow_freeze_ends_with_the_budget(quiet: Bench) -> None:
    from vmconsole.interfaces import ExportOptions

    (quiet.state / "slow").write_text("2")
    export = quiet.open(ExportOptions(agent_timeout=5, freeze_budget=0.5))
    assert export.cut.consistency is Consistency.CRASH
    assert any("thawed after its budget" in text for text in export.cut.warnings)
    export.rollback()
    assert not quiet.journal.entries


def test_a_failed_cut_thaws_at_once(quiet: Bench) -> None:
    plan = quiet.plan()
    quiet.qemu.monitor(
        "block-dirty-bitmap-add", node=quiet.qemu.node("scsi0"), name="backup-access-background-bitmap"
    )
    quiet.plan = lambda _=None: plan  # type: ignore[method-assign]
    with pytest.raises(BackupFailed):
        quiet.open()
    assert (quiet.state / "frozen").read_text() == "fsfreeze-thaw\n"
    assert not quiet.leftovers()
