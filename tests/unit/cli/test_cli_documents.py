"""The JSON contract of design CLI.md: keys, and what there is not is null."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

from vmconsole.cli.documents import inventory_document, point_document, run_document
from vmconsole.model.guest import (
    Disk,
    Guest,
    GuestKind,
    GuestState,
    HostInventory,
    HostKind,
    HostLoad,
    Tracking,
)
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.model.run import Run, RunState

WHEN = datetime(2026, 11, 22, 3, 0, tzinfo=timezone(timedelta(hours=1)))
FULL = DiskPoint(
    "vda",
    "disks/vda.raw",
    8,
    "qcow2",
    Mode.FULL,
    "first",
    "/vda",
    bytes_dirty=5,
    bytes_read=4,
    bytes_stored=3,
    sha256="ab",
)
NEXT = DiskPoint("vdb", "disks/vdb.raw", 8, "raw", Mode.INCREMENTAL, parent="cd", bytes_dirty=2, bytes_read=1)
LEFT_OUT = DiskPoint("vdc", "", 8, "raw", Mode.SKIPPED, "excluded")
POINT = RestorePoint(
    "web.1-2", "web", "u", "kvm1", "libvirt", WHEN, Consistency.CRASH, (FULL, NEXT, LEFT_OUT), seconds=1.5
)


def test_points():
    document = point_document(POINT)
    contract = "archive guest uuid host time mode reason consistency freeze_ms size bytes_dirty bytes_read"
    contract += " bytes_stored seconds verified pinned disks"
    assert set(contract.split()) <= document.keys()
    assert document["time"] == "2026-11-22T02:00:00+00:00"
    assert document["mode"] == "incremental"
    assert document["consistency"] == "crash"
    assert (document["size"], document["bytes_dirty"], document["bytes_read"], document["bytes_stored"]) == (
        16,
        7,
        5,
        3,
    )
    assert document["seconds"] == 1.5
    assert (document["reason"], document["freeze_ms"], document["verified"]) == (None, None, None)
    assert document["pinned"] is False
    disks = document["disks"]
    assert [disk["mode"] for disk in disks] == ["full", "incremental", "skipped"]
    assert (disks[0]["sha256"], disks[0]["parent"], disks[0]["reason"]) == ("ab", None, "first")
    assert (disks[1]["sha256"], disks[1]["parent"], disks[1]["reason"]) == (None, "cd", None)
    assert {"id", "path", "size", "sha256", "bytes_dirty", "bytes_read", "bytes_stored"} <= disks[0].keys()
    json.dumps(document)


def test_inventory():
    disk = Disk("vda", 8, "raw", "/vda", included=False, reason="excluded", tracking=Tracking.NONE)
    guest = Guest("u", "7", "web", "kvm1", GuestKind.VM, GuestState.OFF, tags=("prod",), disks=(disk,))
    hosts = [
        HostInventory("kvm1", HostKind.LIBVIRT, reachable=True, load=HostLoad(cpu=0.5), guests=(guest,)),
        HostInventory("kvm2", HostKind.LIBVIRT, reachable=False, error="gone"),
    ]
    document = inventory_document(hosts, {"u": ["daily"]}, {"u": POINT}, {"kvm1": WHEN})
    here, gone = document["hosts"]
    assert {"name", "kind", "reachable", "error", "load", "guests"} <= here.keys()
    assert (here["kind"], here["reachable"], here["error"]) == ("libvirt", True, None)
    assert here["load"] == {"cpu": 0.5, "io": None, "memory": None}
    assert here["seen"] == "2026-11-22T02:00:00+00:00"
    assert (gone["reachable"], gone["error"], gone["seen"], gone["guests"]) == (False, "gone", None, [])
    (shown,) = here["guests"]
    contract = "uuid id name kind state agent tags pool groups last_point disks"
    assert set(contract.split()) <= shown.keys()
    assert (shown["state"], shown["agent"], shown["pool"]) == ("off", False, None)
    assert (shown["groups"], shown["last_point"]) == (["daily"], "2026-11-22T02:00:00+00:00")
    assert shown["disks"] == [
        {
            "id": "vda",
            "size": 8,
            "format": "raw",
            "included": False,
            "reason": "excluded",
            "tracking": "none",
            "source": "/vda",
        }
    ]
    json.dumps(document)


def test_runs():
    run = Run("r", "backup", "all", RunState.RUNNING, "p", WHEN)
    document = run_document(run)
    assert document["started"] == "2026-11-22T02:00:00+00:00"
    assert (document["ended"], document["error"], document["exit_code"]) == (None, None, None)
    assert document["state"] == "running"
