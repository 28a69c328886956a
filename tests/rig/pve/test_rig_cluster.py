"""The lab's cluster itself: nodes, tools, API and faults, without a running guest."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.host import CommandError

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from pve.tools import conf
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings


@pytest.fixture
def vm(make_vm: Callable[..., PveGuest]) -> PveGuest:
    return make_vm([PveDiskSpec(size=16 << 20, fs="ext4")], start=False, more={"tags": "a;b"})


@pytest.fixture
def machine(pve: PveCluster, tmp_path: Path) -> Iterator[SshMachine]:
    sshd = pve.one.sshd
    assert sshd is not None
    settings = SshSettings(
        name="pve", address=sshd.address, user="root", known_hosts=pve.known_hosts(tmp_path / "known_hosts"),
        identity_files=(sshd.client_key_path,), config_file=None, use_agent=False,
    )  # fmt: skip
    machine = SshMachine(settings)
    yield machine
    machine.close()


# --- nodes ---


def test_each_node_is_itself_and_shares_the_tree(pve: PveCluster, vm: PveGuest) -> None:
    for node in pve.nodes.values():
        assert node.ask("hostname").strip() == node.name
        assert node.ask("cat", f"/etc/pve/nodes/pve1/qemu-server/{vm.vmid}.conf") == vm.conf.text
        assert node.ask("readlink", "-f", "/etc/pve/local").strip() == f"/etc/pve/nodes/{node.name}"
    assert pve.one.ask("ls", "/etc/pve/qemu-server").split() == [f"{vm.vmid}.conf"]
    assert pve.two.ask("ls", "/etc/pve/qemu-server").split() == []


def test_the_tools_are_found_over_ssh(machine: SshMachine, pve: PveCluster) -> None:
    version = machine.run(["pvesh", "get", "/version", "--output-format", "json"])
    assert json.loads(version.stdout)["version"] == "9.1.1"
    assert machine.run(["hostname"]).stdout == b"pve1\n"


def test_all_nodes_answer_on_one_port_with_one_key(pve: PveCluster, tmp_path: Path) -> None:
    told = {item["name"]: item["ip"] for item in pve.one.pvesh("/cluster/status") if item["type"] == "node"}
    sshd = pve.one.sshd
    assert sshd is not None
    for name, address in told.items():
        settings = SshSettings(
            name=name, address=f"root@{address}:{sshd.port}", user="root", use_agent=False, config_file=None,
            known_hosts=pve.known_hosts(tmp_path / "known_hosts"), identity_files=(sshd.client_key_path,),
        )  # fmt: skip
        node = SshMachine(settings)
        assert node.run(["hostname"]).stdout.decode().strip() == name
        node.close()


def test_volumes_are_activated_by_perl_alone(machine: SshMachine, vm: PveGuest) -> None:
    volume = conf.drives(vm.conf)["scsi0"]["file"]
    one_liner = r"PVE::Storage::activate_volumes(PVE::Storage::config(),\@ARGV)"
    machine.run(["perl", "-MPVE::Storage", "-e", one_liner, volume])
    assert vm.node.leftovers() == [f"activated {volume}"]
    machine.run(["perl", "-MPVE::Storage", "-e", one_liner.replace("activate", "deactivate", 1), volume])
    assert vm.node.leftovers() == []
    assert machine.run(
        ["perl", "-MPVE::Storage", "-e", one_liner, "local:999/vm-999-disk-0.raw"], check=False
    ).status


# --- pvesh ---


def test_pvesh_prints_the_bare_answer_in_one_line(pve: PveCluster, vm: PveGuest) -> None:
    text = pve.one.ask("pvesh", "get", f"/nodes/pve1/qemu/{vm.vmid}/config", "--output-format", "json")
    answer = json.loads(text)
    assert text.count("\n") == 1
    assert list(answer) == sorted(answer)
    assert answer["digest"] == conf.digest(vm.conf.text)
    assert answer["scsi0"] == vm.conf.values["scsi0"]


def test_resources_of_the_cluster(pve: PveCluster, vm: PveGuest) -> None:
    found = {item["id"]: item for item in pve.two.pvesh("/cluster/resources")}
    guest = found[f"qemu/{vm.vmid}"]
    assert (guest["node"], guest["status"], guest["tags"]) == ("pve1", "stopped", "a;b")
    assert found["storage/pve1/local"]["status"] == "available"
    assert {found[f"node/{name}"]["status"] for name in pve.nodes} == {"online"}
    told = {
        item["name"]: item["local"] for item in pve.two.pvesh("/cluster/status") if item["type"] == "node"
    }
    assert told == {"pve1": 0, "pve2": 1}


def test_an_unknown_guest_and_path(pve: PveCluster) -> None:
    done = pve.one.run("pvesh", "get", "/nodes/pve1/qemu/999/config", "--output-format", "json", check=False)
    assert done.returncode
    assert b"nodes/pve1/qemu-server/999.conf' does not exist" in done.stderr
    assert b"No 'get' handler defined" in pve.one.run("pvesh", "get", "/no/such", check=False).stderr


def test_changes_through_the_api_are_in_the_tree(pve: PveCluster, vm: PveGuest) -> None:
    assert pve.one.ask("pvesh", "set", f"/nodes/pve1/qemu/{vm.vmid}/config", "--name", "other") == ""
    assert vm.conf.values["name"] == "other"


def test_free_ids_and_guests_without_a_backup_job(pve: PveCluster, vm: PveGuest) -> None:
    assert int(pve.one.pvesh("/cluster/nextid")) not in pve.guests()
    assert vm.vmid in {item["vmid"] for item in pve.one.pvesh("/cluster/backup-info/not-backed-up")}
    pve.api.unprotected = set()
    assert pve.one.pvesh("/cluster/backup-info/not-backed-up") == []
    pve.api.unprotected = None


# --- qm and pvesm ---


def test_a_lock_is_taken_once(pve: PveCluster, vm: PveGuest) -> None:
    vm.qm("set", "--lock", "backup")
    assert vm.lock == "backup"
    assert pve.one.pvesh(f"/nodes/pve1/qemu/{vm.vmid}/config")["lock"] == "backup"
    for words in (
        ["set", str(vm.vmid), "--lock", "backup"],
        ["start", str(vm.vmid)],
        ["destroy", str(vm.vmid)],
    ):
        done = pve.one.run("qm", *words, check=False)
        assert (done.returncode, done.stderr) == (255, b"VM is locked (backup)\n")
    vm.qm("unlock")
    assert vm.lock == ""


def test_an_unknown_lock_and_option_are_refused(vm: PveGuest) -> None:
    with pytest.raises(CommandError, match="lock: value 'mine'"):
        vm.qm("set", "--lock", "mine")
    with pytest.raises(CommandError, match="Unknown option: nonsense"):
        vm.qm("set", "--nonsense", "1")


def test_a_digest_guards_a_change(vm: PveGuest) -> None:
    with pytest.raises(CommandError, match="detected modified configuration"):
        vm.qm("set", "--name", "x", "--digest", "0" * 40)
    vm.qm("set", "--name", "x", "--digest", conf.digest(vm.conf.text))


def test_a_volume_is_made_named_and_freed(pve: PveCluster, vm: PveGuest) -> None:
    name = f"vm-{vm.vmid}-fleece-0.raw"
    said = pve.one.ask("pvesm", "alloc", "fast", str(vm.vmid), name, "1024", "--format", "raw")
    assert said == f"successfully created 'fast:{vm.vmid}/{name}'\n"
    path = pve.one.ask("pvesm", "path", f"fast:{vm.vmid}/{name}").strip()
    assert path == f"/srv/fast/images/{vm.vmid}/{name}"
    assert pve.one.path(path).stat().st_size == 1 << 20
    assert vm.leftovers() == [f"volume fast:{vm.vmid}/{name}"]
    assert name in pve.one.ask("pvesm", "list", "fast", "--vmid", str(vm.vmid))
    pve.one.ask("pvesm", "free", f"fast:{vm.vmid}/{name}")
    assert vm.leftovers() == []
    with pytest.raises(CommandError, match="unable to parse volume filename"):
        pve.one.ask("pvesm", "alloc", "fast", str(vm.vmid), f"vm-{vm.vmid}-fleece-0", "1024")


# --- faults ---


def test_without_quorum_nothing_is_written(pve: PveCluster, vm: PveGuest) -> None:
    with pve.no_quorum():
        with pytest.raises(CommandError, match="Permission denied"):
            vm.qm("set", "--lock", "backup")
        assert pve.one.pvesh("/cluster/status")[0]["quorate"] == 0
    vm.qm("set", "--lock", "backup")
    vm.qm("unlock")


def test_a_node_goes_offline_and_comes_back(pve: PveCluster) -> None:
    with pve.offline("pve2"):
        states = {
            item["name"]: item["online"]
            for item in pve.one.pvesh("/cluster/status")
            if item["type"] == "node"
        }
        assert states == {"pve1": 1, "pve2": 0}
        with pytest.raises(CommandError, match="No route to host"):
            pve.one.pvesh("/nodes/pve2/qemu")
    assert pve.one.pvesh("/nodes/pve2/qemu") == []


def test_a_storage_is_missing_and_fills_up(pve: PveCluster, vm: PveGuest) -> None:
    with pve.storage_gone("fast"):
        found = {item["storage"]: item["active"] for item in pve.one.pvesh("/nodes/pve1/storage")}
        assert found == {"local": 1, "fast": 0, "shared": 1}
        with pytest.raises(CommandError, match="unable to activate storage"):
            pve.one.ask("pvesm", "alloc", "fast", str(vm.vmid), f"vm-{vm.vmid}-fleece-0.raw", "4")
    with pve.one.small("/srv/fast", 8):
        free = {item["storage"]: item["avail"] for item in pve.one.pvesh("/nodes/pve1/storage")}["fast"]
        assert free <= 8 << 20
        with pytest.raises(CommandError, match="No space left"):
            pve.one.ask("dd", "if=/dev/zero", "of=/srv/fast/full", "bs=1M", "count=16")


def test_locks_of_others(pve: PveCluster, vm: PveGuest) -> None:
    with pve.locked(vm.vmid, "snapshot"):
        assert vm.lock == "snapshot"
    words = [
        "vzdump",
        str(vm.vmid),
        "--stdout",
        "--dumpdir",
        "/var/tmp",
        "--compress",
        "0",
        "--lockwait",
        "0",
    ]
    with pve.one.vzdump_lock():
        assert b"got timeout" in pve.one.run(*words, check=False).stderr


def test_a_command_fails_on_demand(pve: PveCluster, vm: PveGuest) -> None:
    with pve.one.fault(f"^qm unlock {vm.vmid}", "unable to write"):
        with pytest.raises(CommandError, match="unable to write"):
            vm.qm("unlock")
        vm.qm("config")
    vm.qm("unlock")


def test_a_limited_token_is_refused(pve: PveCluster) -> None:
    def get(token: str, path: str) -> Any:
        request = urllib.request.Request(f"{pve.plane.url}/api2/json{path}")
        request.add_header("Authorization", f"PVEAPIToken={token}")
        trusted = ssl.create_default_context(cafile=pve.plane.cafile)
        with urllib.request.urlopen(request, context=trusted) as answer:
            return json.load(answer)["data"]

    good, poor = pve.token(privileges=["VM.Audit", "Sys.Audit", "Datastore.Audit"]), pve.token("other@pve")
    assert get(good, "/nodes/pve1/storage")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(poor, "/nodes/pve1/status")
    assert get(poor, "/nodes/pve1/storage") == []


# --- containers ---


def test_a_container_goes_out_and_comes_back(
    pve: PveCluster, make_container: Callable[..., PveContainer], tmp_path: Path
) -> None:
    files = {"etc/hostname": b"dns\n", "var/lib/data": b"x" * 100_000}
    container = make_container(files, name="dns", mounts={"/srv/data": {"inner.txt": b"inner\n"}})
    assert pve.one.pvesh("/cluster/resources", type="vm")[-1]["type"] == "lxc"
    done = pve.one.run(
        "vzdump",
        str(container.vmid),
        "--stdout",
        "--dumpdir",
        "/var/tmp",
        "--mode",
        "snapshot",
        "--compress",
        "0",
    )
    assert "lock" not in container.conf.values
    (tmp_path / "tar").write_bytes(done.stdout)
    names = pve.one.run("tar", "tf", "-", stdin=done.stdout).stdout.decode().split()
    assert names[0] == "./etc/vzdump/pct.conf"
    words = ["--rootfs", "local:8", "--mp0", "local:8,mp=/srv/data,backup=1", "--unprivileged", "1"]
    pve.two.run("pct", "restore", "998", "-", *words, stdin=done.stdout)
    restored = PveContainer(pve, 998)
    try:
        assert restored.files() == files
        assert restored.files("mp0") == {"inner.txt": b"inner\n"}
        assert restored.conf.values["hostname"] == "dns"
        assert restored.node is pve.two
    finally:
        restored.remove()
    with pytest.raises(CommandError, match="rootfs is required"):
        pve.two.run("pct", "restore", "998", "-", stdin=done.stdout)
