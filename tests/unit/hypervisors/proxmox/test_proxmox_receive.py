"""The program on the node that feeds qmrestore: whole streams, broken ones, programs that give up."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from importlib.resources import files
from pathlib import Path

import pytest
from rig_sshd import Sshd

from vmconsole.errors import Cancelled, HostUnreachable, RestoreFailed, VmconsoleError
from vmconsole.hypervisors.proxmox.receive import Receiver
from vmconsole.interfaces import Cancel
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.ssh import SshMachine, SshSettings

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")

SOURCE = files("vmconsole.hypervisors.proxmox").joinpath("receive.pl").read_text()


def run(stdin: bytes, *command: str, silence: str = "30", grace: str = "1") -> str:
    done = subprocess.run(
        ["perl", "-e", SOURCE, "--", silence, grace, *command], input=stdin, capture_output=True, check=True
    )
    assert done.stderr == b""
    return done.stdout.decode()


def frames(*pieces: bytes, end: bool = True) -> bytes:
    return b"".join(struct.pack(">I", len(piece)) + piece for piece in pieces) + (bytes(4) if end else b"")


def test_a_whole_stream_arrives_as_it_is(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    out = run(
        frames(data[:5], data[5:]), "sh", "-c", 'cat >"$0"; echo said; echo wrong >&2', str(tmp_path / "x")
    )
    assert (tmp_path / "x").read_bytes() == data
    assert out == "@ ended 0\nsaid\nwrong\n"


@pytest.mark.parametrize("cut", [0, 2, 4, 9, 14])
def test_a_broken_stream_never_passes_for_a_whole_one(tmp_path: Path, cut: int) -> None:
    whole = frames(b"0123456789")
    out = run(whole[:cut], "sh", "-c", 'cat >"$0"', str(tmp_path / "x"))
    assert out.startswith("@ ended 0\n")
    content = (tmp_path / "x").read_bytes()
    assert content.endswith(b"\xff" * 4096)
    assert content.rstrip(b"\xff") == b"0123456789"[: max(0, cut - 4)]


def test_a_tar_cut_between_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"x" * 512)
    tar = subprocess.run(
        ["tar", "-C", tmp_path, "-cf", "-", "one", "two"], capture_output=True, check=True
    ).stdout
    cut = tar[:1024]
    assert subprocess.run(["tar", "-t"], input=cut, capture_output=True, check=False).returncode == 0
    assert not run(frames(cut, end=False), "tar", "-t").startswith("@ ended 0")
    assert run(frames(tar), "tar", "-t") == "@ ended 0\none\ntwo\n"


def test_the_status_and_the_last_words_of_the_program() -> None:
    assert run(frames(), "sh", "-c", "echo no space >&2; exit 3") == "@ ended 3\nno space\n"
    assert run(frames(), "sh", "-c", "kill -9 $$") == "@ ended 137\n"
    assert run(frames(), "/no/such/program").startswith("@ ended 127\n/no/such/program cannot be run")
    long = run(frames(), "sh", "-c", "i=0; while [ $i -lt 9000 ]; do echo line $i; i=$((i+1)); done")
    assert long.endswith("line 8999\n")
    assert len(long) < 17000


def test_a_program_that_ends_early_does_not_hold_us_up() -> None:
    began = time.monotonic()
    out = run(frames(b"x" * (1 << 20), b"y" * (1 << 20)), "sh", "-c", "head -c 10 >/dev/null; exit 7")
    assert out.startswith("@ ended 7\n")
    assert time.monotonic() - began < 5


def test_a_program_that_does_not_read_is_ended_in_the_end(tmp_path: Path) -> None:
    began = time.monotonic()
    assert run(frames(b"x", end=False), "sleep", "60") == "@ ended 143\n"
    stubborn = 'trap "" TERM; while :; do sleep 0.1; done'
    assert run(frames(b"x", end=False), "sh", "-c", stubborn).startswith("@ ended 137\n")
    assert time.monotonic() - began < 10


def test_a_full_pipe_does_not_hide_that_the_stream_is_broken(tmp_path: Path) -> None:
    slow = 'sleep 1; cat >"$0"'
    run(frames(b"x" * 60_000, b"y" * 5536, end=False), "sh", "-c", slow, str(tmp_path / "x"), grace="5")
    assert (tmp_path / "x").read_bytes() == b"x" * 60_000 + b"y" * 5536 + b"\xff" * 4096


def test_silence_breaks_the_stream_off(tmp_path: Path) -> None:
    program = subprocess.Popen(
        ["perl", "-e", SOURCE, "--", "0.3", "1", "sh", "-c", 'cat >"$0"', str(tmp_path / "x")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdin is not None
    program.stdin.write(frames(b"abc", end=False))
    program.stdin.flush()
    assert program.wait(10) == 0
    program.stdin.close()
    assert program.stdout is not None
    assert program.stdout.read().startswith(b"@ ended 0")
    program.stdout.close()
    assert (tmp_path / "x").read_bytes() == b"abc" + b"\xff" * 4096


def test_a_length_that_cannot_be_breaks_the_stream_off(tmp_path: Path) -> None:
    run(b"\xff\xff\xff\xff" + b"x" * 100, "sh", "-c", 'cat >"$0"', str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"\xff" * 4096


# --- our end ---


def receiver(*argv: str) -> Receiver:
    return Receiver(LocalMachine("pve"), argv, argv[0])


def write_much(one: Receiver) -> None:
    for _ in range(100):
        one.write(b"x" * (1 << 20))


def test_pieces_of_every_size_arrive_in_order(tmp_path: Path) -> None:
    data = os.urandom(11 << 20)
    one = receiver("sh", "-c", 'cat >"$0"', str(tmp_path / "x"))
    position, sizes = 0, [1, 0, 65536, 300_000, 9 << 20, 7]
    while position < len(data):
        size = sizes[position % len(sizes)] or 1000
        one.write(memoryview(data)[position : position + size])
        position += size
    one.finish(Cancel())
    assert (tmp_path / "x").read_bytes() == data


def test_what_the_program_complained_about_is_said() -> None:
    script = "head -c 100 >/dev/null; echo progress 1% >&2; echo out of space at /usr/x line 3. >&2; exit 5"
    one = receiver("sh", "-c", script)
    with pytest.raises(RestoreFailed, match=r"status 5: out of space$") as caught:
        write_much(one)
    assert "pve" in caught.value.message
    one.abort()
    two = receiver("sh", "-c", script)
    with pytest.raises(RestoreFailed, match="status 5"):
        two.finish(Cancel())
    two.abort()


def test_a_program_that_is_content_with_less_has_failed() -> None:
    one = receiver("sh", "-c", "head -c 100 >/dev/null")
    with pytest.raises(RestoreFailed):
        write_much(one)
    one.abort()


def test_the_wait_for_the_end_can_be_broken_off() -> None:
    cancel = Cancel()
    one = receiver("sh", "-c", "cat >/dev/null; sleep 3")
    cancel.set()
    with pytest.raises(Cancelled):
        one.finish(cancel)
    one.abort()


@pytest.mark.skipif(
    shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="sshd is not installed"
)
def test_over_ssh_and_when_the_connection_is_lost(tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    sshd = Sshd(tmp_path).start()
    try:
        settings = SshSettings(
            name="pve",
            address=sshd.address,
            identity_files=(sshd.client_key_path,),
            known_hosts=sshd.write_known_hosts(tmp_path / "known_hosts"),
            config_file=tmp_path / "none",
        )
        machine = SshMachine(settings)
        one = Receiver(machine, ["sh", "-c", 'cat >"$0"', str(tmp_path / "x")], "sh")
        one.write(data)
        one.finish(Cancel())
        assert (tmp_path / "x").read_bytes() == data

        two = Receiver(machine, ["sh", "-c", 'cat >"$0"; echo >"$0.done"', str(tmp_path / "y")], "sh")
        two.write(data)
        machine.close()
        two.abort()
        deadline = time.monotonic() + 20
        while not (tmp_path / "y.done").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (tmp_path / "y").read_bytes().endswith(b"\xff" * 4096)
    finally:
        sshd.stop()


def test_without_perl_it_is_an_error_not_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VmconsoleError):
        receiver("cat")


def test_a_broken_perl_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    perl = tmp_path / "perl"
    perl.write_text("#!/bin/sh\necho cannot locate IO/Select.pm >&2\nexit 2\n")
    perl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    one = receiver("cat")
    with pytest.raises((RestoreFailed, HostUnreachable), match=r"IO/Select\.pm"):
        one.finish(Cancel())
    one.abort()
