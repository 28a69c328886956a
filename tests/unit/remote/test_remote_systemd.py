"""systemctl, played by a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmconsole.remote import systemd
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.systemd import Systemd


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """Where its arguments end up."""
    script = tmp_path / "systemctl"
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/said\n'
        'case "$*" in *fail*) echo "Unit is masked." >&2; exit 1 ;; *quiet*) exit 4 ;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "said"


def test_it_calls_systemctl_and_tells_what_is_wrong(systemctl):
    assert Systemd(LocalMachine(), user=False).call("daemon-reload") == ""
    assert Systemd(LocalMachine(), user=True).call("enable", "--now", "x.timer") == ""
    assert systemctl.read_text().splitlines() == ["daemon-reload", "--user enable --now x.timer"]
    assert Systemd(LocalMachine(), user=False).call("fail") == "Unit is masked."
    assert Systemd(LocalMachine(), user=False).call("quiet") == "exit status 4"


def test_without_systemctl(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "systemctl is not installed" in Systemd(LocalMachine(), user=False).call("daemon-reload")


def test_whether_it_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(systemd, "_RUNS", tmp_path / "system")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    system, user = Systemd(LocalMachine(), user=False), Systemd(LocalMachine(), user=True)
    assert (system.runs, user.runs) == (False, False)
    (tmp_path / "system").mkdir()
    assert (system.runs, user.runs) == (True, False)
    Path(tmp_path, "systemd").mkdir()
    Path(tmp_path, "systemd/private").touch()
    assert (system.runs, user.runs) == (True, True)
