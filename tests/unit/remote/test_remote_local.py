"""What only this machine does."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vmconsole.errors import CommandFailed, HostUnreachable, NotPermitted, ToolMissing
from vmconsole.remote.local import LocalMachine, run_on_terminal, start_detached
from vmconsole.remote.process import identity, is_dead

Until = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> LocalMachine:
    monkeypatch.setattr("vmconsole.remote.child._KILL_GRACE", 0.3)
    return LocalMachine()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_importing_it_does_not_import_paramiko() -> None:
    source = (
        "import sys, vmconsole.remote.local, vmconsole.remote.process; sys.exit('paramiko' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_environment_is_added(machine: LocalMachine) -> None:
    assert machine.run(["sh", "-c", "echo $GREETING $HOME"], env={"GREETING": "hi"}).text.startswith("hi /")


def test_time_limit_ends_the_whole_group(machine: LocalMachine, tmp_path: Path, until: Until) -> None:
    pids = tmp_path / "pids"
    source = 'sleep 300 & echo $! >"$1"; wait'
    with pytest.raises(CommandFailed, match="did not end"):
        machine.run(["sh", "-c", source, "sh", str(pids)], timeout=0.5)
    until(lambda: not alive(int(pids.read_text())))


def test_time_limit_ends_what_ignores_sigterm(machine: LocalMachine) -> None:
    began = time.monotonic()
    with pytest.raises(CommandFailed, match="did not end"):
        machine.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], timeout=0.3)
    assert time.monotonic() - began < 10


def test_it_has_no_terminal_to_ask_on(machine: LocalMachine) -> None:
    assert machine.run(["sh", "-c", "exec 3</dev/tty"], check=False).status != 0


def test_program_that_may_not_run(machine: LocalMachine, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(NotPermitted):
        machine.run([str(program)])


def test_write_to_a_program_that_ended(machine: LocalMachine) -> None:
    process = machine.start(["true"])
    process.wait(10)
    with pytest.raises(HostUnreachable, match="no more input"):
        process.write(b"x" * 200_000)
    process.close()


def test_closing_ends_a_program_that_ignores_its_input(machine: LocalMachine) -> None:
    process = machine.start(["sh", "-c", "echo $$; exec sleep 300"])
    pid = int(process.read_line(10))
    process.close()
    assert not alive(pid)


class TestDetached:
    def test_runs_on_with_its_own_session_and_log(self, tmp_path: Path, until: Until) -> None:
        log = tmp_path / "log"
        who = start_detached(["sh", "-c", "echo out; echo err >&2; pwd; exec sleep 300"], log)
        pid = int(who.split(":")[1])
        try:
            until(lambda: log.read_text() == "out\nerr\n/\n")
            assert stat.S_IMODE(log.stat().st_mode) == 0o600
            assert os.getsid(pid) == pid
            assert identity(pid) == who
        finally:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid))
        assert is_dead(who)

    def test_appends_to_the_log(self, tmp_path: Path, until: Until) -> None:
        log = tmp_path / "log"
        log.write_text("before\n")
        start_detached(["sh", "-c", "echo after; sleep 0.2"], log)
        until(lambda: log.read_text() == "before\nafter\n")

    def test_a_log_that_has_grown_large_is_begun_anew(self, tmp_path: Path, until: Until) -> None:
        log = tmp_path / "log"
        log.write_bytes(b"x" * (2 << 20))
        start_detached(["sh", "-c", "echo after; sleep 0.2"], log)
        until(lambda: log.read_text() == "after\n")
        assert (tmp_path / "log.old").stat().st_size == 2 << 20

    def test_outlives_the_process_that_started_it(self, tmp_path: Path, until: Until) -> None:
        marker = tmp_path / "done"
        source = (
            "import sys; from pathlib import Path; from vmconsole.remote.local import start_detached\n"
            "start_detached(['sh', '-c', 'sleep 0.5; echo >' + sys.argv[1]], Path(sys.argv[2]))"
        )
        subprocess.run([sys.executable, "-c", source, str(marker), str(tmp_path / "log")], check=True)
        assert not marker.exists()
        until(marker.exists)

    def test_missing_program(self, tmp_path: Path) -> None:
        with pytest.raises(ToolMissing):
            start_detached(["no-such-program-here"], tmp_path / "log")


def test_a_program_on_our_terminal_is_waited_for_and_tells_its_status(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert run_on_terminal(["sh", "-c", f"touch {made}; exit 3"]) == 3
    assert made.exists()
    with pytest.raises(ToolMissing):
        run_on_terminal(["no-such-editor", "file"])
