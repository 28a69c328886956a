"""A scheduled run with the rights that its systemd service has, and no others, on the open demo shop.

systemd itself need not run: mount(8) and setpriv(1) lock the program in as the unit says.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from vmconsole.__main__ import main
from vmconsole.cli import unit_files
from vmconsole.cli.unit_files import SERVICE, render, values_of
from vmconsole.config.load import load
from vmconsole.interfaces import Cancel
from vmconsole.wiring.clock import SystemClock
from vmconsole.wiring.services import Wiring

GROUPS = """
[groups.all]
guests = ["web-01"]
when = "every 30 min"

[notify]
metrics = "metrics/vmconsole.prom"
"""
LOCK = """
set -eu
for path; do mount --bind "$path" "$path"; done
# The newest mount over a place counts, so the order of the list is right; some cannot be changed, such as /dev.
cut -d' ' -f5 /proc/self/mountinfo | while read -r place; do
    case " $* " in *" $place "*) continue ;; esac
    mount -o remount,bind,ro "$place" 2>/dev/null || :
done
if touch "$OUTSIDE/x" 2>/dev/null; then echo "the file system is not read-only" >&2; exit 99; fi
exec setpriv --bounding-set "-all$CAPABILITIES" --no-new-privs -- sh -c "$COMMAND"
"""


class Yesterday(SystemClock):
    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=1)


def locked_in(unit: dict[str, str], home: Path, outside: Path) -> subprocess.CompletedProcess[str]:
    writable = [word.removeprefix("-") for word in shlex.split(unit["ReadWritePaths"])]
    subprocess.run(shlex.split(unit["ExecStartPre"].removeprefix("+")), check=True)
    allowed = [name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"].split()]
    environ = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "HOME": str(home),
        "OUTSIDE": str(outside),
        "CAPABILITIES": "".join(f",+{name}" for name in allowed),
        "COMMAND": unit["ExecStart"].replace("--quiet", "--json"),
        **dict([unit["Environment"].split("=", 1)]),
    }
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", LOCK, "sh", *writable]
    return subprocess.run(
        words, env=environ, cwd="/", capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to lock a program in as systemd would")
def test_a_scheduled_run_needs_no_more_than_its_service_may(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    monkeypatch.setattr(
        unit_files, "pwd", SimpleNamespace(getpwuid=lambda uid: SimpleNamespace(pw_dir=str(home)))
    )
    monkeypatch.setattr(unit_files, "program", lambda: [sys.executable, "-m", "vmconsole"])
    wiring = Wiring(None, Cancel())
    with wiring.demo(tmp_path / "shop") as shop:
        config = shop.config_path
        head, _, _ = config.read_text().partition("[groups.")
        config.write_text(head + GROUPS)
        (config.parent / "metrics").mkdir()
        (home / ".config").mkdir(parents=True)
        assert main(["--config", str(config), "repo", "init", "backup"]) == 0
        then = Wiring(config, Cancel(), Yesterday())
        then.history.follow("all", "main", "every 30 min")
        then.close()
        text = render(values_of(load(config), user=False), user=False)[SERVICE].replace("%h", str(home))
        unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
        done = locked_in(unit, home, tmp_path)
    wiring.close()
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["guest"] for event in events if event.get("event") == "point_made"] == ["web-01"]
    assert not any(event.get("event") == "warned" for event in events), events
    assert (config.parent / "metrics/vmconsole.prom").exists()
    assert any((home / ".cache/borg").iterdir())
