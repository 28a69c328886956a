"""The rig itself: that its guests do what they are told, and that its checks can fail."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from lab.access import ssh_access
from lab.accounts import OPERATOR, VIEWER
from lab.domain import HOSTILE_NAMES, MIB, RING_BYTES, DiskSpec
from lab.guest import Guest
from lab.host import CommandError
from lab.images import filesystem_problems, pattern_bytes, read_files
from lab.leftovers import leftovers
from lab.lockstep import SLOT_BYTES, SLOTS, STRIDE, check_lockstep, parse_ring, read_ring
from lab.session import Lab, remove_dead_sessions
from lab.waiting import wait_for

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def two_disks(lab: Lab) -> Iterator[Guest]:
    """A guest that tests leave as they found it, but for the content of its disks."""
    disks = [DiskSpec("vda", fs="ext4", content={"etc/motd": b"hello\n"}), DiskSpec("vdb", format="raw")]
    with lab.guest("two disks", disks) as guest:
        yield guest


def begin_pull(guest: Guest, name: str, disks: str = "") -> str:
    """Begin a backup in pull mode; returns the socket's path."""
    listing = f"ls -d /var/lib/libvirt/qemu/domain-{guest.virsh('domid')}-*"
    socket = guest.host.run(["sh", "-c", listing]).stdout.rstrip("\n") + f"/{name}.sock"
    server = f"<server transport='unix' socket='{socket}'/>"
    xml = f"<domainbackup mode='pull'>{server}{disks}</domainbackup>"
    guest.virsh("backup-begin", "/dev/stdin", stdin=xml)
    return socket


def pull(guest: Guest, folder: Path, name: str) -> list[Path]:
    """A backup in pull mode with nothing but virsh and qemu-img: all disks, one cut, raw files."""
    socket = begin_pull(guest, name)
    try:
        copies = []
        for disk in guest.images:
            copies.append(folder / f"{name}-{disk}.raw")
            source = f"nbd+unix:///{disk}?socket={quote(socket)}"
            guest.host.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", source, str(copies[-1])])
    finally:
        guest.virsh("domjobabort")
    wait_for(lambda: not guest.job(), "the end of the job")
    return copies


class TestInside:
    def test_both_ways_in(self, two_disks: Guest) -> None:
        assert two_disks.sh("cat /mnt/vda/etc/motd") == "hello\n"
        assert two_disks.exec("cat /mnt/vda/etc/motd") == "hello\n"
        assert two_disks.sh("echo out; echo err >&2; exit 3", check=False) == "out\nerr\n"
        with pytest.raises(AssertionError, match="status 3"):
            two_disks.sh("exit 3")

    def test_a_command_that_hangs_does_not_close_the_line(self, two_disks: Guest) -> None:
        with pytest.raises(AssertionError, match="no answer in time"):
            two_disks.sh("sleep 3", timeout=0.2)
        assert two_disks.sh("echo still there") == "still there\n"

    def test_what_is_written_is_on_the_disk(self, two_disks: Guest, tmp_path: Path) -> None:
        two_disks.pattern("vdb", 1 * MIB, 8 * MIB, seed=5)
        two_disks.zero("vdb", 2 * MIB, 1 * MIB)
        two_disks.zero("vdb", 4 * MIB, 1 * MIB, how="zeroout")
        two_disks.zero("vdb", 6 * MIB, 1 * MIB, how="discard")
        expected = bytearray(pattern_bytes(1 * MIB, 8 * MIB, 5))
        for at in (1, 3, 5):
            expected[at * MIB : (at + 1) * MIB] = bytes(MIB)
        found = two_disks.raw_copy("vdb", tmp_path / "vdb").read_bytes()
        assert found[1 * MIB : 9 * MIB] == expected

    def test_file_systems_are_read_from_images(self, two_disks: Guest, tmp_path: Path) -> None:
        two_disks.write_file("vda", "new", b"\0new\xff")
        image = two_disks.raw_copy("vda", tmp_path / "vda")
        assert filesystem_problems(image) == ""
        assert read_files(image, ["etc/motd", "missing", "new"]) == {
            "etc/motd": b"hello\n",
            "new": b"\0new\xff",
        }
        with image.open("r+b") as file:
            file.seek(64 * 1024)
            file.write(os.urandom(1 * MIB))
        assert filesystem_problems(image)


class TestLockstep:
    def test_one_cut_is_in_step_and_two_are_not(self, two_disks: Guest, lab: Lab) -> None:
        folder = lab.folder("copies")
        two_disks.lockstep_start("vda", "vdb")
        began = time.monotonic()
        before = two_disks.lockstep_step()
        first = pull(two_disks, folder, "first")
        wait_for(lambda: two_disks.lockstep_step() > before + 100, "a hundred steps")
        rate = (two_disks.lockstep_step() - before) / (time.monotonic() - began)
        second = pull(two_disks, folder, "second")
        last = two_disks.lockstep_stop()

        assert before <= check_lockstep(first, before)[0].newest < last
        check_lockstep(second)
        with pytest.raises(AssertionError, match="not of one instant"):
            check_lockstep([second[0], first[1]])
        with pytest.raises(AssertionError, match="older than the cut"):
            check_lockstep(first, last)
        assert rate > 20, "too slow to tell much"
        final = [two_disks.raw_copy(disk, folder / f"final-{disk}") for disk in two_disks.images]
        assert [ring.newest for ring in check_lockstep(final, last)] == [last, last]

    def test_goes_on_where_it_stopped(self, two_disks: Guest) -> None:
        two_disks.lockstep_start("vda", "vdb")
        last = two_disks.lockstep_stop()
        two_disks.lockstep_start("vda", "vdb")
        assert two_disks.lockstep_stop() > last

    @pytest.mark.parametrize(
        ("slot", "words", "problem"),
        [
            (7, [71 - SLOTS] * 512, "missing"),
            (7, [71] * 256 + [7] * 256, "torn"),
            (7, [72] * 512, "holds step 72"),
            (7, [0] * 512, "missing"),
        ],
        ids=["one round old", "torn", "of another slot", "lost"],
    )
    def test_a_damaged_slot_is_reported(
        self, slot: int, words: list[int], problem: str, tmp_path: Path
    ) -> None:
        image = tmp_path / "image"
        ring = bytearray(RING_BYTES)
        for step in range(100 - SLOTS + 1, 101):
            struct.pack_into("<512Q", ring, step % SLOTS * STRIDE, *[step] * (SLOT_BYTES // 8))
        assert parse_ring(bytes(ring)).whole
        struct.pack_into("<512Q", ring, slot * STRIDE, *words)
        image.write_bytes(bytes(RING_BYTES) + ring)
        assert problem in "; ".join(read_ring(image).problems)
        with pytest.raises(AssertionError, match=problem):
            check_lockstep([image])


class TestAgent:
    def test_hangs_and_wakes_up_frozen(self, two_disks: Guest) -> None:
        two_disks.virsh("guest-agent-timeout", "--timeout", "1")
        two_disks.agent_hang()
        with pytest.raises(CommandError):
            two_disks.virsh("domfsfreeze")
        assert not two_disks.frozen()
        two_disks.agent_wake()
        wait_for(two_disks.frozen, "the freeze that nobody waits for any more")
        assert "frozen file systems" in leftovers(two_disks)
        two_disks.virsh("domfsthaw")
        assert not two_disks.frozen()

    def test_fakes(self, two_disks: Guest) -> None:
        two_disks.virsh("guest-agent-timeout", "--timeout", "10")
        try:
            two_disks.agent_program("fake", "freeze-delay=1", "thaw=error")
            began = time.monotonic()
            two_disks.virsh("domfsfreeze")
            assert time.monotonic() - began >= 1
            assert two_disks.frozen("vda")
            with pytest.raises(CommandError, match="refused by the lab's agent"):
                two_disks.virsh("domfsthaw")
            assert two_disks.frozen("vda")
            two_disks.agent_program("fake", "freeze=error", "thaw=silent")
            two_disks.virsh("guest-agent-timeout", "--timeout", "1")
            with pytest.raises(CommandError, match="refused by the lab's agent"):
                two_disks.virsh("domfsfreeze")
            with pytest.raises(CommandError):
                two_disks.virsh("domfsthaw")
            assert not two_disks.frozen("vda")
        finally:
            two_disks.agent_program("real")
        assert two_disks.agent("guest-fsfreeze-status") == "thawed"


class TestHost:
    def test_leftovers_are_seen(self, two_disks: Guest, lab: Lab) -> None:
        assert leftovers(two_disks) == []
        disks = "<disk name='vda'/><disk name='vdb' checkpoint='no'/>"
        checkpoint = f"<domaincheckpoint><name>mine</name><disks>{disks}</disks></domaincheckpoint>"
        two_disks.virsh("checkpoint-create", "/dev/stdin", stdin=checkpoint)
        begin_pull(two_disks, "left")
        lab.host.run(["sh", "-c", "mkdir -p /var/lib/libvirt/x; touch /var/lib/libvirt/x/scratch"])
        lab.host.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
        found = leftovers(two_disks)
        two_disks.virsh("domjobabort")
        two_disks.virsh("checkpoint-delete", "mine")
        lab.host.run(["sh", "-c", "rm -r /var/lib/libvirt/x; pkill -x sleep"])
        for expected in ("job Unbounded", "checkpoint mine", "left.sock", "x/scratch", "sleep 1000"):
            assert any(expected in line for line in found), found
        wait_for(lambda: leftovers(two_disks) == [], "everything to be gone")

    def test_a_mounted_scratch_folder_fills_up(self, lab: Lab, make_guest: Callable[..., Guest]) -> None:
        folder = lab.root / "small scratch"
        lab.host.tmpfs(folder, 2)
        guest = make_guest()
        guest.pattern("vda", 0, 16 * MIB, seed=0)
        scratch = f"<disk name='vda' type='file'><scratch file='{folder}/vda.scratch'/></disk>"
        begin_pull(guest, "full", f"<disks>{scratch}</disks>")
        filling = threading.Thread(target=lambda: guest.pattern("vda", 0, 16 * MIB, seed=1))
        filling.start()
        guest.wait_for_state("paused")
        assert "no space" in guest.virsh("domblkerror")
        guest.virsh("domjobabort")
        guest.virsh("resume")
        filling.join(30)
        assert guest.raw_copy("vda", folder.parent / "full").read_bytes()[: 16 * MIB] == pattern_bytes(
            0, 16 * MIB, 1
        )

    def test_libvirtd_and_qemu_can_be_killed(self, lab: Lab, make_guest: Callable[..., Guest]) -> None:
        guest = make_guest(agent=False, disks=[DiskSpec("vda", format="qcow2-v2")])
        lab.host.kill_libvirtd()
        lab.host.start_libvirtd()
        assert guest.state() == "running"
        assert guest.sh("echo there") == "there\n"
        guest.kill_qemu()
        assert guest.state() == "shut off"
        assert guest.qemu_pid() == 0

    def test_two_hosts_each_with_its_own_guests(self, lab: Lab, two_disks: Guest) -> None:
        with (
            lab.guest(two_disks.name, host=lab.second_host, start=False) as other,
            ssh_access(lab.host, lab.folder("ssh")) as one,
            ssh_access(lab.second_host, lab.folder("ssh")) as two,
        ):
            listing = ["virsh", "-q", "-c", "qemu:///system", "list", "--all", "--uuid"]
            assert two_disks.uuid in one.machine.run(listing).text
            assert other.uuid not in one.machine.run(listing).text
            assert two.machine.run(listing).text.split() == [other.uuid]
            assert two.machine.run(["hostname"]).text == "vmc-two\n"

    def test_logins_differ_in_what_they_may_do(self, lab: Lab, two_disks: Guest) -> None:
        look = "virsh -q -c qemu:///system list --name; ls /var/lib/libvirt/qemu"
        for user, status in ((OPERATOR, 0), (VIEWER, 2)):
            with ssh_access(lab.host, lab.folder("ssh"), user=user) as access:
                done = access.machine.run(["sh", "-c", look], check=False)
                assert two_disks.name in done.text
                assert done.status == status

    @pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
    def test_names(self, name: str, lab: Lab) -> None:
        with lab.guest(name, start=False) as guest:
            guest.start(paused=True)
            assert guest.virsh("domname") == name
        assert guest.uuid not in lab.host.domains()


class TestGate:
    """Where something is missing: skipped with the remedy, or failed where the rig is required."""

    @pytest.mark.parametrize(
        ("variables", "closing"), [({}, "1 skipped"), ({"CI": "1"}, "1 error")], ids=["alone", "in CI"]
    )
    def test_a_machine_without_the_packages(self, variables: dict[str, str], closing: str) -> None:
        environment = {"PATH": "/nowhere", **variables}
        test = f"{Path(__file__)}::TestInside::test_both_ways_in"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rsE", "-p", "no:cacheprovider", test],
            env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert closing in done.stdout
        assert "apt-get install --no-install-recommends" in done.stdout
        assert "libvirt-clients" in done.stdout


class TestEnd:
    @pytest.fixture
    def base(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="vmconsole-rig-test-") as folder:
            yield Path(folder)

    def test_a_session_leaves_nothing(self, base: Path) -> None:
        with Lab(base) as lab:
            lab.guest(start=False)
            root = lab.root
        assert not root.exists()
        assert processes_naming(root) == ""

    def test_what_a_killed_session_left_goes_at_the_next_start(self, base: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from lab.session import Lab\n"
            "lab = Lab(Path(sys.argv[1])).__enter__()\n"
            "lab.guest(start=False).start(paused=True)\n"
            "print(lab.root, flush=True)\n"
            "sys.stdin.read()\n"
        )
        rooms = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": f"{rooms}:{rooms.parent}"}
        killed = subprocess.Popen(
            [sys.executable, "-c", program, str(base)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with killed:
            assert killed.stdout is not None
            root = Path(killed.stdout.readline().strip())
            assert root.is_dir()
            assert remove_dead_sessions(base) == [], "it lives"
            assert "qemu-system" in processes_naming(root)
            killed.send_signal(signal.SIGKILL)
        wait_for(lambda: not processes_naming(root), "the kernel to end the host")
        assert remove_dead_sessions(base) == [root]
        assert not root.exists()


def processes_naming(folder: Path) -> str:
    return subprocess.run(["pgrep", "-af", str(folder)], capture_output=True, text=True, check=False).stdout
