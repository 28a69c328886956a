"""Commands as processes of their own on the open demo shop: pipes, signals, runs in the background."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from open_shop import SLOW as GUEST
from open_shop import open_shop

from vmconsole.__main__ import main

MIB = 1 << 20


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    with open_shop(tmp_path_factory.mktemp("processes"), slow=True) as path:
        yield str(path)


@pytest.fixture
def ask(config, capsys):
    def call(*words, code=0):
        capsys.readouterr()
        assert main(["--config", config, "--json", *words]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


@contextmanager
def running(config, *words):
    command = [sys.executable, "-m", "vmconsole", "--config", config, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until_event(process, kind, **wanted):
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == kind and wanted.items() <= event.items():
            return event
    raise AssertionError(f"{kind} never came")


def test_a_reader_that_goes_away_does_not_end_a_backup(config, ask):
    with running(config, "backup", "web-01", "--json") as process:
        until_event(process, "run_started")
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert ask("runs", "--limit", "1")[0]["runs"][0]["state"] == "done"


def test_a_full_disk_under_the_output_does_not_end_a_backup(config, ask, capsys, monkeypatch):
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        assert main(["--config", config, "--json", "backup", "web-01"]) == 1
    assert "The output could not be written: No space left on device." in capsys.readouterr().err
    assert ask("runs", "--limit", "1")[0]["runs"][0]["state"] == "done"


def test_ctrl_c_stops_a_backup_cleanly(config, ask):
    with running(config, "backup", GUEST, "--full", "--json") as process:
        until_event(process, "step_started", step="read")
        process.send_signal(signal.SIGINT)
        lines = process.stdout.read().splitlines()
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()
    assert json.loads(lines[-1])["error"] == "Cancelled"
    assert ask("doctor")[0]["leftovers"] == []
    assert ask("runs", "--limit", "1")[0]["runs"][0]["state"] == "cancelled"


def test_a_run_in_the_background_is_followed_and_stopped(config, ask):
    run = ask("backup", GUEST, "--full", "--detach")[0]["run"]["run"]
    with running(config, "runs", run, "--follow", "--json") as follower:
        until_event(follower, "step_started", step="read")
        stopped = ask("stop", run)[0]
        assert stopped["stopped"]
        assert stopped["run"]["state"] == "cancelled"
        assert until_event(follower, "run_finished")["exit_code"] == 130
        assert follower.wait(60) == 130
    assert ask("doctor")[0]["leftovers"] == []


def test_leaving_a_follower_leaves_the_run_alone(config, ask):
    run = ask("backup", "mail-02", "--detach")[0]["run"]["run"]
    with running(config, "runs", run, "--follow", "--json") as follower:
        until_event(follower, "run_started")
        follower.send_signal(signal.SIGINT)
        follower.wait(60)
    deadline = time.monotonic() + 60
    while (state := ask("runs", "--limit", "1")[0]["runs"][0]["state"]) == "running":
        assert time.monotonic() < deadline
    assert state == "done"


def test_a_detached_backup_of_nobody_says_so(ask):
    error = ask("backup", "nobody", "--detach", code=1)[0]
    assert "There is no guest 'nobody'" in error["message"]
