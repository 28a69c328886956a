"""The facade, and what `host check` finds on a cluster."""

from __future__ import annotations

import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import fakes
import pytest
from proxmox_fake import FakeCluster, FakeNode, status, unreachable
from proxmox_samples import GIB, GUEST, POINT, REPOSITORY, gathered

from vmconsole.errors import HostKeyChanged, HostUnreachable
from vmconsole.hypervisors.proxmox import checks
from vmconsole.hypervisors.proxmox.checks import check_cluster
from vmconsole.hypervisors.proxmox.host import METHODS, ProxmoxHost
from vmconsole.hypervisors.proxmox.plan import make_plan
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.interfaces import ExportOptions, GuestRestore, Hypervisor
from vmconsole.model.guest import Check, HostKind
from vmconsole.model.run import JournalEntry

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Two nodes with all tools, which look.pl finds on our own PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in checks.TOOLS:
        (tools / tool).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    made = FakeCluster(tmp_path)
    made.main.write("/proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    made.main.api = {
        "/cluster/status": status("pve1", "pve2"),
        "/version": {"version": "9.1.4", "release": "9.1"},
        "/nodes/pve1/storage": [{"storage": "fast", "type": "lvmthin", "active": 1, "avail": 9 * GIB}],
        "/nodes/pve2/storage": [{"storage": "fast", "type": "lvmthin", "active": 0}],
    }
    return made


def look(cluster: FakeCluster, **settings: object) -> dict[str, Check]:
    return {check.name: check for check in check_cluster(cluster.nodes, ProxmoxSettings(**settings))}  # type: ignore[arg-type]


def test_all_is_well(cluster: FakeCluster) -> None:
    found = look(cluster)
    assert list(found) == ["Proxmox VE", "cluster", "node pve1", "node pve2"]
    assert all(check.ok for check in found.values())
    assert found["Proxmox VE"].detail == "version 9.1.4"
    assert found["cluster"].detail == "shop, 2 nodes"


def test_a_single_node(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/status"] = status("pve1")
    assert look(cluster)["cluster"].detail == "a single node"


@pytest.mark.parametrize(("version", "ok"), [("9.1.4", True), ("7.0-8", True), ("6.4-13", False), ("", True)])
def test_versions(cluster: FakeCluster, version: str, ok: bool) -> None:
    cluster.main.api["/version"] = {"version": version}
    assert look(cluster)["Proxmox VE"].ok is ok


def test_lost_quorum_and_offline_nodes(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/status"] = status("pve1", "pve2", quorate=0, offline=("pve2",))
    found = look(cluster)
    assert not found["cluster"].ok
    assert found["cluster"].remedy == "pvecm status"
    assert (found["node pve2"].ok, found["node pve2"].warning) == (False, True)


def test_a_node_that_is_not_trusted_yet(cluster: FakeCluster) -> None:
    second = FakeNode(cluster.folder, "pve/pve2")
    second.down = HostKeyChanged("not trusted yet", hint="vmconsole host trust pve/pve2")
    cluster.machines["pve2"] = second
    found = look(cluster)["node pve2"]
    assert (found.ok, found.detail, found.remedy) == (
        False,
        "not trusted yet",
        "vmconsole host trust pve/pve2",
    )


def test_no_node_answers(cluster: FakeCluster) -> None:
    cluster.main.down = unreachable()
    with pytest.raises(HostUnreachable):
        look(cluster)


def test_missing_tools_and_pressure(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster.folder / "tools" / "socat").unlink()
    (cluster.folder / "tools" / "qemu-nbd").unlink()
    monkeypatch.setenv("PATH", str(cluster.folder / "tools") + ":/none")
    (cluster.folder / "proc/pressure/cpu").unlink()
    found = look(cluster)
    missing = found["node pve1"]
    assert (missing.detail, missing.remedy) == (
        "qemu-nbd, socat not installed", "apt install pve-qemu-kvm socat",
    )  # fmt: skip
    assert found["node pve1: load figures"].warning


def test_the_fleecing_place_on_every_node(cluster: FakeCluster) -> None:
    found = look(cluster, fleecing="fast")
    assert found["node pve1: fleecing space"].ok
    assert found["node pve1: fleecing space"].detail == "9.0 GiB free in fast"
    assert not found["node pve2: fleecing space"].ok
    assert found["node pve2: fleecing space"].remedy == "pvesm status"
    assert not look(cluster, fleecing="fast", fleecing_min_free=10 * GIB)["node pve1: fleecing space"].ok
    (cluster.folder / "srv").mkdir()
    assert look(cluster, fleecing="/srv", fleecing_min_free=1)["node pve2: fleecing space"].ok
    assert look(cluster, fleecing="/none")["node pve1: fleecing space"].remedy == "mkdir -p /none"


# --- facade ------------------------------------------------------------------------------------


def test_exports_are_opened_by_method(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    host: Hypervisor = ProxmoxHost(cluster.nodes, ProxmoxSettings())
    assert (host.name, host.kind) == ("pve", HostKind.PROXMOX)
    plan = make_plan(gathered(GUEST), "pve", ProxmoxSettings(), REPOSITORY, (POINT,), ExportOptions())
    opened: list[tuple[str, Any]] = []
    for method, (module, function) in METHODS.items():
        stub = types.ModuleType(f"vmconsole.hypervisors.proxmox.{module}")
        setattr(stub, function, lambda *args, method=method: opened.append((method, args)))
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
    context = fakes.context()
    host.export(plan, context)
    ((method, args),) = opened
    assert method == "access"
    assert args == (cluster.nodes, ProxmoxSettings(), plan, context)
    assert set(METHODS) == {"access", "transaction", "offline", "vzdump"}


def test_restores_and_cleaning_are_handed_on(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    host = ProxmoxHost(cluster.nodes, ProxmoxSettings())
    calls: list[Any] = []
    restore = types.ModuleType("vmconsole.hypervisors.proxmox.restore")
    restore.create_guest = lambda *args: calls.append(args)  # type: ignore[attr-defined]
    clean = types.ModuleType("vmconsole.hypervisors.proxmox.clean")
    clean.clean_export = lambda *args: "Cleaned."  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, restore.__name__, restore)
    monkeypatch.setitem(sys.modules, clean.__name__, clean)
    request = GuestRestore("copy")
    context = fakes.context()
    host.create(POINT, {}, request, context)
    assert calls == [(cluster.nodes, ProxmoxSettings(), POINT, {}, request, context)]
    entry = JournalEntry(1, "run", "host:1:1", "pve", "proxmox-export", {}, fakes.FakeClock().now())
    assert host.clean(entry) == "Cleaned."
    host.close()
