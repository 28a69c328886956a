"""The commands on the demo shop while its host is running."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from vmconsole.__main__ import main
from vmconsole.interfaces import Cancel
from vmconsole.wiring.services import Wiring

QUOTED = 'files "old" [archive]'


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    with ExitStack() as stack:
        wiring = Wiring(None, Cancel())
        stack.callback(wiring.close)
        shop = stack.enter_context(wiring.demo(folder))
        assert main(["--config", str(shop.config_path), "repo", "init", "backup"]) == 0
        yield shop


@pytest.fixture
def call(shop, capsys):
    def run(*args, code=0):
        capsys.readouterr()
        assert main(["--config", str(shop.config_path), *args, "--json"]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_inventory(call):
    host, cluster = call("inventory", "--refresh")[0]["hosts"]
    assert host["reachable"]
    assert host["kind"] == "libvirt"
    guests = {guest["name"]: guest for guest in host["guests"]}
    assert guests["build-07"]["state"] == "off"
    assert guests[QUOTED]["agent"] is False
    assert guests["web-01"]["groups"] == ["nightly"]
    assert guests["web-01"]["disks"][0]["tracking"] == "bitmap"
    assert cluster["kind"] == "proxmox"
    guests = {guest["name"]: guest for guest in cluster["guests"]}
    assert {name: guest["node"] for name, guest in guests.items()} == {
        "crm-01": "pve1", "wiki-01": "pve1", "till-09": "pve1", "dns-01": "pve2",
    }  # fmt: skip
    assert guests["dns-01"]["kind"] == "container"


def test_a_dry_run_says_why_and_changes_nothing(call, shop):
    plan = call("backup", "--all", "--dry-run")[0]["plan"]
    assert {item["mode"] for item in plan} == {"full"}
    assert all(item["reason"] for item in plan)
    assert call("points")[0]["points"] == []


def test_a_backup_speaks_in_json_lines(call):
    events = call("backup", QUOTED, code=3)
    assert events[0]["event"] == "run_started"
    assert events[-1]["event"] == "run_finished"
    assert "point_made" in {event["event"] for event in events}
    assert any(event["event"] == "warned" for event in events), "no agent: crash-consistent"
    assert call("doctor")[0]["leftovers"] == []


def test_group_show_explains_itself(call):
    shown = call("group", "show", "nightly")[0]
    assert {guest["why"] for guest in shown["guests"]} == {"is on host kvm1", "is on host pve"}


def test_host_key_that_changed_is_exit_code_20(shop, tmp_path):
    config = shop.config_path.read_text()
    known = shop.config_path.parent / "host" / "known_hosts"
    name, kind, _ = known.read_text().split()[:3]
    other = tmp_path / "known_hosts"
    key = "AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti"
    other.write_text(f"{name} {kind} {key}\n")
    changed = shop.config_path.parent / "changed.toml"
    changed.write_text(config.replace('"host/known_hosts"', json.dumps(str(other))))
    assert main(["--config", str(changed), "host", "check"]) == 20
    assert main(["--config", str(changed), "backup", "web-01"]) == 20
