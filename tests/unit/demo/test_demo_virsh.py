from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.demo.shop import Shop
from vmconsole.demo.virsh_args import BadUsage, parse
from vmconsole.hypervisors.libvirt.xml import parse_checkpoint, parse_domain

QUOTED = 'files "old" [archive]'
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def runner(shop: Shop) -> Run:
    """Programs of the demo host, started as its shell would."""

    def start(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=shop.ssh.env, input=stdin, text=True, capture_output=True, check=False
        )

    return start


@pytest.fixture
def run(shop: Shop) -> Run:
    return runner(shop)


@pytest.fixture
def ask(quiet_shop: Shop) -> Run:
    return runner(quiet_shop)


def backup_xml(shop: Shop, socket: str = "", base: str = "", scratch: str = "scratch") -> str:
    socket = socket or str(shop.ssh.sockets / "n.sock")
    file = shop.folder / "host" / "scratch" / scratch
    start = f"<incremental>{base}</incremental>" if base else ""
    return (
        f"<domainbackup mode='pull'>{start}<server transport='unix' socket='{socket}'/><disks>"
        f"<disk name='vda' backup='yes' type='file'><scratch file='{file}'/></disk></disks></domainbackup>"
    )


def checkpoint_xml(name: str) -> str:
    return (
        f"<domaincheckpoint><name>{name}</name>"
        "<disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"
    )


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_command_line_is_parsed_or_refused(words: list[str]) -> None:
    with contextlib.suppress(BadUsage):
        assert parse(words).command


def test_command_lines() -> None:
    line = parse(["-c", "qemu:///session", "guest-agent-timeout", "web-01", "--timeout", "-2"])
    assert (line.uri, line.get("domain"), line.get("timeout")) == ("qemu:///session", "web-01", "-2")
    assert parse(["dumpxml", "--inactive", "--domain=a", "--security-info"]).flags == {
        "inactive",
        "security-info",
    }
    assert parse(["checkpoint-delete", "a", "--", "--metadata"]).get("checkpointname") == "--metadata"
    for words, text in (
        (["dumpxml"], "command 'dumpxml' requires <domain> option"),
        (["dumpxml", "a", "b"], "unexpected data 'b'"),
        (["list", "--nonsense"], "command 'list' doesn't support option --nonsense"),
        (["frobnicate"], "unknown command: 'frobnicate'"),
    ):
        with pytest.raises(BadUsage, match=text):
            parse(words)


def test_lists_and_names(ask: Run, quiet_shop: Shop) -> None:
    names = ask("virsh", "list", "--all", "--name").stdout.split("\n")
    assert set(names) - {""} == {guest.name for guest in quiet_shop.guests}
    assert len(names) >= 5
    running = ask("virsh", "-c", "qemu:///session", "list", "--state-running", "--uuid").stdout.split()
    assert quiet_shop.guest("build-07").uuid not in running
    assert quiet_shop.guest(QUOTED).uuid in running
    table = ask("virsh", "list", "--all").stdout
    assert table.splitlines()[0].split() == ["Id", "Name", "State"]
    assert ask("virsh", "domstate", QUOTED, "--reason").stdout == "running (booted)\n\n"
    assert ask("virsh", "domname", quiet_shop.guest(QUOTED).uuid).stdout == f"{QUOTED}\n\n"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["domstate", "nosuch"], "error: failed to get domain 'nosuch'\n"),
        (
            ["backup-dumpxml", "web-01"],
            "error: Domain backup job id not found: no domain backup job present\n",
        ),
        (
            ["domjobabort", "web-01"],
            "error: Requested operation is not valid: no job is active on the domain\n",
        ),
        (["domjobinfo", "build-07"], "error: Requested operation is not valid: domain is not running\n"),
        (
            ["checkpoint-delete", "web-01", "x"],
            "error: Domain checkpoint not found: no domain checkpoint with matching name 'x'\n",
        ),
        (
            ["backup-begin", "web-01", "/none"],
            "error: Failed to open file '/none': No such file or directory\n",
        ),
        (
            ["domblkinfo", "web-01", "vdx"],
            "error: invalid argument: invalid path vdx not assigned to domain\n",
        ),
        (
            ["vol-path", "--pool", "no", "x"],
            "error: failed to get pool 'no'\n"
            "error: Storage pool not found: no storage pool with matching name 'no'\n",
        ),
        (
            ["domfsfreeze", QUOTED],
            "error: Unable to freeze filesystems\n"
            "error: argument unsupported: QEMU guest agent is not configured\n",
        ),
    ],
)
def test_errors_are_libvirts(ask: Run, argv: list[str], text: str) -> None:
    done = ask("virsh", *argv)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", text)


def test_domain_documents(ask: Run, quiet_shop: Shop) -> None:
    for guest in quiet_shop.guests:
        live = parse_domain(ask("virsh", "dumpxml", guest.uuid).stdout)
        assert (live.name, live.uuid, live.domain_id) == (guest.name, guest.uuid, guest.domain_id)
        assert live.agent == (guest.agent and guest.running)
        inactive = parse_domain(ask("virsh", "dumpxml", guest.name, "--inactive").stdout)
        assert inactive.domain_id == -1
        assert [disk.id for disk in inactive.disks] == [item.target for item in guest.disks]
    assert parse_domain(ask("virsh", "dumpxml", "db-01").stdout).tags == ("prod", "database")


def test_freeze_holds_the_guests_writer(run: Run, shop: Shop) -> None:
    guest = shop.guest("db-01")
    assert run("virsh", "domfsfreeze", "db-01").stdout == "Froze 1 filesystem(s)\n\n"
    status = run("virsh", "qemu-agent-command", "db-01", '{"execute":"guest-fsfreeze-status"}')
    assert json.loads(status.stdout) == {"return": "frozen"}
    assert "has been disabled: the agent is in frozen state" in run("virsh", "domfsfreeze", "db-01").stderr
    assert not guest._writing.acquire(blocking=False)
    assert run("virsh", "domfsthaw", "db-01").stdout == "Thawed 1 filesystem(s)\n\n"
    assert run("virsh", "domfsthaw", "db-01").stdout == "Thawed 0 filesystem(s)\n\n"
    with guest.writes():
        pass


def test_the_life_of_a_checkpoint(run: Run, shop: Shop) -> None:
    """backup-begin from inherited descriptors, abort, size, delete, and what is refused."""
    script = "virsh backup-begin web-01 /dev/fd/3 /dev/fd/4 3<<A 4<<B\n%s\nA\n%s\nB\n"
    assert run("sh", "-c", script % (backup_xml(shop), checkpoint_xml("n1"))).stdout == "Backup started\n\n"
    assert "Operation:        Backup" in run("virsh", "domjobinfo", "web-01").stdout
    job = ElementTree.fromstring(run("virsh", "backup-dumpxml", "web-01").stdout)
    assert [disk.get("backup") for disk in job.iterfind("disks/disk")] == ["yes", "no"]
    second = run("sh", "-c", script % (backup_xml(shop, scratch="b"), checkpoint_xml("n2")))
    assert "cannot acquire state change lock" in second.stderr
    assert run("virsh", "domjobabort", "web-01").returncode == 0
    assert "None" in run("virsh", "domjobinfo", "web-01").stdout
    assert not (shop.ssh.sockets / "n.sock").exists()
    assert not list((shop.folder / "host" / "scratch").iterdir())

    refused = run("sh", "-c", script % (backup_xml(shop), checkpoint_xml("n1")))
    assert refused.stderr == "error: operation failed: domain moment n1 already exists\n"
    assert run("virsh", "checkpoint-list", "web-01", "--name").stdout.split() == ["n1"]

    shop.night(2)
    sized = parse_checkpoint(
        run("virsh", "checkpoint-dumpxml", "web-01", "n1", "--no-domain", "--size").stdout
    )
    disk = shop.guest("web-01").disks[0].disk
    assert sized.dirty == {"vda": disk.dirty_bytes("n1")}
    assert sized.dirty["vda"] > 0

    # A bitmap that is gone: code 109's words, and only the metadata can be deleted.
    del disk.bitmaps["n1"]
    broken = run("sh", "-c", script % (backup_xml(shop, base="n1"), checkpoint_xml("n3")))
    assert broken.stderr == "error: checkpoint inconsistent: missing or broken bitmap 'n1' for disk 'vda'\n"
    assert "size" not in run("virsh", "checkpoint-dumpxml", "web-01", "n1", "--no-domain", "--size").stdout
    assert "not found in backing chain" in run("virsh", "checkpoint-delete", "web-01", "n1").stderr
    deleted = run("virsh", "checkpoint-delete", "web-01", "n1", "--metadata")
    assert deleted.stdout == "Domain checkpoint n1 deleted\n\n"


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("<domainbackup", "error: (domain_backup)"),
        ("<other/>", "error: XML error"),
        ("<domainbackup mode='push'><disks/></domainbackup>", "error: unsupported configuration"),
        (
            "<!DOCTYPE a [<!ENTITY b 'c'>]><domainbackup mode='pull'>&b;</domainbackup>",
            "error: (domain_backup)",
        ),
    ],
)
def test_broken_requests_change_nothing(ask: Run, quiet_shop: Shop, document: str, text: str) -> None:
    done = ask("virsh", "backup-begin", "web-01", "/dev/stdin", stdin=document)
    assert done.returncode == 1
    assert done.stderr.startswith(text)
    assert quiet_shop.host.job(quiet_shop.guest("web-01")) is None


def test_guests_go_on_and_off(run: Run, shop: Shop) -> None:
    guest = shop.guest("web-01")
    assert run("virsh", "shutdown", "web-01").returncode == 0
    assert run("virsh", "domstate", "web-01").stdout == "shut off\n\n"
    assert "not running" in run("virsh", "destroy", "web-01").stderr
    assert run("virsh", "start", "web-01").returncode == 0
    assert run("virsh", "start", "web-01").stderr == "error: Domain is already active\n"
    assert run("virsh", "domid", "web-01").stdout == f"{guest.domain_id}\n\n"
    assert (shop.host.folders.lib / guest.folder_name).is_dir()
    assert "not supported by the demo host" in run("virsh", "define", "/dev/null").stderr


def test_a_socket_that_cannot_be_bound(ask: Run, quiet_shop: Shop) -> None:
    done = ask(
        "virsh", "backup-begin", "web-01", "/dev/stdin", stdin=backup_xml(quiet_shop, "/nonexist/x.sock")
    )
    assert done.stderr == (
        "error: internal error: unable to execute QEMU command 'nbd-server-start': "
        "Failed to bind socket to /nonexist/x.sock: No such file or directory\n"
    )
    assert quiet_shop.host.job(quiet_shop.guest("web-01")) is None
    assert not list((quiet_shop.folder / "host" / "scratch").iterdir())


def test_a_leftover_scratch_file_is_refused(run: Run, shop: Shop) -> None:
    (shop.folder / "host" / "scratch" / "scratch").touch()
    done = run("virsh", "backup-begin", "web-01", "/dev/stdin", stdin=backup_xml(shop))
    assert "for backup of 'vda' exists" in done.stderr


def test_qemu_img_knows_the_images(ask: Run, quiet_shop: Shop) -> None:
    disk = quiet_shop.guest("web-01").disks[0].disk
    line = ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", "--backing-chain", "--"]
    [document] = json.loads(ask(*line, str(disk.path)).stdout)
    assert document["virtual-size"] == disk.size
    assert document["format-specific"]["data"]["compat"] == "1.1"
    assert ask(*line, "/none").returncode == 1
    raw = quiet_shop.guest("mail-02").disks[0].disk.path
    assert "not in qcow2 format" in ask(*line, str(raw)).stderr


def test_qemu_nbd_ends_in_good_order_on_sigterm(shop: Shop, tmp_path: Path) -> None:
    image = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": str(
        shop.guest("build-07").disks[0].disk.path), "locking": "off"}})  # fmt: skip
    socket, pid_file = shop.ssh.sockets / "q.sock", tmp_path / "pid"
    server = subprocess.Popen(
        [
            *("qemu-nbd", f"--socket={socket}", f"--pid-file={pid_file}", "--persistent", "--read-only"),
            *("--export-name=vda", "--", f"json:{image}"),
        ],
        env=shop.ssh.env,
    )
    try:
        deadline = 10.0
        while not pid_file.exists() and deadline > 0:
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(0.02)
            deadline -= 0.02
        assert socket.exists()
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        assert not socket.exists()
        assert not pid_file.exists()
    finally:
        server.kill()
        server.wait()


def test_a_stub_whose_demo_is_gone(tmp_path: Path) -> None:
    with Shop(tmp_path / "demo") as shop:
        env = dict(shop.ssh.env)
    done = subprocess.run(["virsh", "list"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert not os.path.exists(env["XDG_RUNTIME_DIR"])  # noqa: PTH110 (a plain string of the environment)
