"""vzdump's stream as an export: a stub prints real VMA and tar bytes; also broken, slow and failing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import Diary, FakeHypervisor, FakeJournal, FakeRepository, context
from proxmox_samples import CONTAINER, GUEST
from rig_sshd import Sshd
from vzdump_lab import FROZEN, MIB, OneNode, Vzdump, plan_of, tar, vma

from vmconsole.errors import BackupFailed, Cancelled, HostError, VmconsoleError
from vmconsole.events import Warned
from vmconsole.hypervisors.proxmox import vzdumpjob
from vmconsole.hypervisors.proxmox.facts import PveDisk, PveGuest
from vmconsole.hypervisors.proxmox.guestconf import digest
from vmconsole.hypervisors.proxmox.host import CLEANERS
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.vzdump import clean_vzdump, open_vzdump_export
from vmconsole.hypervisors.proxmox.vzdumpjob import Mark, end
from vmconsole.interfaces import Cancel, Context, ExportPlan
from vmconsole.model.guest import GuestKind
from vmconsole.model.point import Consistency, Mode, RestorePoint
from vmconsole.model.run import JournalEntry
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings
from vmconsole.runs.backup import back_up
from vmconsole.runs.work import Target

DISKS = {
    "scsi0": random.Random(1).randbytes(3 * MIB) + bytes(2 * MIB) + random.Random(2).randbytes(MIB + 512),
    "efidisk0": random.Random(3).randbytes(540_672),
    "tpmstate0": b"T" * 4 * MIB,
}
CONFIGS = {
    "qemu-server.conf": b"name: web\n#qmdump#map:scsi0:drive-scsi0::raw:\n",
    "qemu-server.fw": b"[OPTIONS]\n",
}
VMID = 10**6 + os.getpid()
"""Of this process alone: what runs on the machine is looked at."""
VM = replace(
    GUEST,
    vmid=VMID,
    disks=tuple(PveDisk(key, f"local:{key}", len(data), "raw") for key, data in DISKS.items()),
)
DNS = replace(CONTAINER, vmid=VMID + 10**7)
FILES = {
    "./etc/vzdump/pct.conf": b"hostname: dns\n",
    "./etc/vzdump/pct.fw": b"[RULES]\n",
    "./etc/hostname": b"dns\n",
    "./big": random.Random(4).randbytes(3 * MIB),
}


class Journal(FakeJournal):
    def __init__(self) -> None:
        self.open: dict[int, JournalEntry] = {}

    def acquire(self, host: str, kind: str, payload: Any) -> int:
        self.open[1] = JournalEntry(1, "run1", "host:1:1", host, kind, dict(payload), datetime.now(UTC))
        return 1

    def release(self, entry: int) -> None:
        del self.open[entry]


class Host(FakeHypervisor):
    """The whole of an adapter that a backup uses."""

    name = "pve"

    def __init__(self, plan: ExportPlan, machine: Any = None) -> None:
        super().__init__(Diary())
        self._plan, self._machine = plan, machine

    def plan(self, *arguments: Any) -> ExportPlan:
        return self._plan

    def export(self, plan: ExportPlan, context: Context) -> Any:
        return open_vzdump_export(OneNode(self._machine), ProxmoxSettings(), plan, context)  # type: ignore[arg-type]


class Lab:
    def __init__(self, vzdump: Vzdump) -> None:
        self.vzdump = vzdump
        self.repository = FakeRepository(Diary())
        self.journal = Journal()
        self.events: list[Any] = []
        self.cancel = Cancel()
        self.machine: Any = None

    @property
    def context(self) -> Context:
        return replace(context(self.events, self.cancel), journal=self.journal)

    def back_up(self, guest: PveGuest = VM, excluded: tuple[str, ...] = ()) -> RestorePoint:
        plan = plan_of(guest, excluded)
        repository = self.repository
        host = Host(plan, self.machine)
        return back_up(Target(plan.guest, host, repository), "ab", repository, self.context)

    def fails(self, guest: PveGuest = VM) -> VmconsoleError:
        with pytest.raises(VmconsoleError) as caught:
            self.back_up(guest)
        assert self.repository.saved == []
        return caught.value


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Lab(Vzdump(tmp_path))


class TestMachine:
    def test_all_disks_and_both_files(self, lab: Lab) -> None:
        lab.vzdump.log = FROZEN
        lab.vzdump.prints(vma(DISKS, CONFIGS))
        point = lab.back_up()
        for key, content in DISKS.items():
            assert lab.repository.disks[point.archive, f"disks/{key}.raw"] == content
        assert lab.repository.members[point.archive] == {
            "config/qemu-server.conf": CONFIGS["qemu-server.conf"],
            "config/firewall.fw": CONFIGS["qemu-server.fw"],
        }
        assert point.consistency is Consistency.APPLICATION
        assert point.facts["method"] == "vzdump"
        assert {disk.id: disk.bytes_read for disk in point.disks}["scsi0"] < len(DISKS["scsi0"])
        assert lab.journal.open == {}
        assert lab.vzdump.called() == [f"{VMID} --stdout --dumpdir /var/tmp --mode snapshot --compress 0"]

    @pytest.mark.parametrize(
        ("log", "consistency", "warned"),
        [
            (("INFO: skipping guest-agent 'fs-freeze', agent not running?",), Consistency.CRASH, False),
            ((FROZEN[0], "ERROR: VM 100 qga command failed", FROZEN[1]), Consistency.CRASH, True),
            ((*FROZEN, "ERROR: something later"), Consistency.APPLICATION, False),
        ],
        ids=["no agent", "failed", "frozen"],
    )
    def test_consistency_is_what_the_log_says(
        self, lab: Lab, log: tuple[str, ...], consistency: Consistency, *, warned: bool
    ) -> None:
        lab.vzdump.log = log
        lab.vzdump.prints(vma(DISKS, CONFIGS))
        point = lab.back_up()
        assert point.consistency is consistency
        assert bool(point.warnings) is warned
        assert any(isinstance(event, Warned) for event in lab.events) is warned

    def test_excluded_disks_are_not_stored(self, lab: Lab) -> None:
        lab.vzdump.prints(vma(DISKS, CONFIGS))
        point = lab.back_up(excluded=("scsi0",))
        assert [disk.id for disk in point.stored_disks] == ["efidisk0", "tpmstate0"]
        assert (point.archive, "disks/scsi0.raw") not in lab.repository.disks

    @pytest.mark.parametrize("change", ["gone", "new", "larger"])
    def test_disks_that_changed_meanwhile(self, lab: Lab, change: str) -> None:
        disks = dict(DISKS)
        if change == "gone":
            del disks["scsi0"]
        elif change == "new":
            disks["scsi7"] = b"x" * MIB
        else:
            disks["efidisk0"] = bytes(70 * MIB)
        lab.vzdump.prints(vma(disks, CONFIGS))
        error = lab.fails()
        assert "changed while" in error.message
        assert change in error.message
        assert lab.journal.open == {}

    def test_a_disk_that_is_smaller_than_its_configuration_says(self, lab: Lab) -> None:
        efi = PveDisk("efidisk0", "local:efi", 4 * MIB, "raw")
        lab.vzdump.prints(vma({"efidisk0": DISKS["efidisk0"]}, CONFIGS))
        point = lab.back_up(replace(VM, disks=(efi,)))
        assert point.disks[0].size == 540_672

    @pytest.mark.parametrize("part", [0, 100, 20_000, 0.3, 0.9, -4096])
    def test_a_stream_that_ends_too_early(self, lab: Lab, part: float) -> None:
        stream = vma(DISKS, CONFIGS)
        lab.vzdump.prints(stream[: int(part * len(stream)) if 0 < part < 1 else int(part)])
        error = lab.fails()
        assert isinstance(error, BackupFailed)
        assert "too early" in error.message
        assert lab.journal.open == {}

    def test_vzdumps_own_reason_comes_first(self, lab: Lab) -> None:
        stream = vma(DISKS, CONFIGS)
        lab.vzdump.end = "job errors"
        lab.vzdump.after = (
            "echo 'ERROR: Backup of VM 100 failed - job failed: \x1b[31mInput/output error' >&2"
        )
        lab.vzdump.status = 255
        lab.vzdump.prints(stream[: len(stream) // 2])
        error = lab.fails()
        assert (
            f"vzdump of web ({VMID}) on pve/pve1 failed: Backup of VM 100 failed - job failed"
            in error.message
        )
        assert error.message.isprintable()

    def test_a_whole_stream_of_a_vzdump_that_failed(self, lab: Lab) -> None:
        lab.vzdump.status, lab.vzdump.end = 1, "ERROR: hook script failed"
        lab.vzdump.prints(vma(DISKS, CONFIGS))
        assert "hook script failed" in lab.fails().message

    def test_garbage(self, lab: Lab) -> None:
        for stream in (b"garbage" * 10_000, random.Random(1).randbytes(500_000), tar(FILES)):
            lab.vzdump.prints(stream)
            assert "not a VMA stream" in lab.fails().message

    def test_damage_in_the_middle(self, lab: Lab) -> None:
        stream = bytearray(vma(DISKS, CONFIGS))
        stream[12800 + 100] ^= 1
        lab.vzdump.prints(bytes(stream))
        assert isinstance(lab.fails(), BackupFailed)
        assert lab.journal.open == {}

    def test_no_vzdump_at_all(self, lab: Lab) -> None:
        assert "vzdump" in lab.fails().message

    def test_what_login_scripts_print_is_passed_over(self, lab: Lab) -> None:
        class Noisy(LocalMachine):
            def start(self, argv: Any) -> Any:
                return super().start(["sh", "-c", 'echo "Welcome!"; exec "$@"', "sh", *argv])

        lab.machine = Noisy("pve/pve1")
        lab.vzdump.prints(vma(DISKS, CONFIGS))
        assert lab.back_up().disks

    def test_over_ssh(self, lab: Lab, tmp_path: Path) -> None:
        with Sshd(tmp_path, path_prefix=tmp_path / "bin") as server:
            known_hosts = server.write_known_hosts(tmp_path / "known_hosts")
            keys = (server.client_key_path,)
            lab.machine = SshMachine(
                SshSettings(
                    "pve/pve1",
                    server.address,
                    known_hosts,
                    identity_files=keys,
                    config_file=None,
                    use_agent=False,
                )
            )
            lab.vzdump.log = FROZEN
            lab.vzdump.prints(vma(DISKS, CONFIGS))
            point = lab.back_up()
            assert lab.repository.disks[point.archive, "disks/scsi0.raw"] == DISKS["scsi0"]
            assert point.consistency is Consistency.APPLICATION
            lab.vzdump.status, lab.vzdump.end = 255, "ERROR: Backup failed - no"
            lab.repository.saved.clear()
            lab.vzdump.prints(vma(DISKS, CONFIGS)[:500_000])
            assert "Backup failed - no" in lab.fails().message
            lab.vzdump.prints(random.Random(5).randbytes(20 * MIB))
            assert "not a VMA stream" in lab.fails().message
            lab.machine.close()
        assert lab.journal.open == {}


class TestContainer:
    def test_tar_index_and_configuration(self, lab: Lab) -> None:
        content = tar(FILES)
        lab.vzdump.prints(content)
        point = lab.back_up(DNS)
        assert lab.repository.disks[point.archive, "container/rootfs.tar"] == content
        assert lab.repository.members[point.archive] == {
            "config/pct.conf": b"hostname: dns\n",
            "config/firewall.fw": b"[RULES]\n",
        }
        assert point.disks[0].format == "tar"
        assert point.disks[0].size == len(content)
        assert point.consistency is Consistency.CRASH
        assert [disk.mode for disk in point.disks] == [Mode.FULL, Mode.SKIPPED]

    def test_without_vzdumps_files_the_plan_has_them(self, lab: Lab) -> None:
        lab.vzdump.prints(tar({"./etc/hostname": b"dns\n"}))
        point = lab.back_up(DNS)
        assert lab.repository.members[point.archive] == {"config/pct.conf": DNS.conf.encode()}

    def test_suspend_mode_is_said(self, lab: Lab) -> None:
        lab.vzdump.log = ("INFO: mode failure - some volumes do not support snapshots",
                          "INFO: trying 'suspend' mode instead")  # fmt: skip
        lab.vzdump.prints(tar(FILES))
        assert "snapshotted" in lab.back_up(DNS).warnings[0]

    @pytest.mark.parametrize("length", [0, 100, 5000, 2 * MIB])
    def test_a_tar_that_ends_too_early(self, lab: Lab, length: int) -> None:
        lab.vzdump.prints(tar(FILES)[:length])
        lab.fails(DNS)
        assert lab.journal.open == {}

    def test_a_failing_vzdump(self, lab: Lab) -> None:
        lab.vzdump.status, lab.vzdump.end = 255, "ERROR: Backup of VM 101 failed - no space left"
        lab.vzdump.prints(tar(FILES))
        assert "no space left" in lab.fails(DNS).message


class TestPatience:
    def test_a_slow_one_is_waited_for(self, lab: Lab) -> None:
        lab.vzdump.before, lab.vzdump.after = "sleep 1.2", "sleep 1.2"
        lab.vzdump.prints(tar(FILES))
        assert lab.back_up(DNS).disks

    def test_silence_ends_it(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vzdumpjob, "SILENCE", 0.5)
        lab.vzdump.log = ("INFO: create storage snapshot 'vzdump'",)
        lab.vzdump.before = "exec sleep 60"
        lab.vzdump.prints(b"")
        error = lab.fails(DNS)
        assert "sent nothing" in error.message
        assert "create storage snapshot" in error.hint
        assert lab.journal.open == {}

    def test_one_that_does_not_end(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vzdumpjob, "TIDYING", 0.5)
        lab.vzdump.after = "exec >&-; exec sleep 60"
        lab.vzdump.prints(vma(DISKS, CONFIGS))
        assert "does not end" in lab.fails().message

    def test_a_cancelled_run_ends_it(self, lab: Lab) -> None:
        lab.vzdump.before = 'echo $$ >"$FOLDER/pid"; exec sleep 60'
        lab.vzdump.prints(b"")
        began = time.monotonic()

        def events(event: Any) -> None:
            if (lab.vzdump.folder / "calls").exists() or event:
                lab.cancel.set()

        lab.events = type("Sink", (), {"append": staticmethod(events)})()  # type: ignore[assignment]
        with pytest.raises(Cancelled):
            lab.back_up()
        assert time.monotonic() - began < 10
        assert lab.journal.open == {}


class TestLeftBehind:
    """Runs that were killed: what `doctor --clean` does from the journal."""

    def mark(self, tmp_path: Path, process: Any = None, conf: str = "name: web\n", lock: str = "") -> Mark:
        path = tmp_path / "100.conf"
        path.write_text(conf + (f"lock: {lock}\n" if lock else "") + "[snap]\nlock: backup\nname: web\n")
        whole = conf + "[snap]\nlock: backup\nname: web\n"
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        start = "1"
        if process is not None:
            start = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        pid = str(process.pid if process is not None else 2**22 + 1)
        return Mark("pve1", VMID, "web", GuestKind.VM, str(path), digest(whole), boot, pid, start)

    def unlocks(self, lab: Lab) -> Callable[[], list[str]]:
        lab.vzdump.program("qm", 'echo "$*" >>"$FOLDER/qm-calls"\n')
        calls = lab.vzdump.folder / "qm-calls"
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    def test_one_that_still_runs_is_ended_and_unlocks_itself(self, lab: Lab, tmp_path: Path) -> None:
        unlocked = self.unlocks(lab)
        process = subprocess.Popen(["sleep", "60"])
        assert "ended" in end(LocalMachine(), self.mark(tmp_path, process))
        assert process.wait(5) == -15
        assert unlocked() == []

    def test_the_lock_it_left_is_removed(self, lab: Lab, tmp_path: Path) -> None:
        unlocked = self.unlocks(lab)
        assert "the lock it left was removed" in end(LocalMachine(), self.mark(tmp_path, lock="backup"))
        assert unlocked() == [f"unlock {VMID}"]

    @pytest.mark.parametrize("lock", ["migrate", "snapshot", ""])
    def test_other_locks_are_not_touched(self, lab: Lab, tmp_path: Path, lock: str) -> None:
        unlocked = self.unlocks(lab)
        end(LocalMachine(), self.mark(tmp_path, lock=lock))
        assert unlocked() == []

    def test_a_lock_that_may_be_somebody_elses_is_not_touched(self, lab: Lab, tmp_path: Path) -> None:
        unlocked = self.unlocks(lab)
        mark = replace(self.mark(tmp_path, lock="backup"), digest="other")
        with pytest.raises(HostError, match="may be somebody else's") as caught:
            end(LocalMachine(), mark)
        assert f"qm unlock {VMID}" in caught.value.hint
        assert unlocked() == []

    @pytest.mark.parametrize(
        "title",
        [
            f"task UPID:pve1:0001:0002:0003:vzdump:{VMID}:root@pam:",
            f"/usr/bin/perl /usr/bin/vzdump 99 {VMID} --storage x",
        ],
        ids=["worker", "command"],
    )
    def test_nothing_is_touched_while_a_vzdump_works_on_it(
        self, lab: Lab, tmp_path: Path, title: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vzdumpjob, "ENDING", 1)
        unlocked = self.unlocks(lab)
        other = subprocess.Popen(["bash", "-c", 'exec -a "$1" sleep 60', "bash", title])
        try:
            time.sleep(0.3)
            with pytest.raises(HostError, match="still works"):
                end(LocalMachine(), self.mark(tmp_path, lock="backup"))
        finally:
            other.kill()
            other.wait()
        assert unlocked() == []
        assert "removed" in end(LocalMachine(), self.mark(tmp_path, lock="backup"))

    def test_a_process_of_another_boot_or_number_is_not_touched(self, lab: Lab, tmp_path: Path) -> None:
        self.unlocks(lab)
        process = subprocess.Popen(["sleep", "60"])
        try:
            mark = self.mark(tmp_path, process)
            end(LocalMachine(), replace(mark, boot="another"))
            end(LocalMachine(), replace(mark, start="1"))
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def test_a_guest_that_is_gone(self, lab: Lab, tmp_path: Path) -> None:
        mark = replace(self.mark(tmp_path), conf=str(tmp_path / "none"))
        assert "no lock" in end(LocalMachine(), mark)

    def test_from_the_journal(self, lab: Lab, tmp_path: Path) -> None:
        """The run is killed after vzdump began: the entry has what it takes."""
        lab.vzdump.before = "exec sleep 60"
        lab.vzdump.prints(b"")
        kept: list[JournalEntry] = []

        class Killed(LocalMachine):
            def script(self, *arguments: Any, **more: Any) -> Any:
                kept.extend(lab.journal.open.values())
                raise HostError("the run is gone")

        lab.machine = Killed("pve/pve1")
        original = lab.journal.acquire

        def acquire(*arguments: Any) -> int:
            lab.cancel.set()
            return original(*arguments)

        lab.journal.acquire = acquire  # type: ignore[method-assign]
        with pytest.raises(Cancelled):
            lab.back_up()
        (entry,) = lab.journal.open.values()
        assert kept == [entry]
        assert CLEANERS[entry.kind] == (clean_vzdump.__module__.rpartition(".")[2], clean_vzdump.__name__)
        assert "no lock of it is left" in clean_vzdump(OneNode(), ProxmoxSettings(), entry)  # type: ignore[arg-type]
        with pytest.raises(VmconsoleError, match="cannot be read"):
            clean_vzdump(OneNode(), ProxmoxSettings(), replace(entry, payload={}))  # type: ignore[arg-type]

    def test_a_killed_run_over_ssh_ends_it(self, lab: Lab, tmp_path: Path) -> None:
        """Nothing but the loss of the connection tells vzdump."""
        lab.vzdump.before = 'cat "$FOLDER/stream"; cat /dev/zero; echo $? >"$FOLDER/ended"; exit 1'
        lab.vzdump.prints(tar(FILES)[: 2 * MIB])
        with Sshd(tmp_path, path_prefix=tmp_path / "bin") as server:
            known_hosts = server.write_known_hosts(tmp_path / "known_hosts")
            source = _VICTIM.format(
                address=server.address,
                known_hosts=str(known_hosts),
                key=str(server.client_key_path),
                vmid=VMID,
            )
            env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            victim = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, env=env)
            assert victim.stdout is not None
            with victim.stdout:
                assert victim.stdout.readline() == b"reading\n"
            assert not (tmp_path / "ended").exists()
            victim.kill()
            victim.wait()
            deadline = time.monotonic() + 10
            while not (tmp_path / "ended").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)


_VICTIM = """
from pathlib import Path
from fakes import context
from proxmox_samples import CONTAINER
from dataclasses import replace
from vmconsole.hypervisors.proxmox.vzdumpjob import VzdumpJob
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings
from vmconsole.runs.work import Target
machine = SshMachine(SshSettings(
    "pve", {address!r}, Path({known_hosts!r}), identity_files=(Path({key!r}),), config_file=None, use_agent=False))
job = VzdumpJob(machine, "pve", replace(CONTAINER, vmid={vmid} + 10**7), context())
for _ in range(20):
    job.read(1 << 20)
print("reading", flush=True)
while job.read(1 << 20):
    pass
"""
