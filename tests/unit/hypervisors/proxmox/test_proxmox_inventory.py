"""One look at a cluster: what is listed, from how few commands, and what odd answers become."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from proxmox_fake import FakeCluster, FakeNode, guest, node, status, unreachable
from test_proxmox_guestconf import DNS, WEB

from vmconsole.errors import (
    HostError,
    HostKeyChanged,
    HostUnreachable,
    NotPermitted,
    ProtocolError,
    ToolMissing,
)
from vmconsole.hypervisors.proxmox.identity import Place, cluster_identity, identify
from vmconsole.hypervisors.proxmox.inventory import take_inventory
from vmconsole.hypervisors.proxmox.nodes import STATUS_AGE
from vmconsole.model.guest import Guest, GuestKind, GuestState, HostInventory, HostLoad, Tracking
from vmconsole.remote.machine import Completed
from vmconsole.state.codec import inventory_from, inventory_text

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")

AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\nAAAA\n-----END CERTIFICATE-----\n"
STORAGES = [
    {
        "id": f"storage/{name}/{storage}", "type": "storage", "storage": storage, "node": name, "plugintype": kind,
        "status": "available", "shared": shared, "content": "rootdir,images", "disk": 1 << 30, "maxdisk": 8 << 30,
    }
    for name in ("pve1", "pve2")
    for storage, kind, shared in (("local-lvm", "lvmthin", 0), ("ceph", "rbd", 1))
]  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    """pve1 (asked) with a VM, pve2 with a container and a template, pve3 offline with a VM."""
    made = FakeCluster(tmp_path)
    write = made.main.write
    write("/etc/pve/nodes/pve1/qemu-server/100.conf", WEB.replace("lock: backup\n", ""))
    write("/etc/pve/nodes/pve2/lxc/101.conf", DNS)
    write("/etc/pve/nodes/pve2/qemu-server/9000.conf", "template: 1\nscsi0: ceph:base-9000-disk-0,size=2G\n")
    write("/etc/pve/nodes/pve3/qemu-server/103.conf", "name: away\nscsi0: ceph:vm-103-disk-0,size=1G\n")
    write("/etc/pve/pve-root-ca.pem", AUTHORITY)
    write("/proc/loadavg", "2.00 1.00 1.00 1/100 1\n")
    for what, value in (("cpu", "1.50"), ("io", "12.00"), ("memory", "0.00")):
        write(f"/proc/pressure/{what}", f"some avg10={value} avg60=0.00 avg300=0.00 total=0\n")
    made.main.api = {
        "/cluster/resources": [
            guest(100, "web", pool="shop", hastate="started", tags="prod;web"),
            guest(101, "dns", "pve2", "lxc", status="stopped"),
            guest(9000, "VM 9000", "pve2", status="stopped", template=1),
            {"id": "qemu/103", "type": "qemu", "vmid": 103, "node": "pve3", "status": "unknown"},
            node("pve1"),
            node("pve2", cpu="0.5"),
            node("pve3", status="offline"),
            *STORAGES,
            {"id": "/pool/shop", "type": "pool", "pool": "shop"},
            {"type": "sdn"},
        ],
        "/cluster/status": status("pve1", "pve2", "pve3", offline=("pve3",)),
        "/version": {"version": "9.1.4", "release": "9.1", "repoid": "abc"},
        "/cluster/backup-info/not-backed-up": [{"vmid": "100", "type": "qemu", "name": "web"}],
    }
    return made


def guests(seen: HostInventory) -> dict[str, Guest]:
    return {item.id: item for item in seen.guests}


def test_everything_in_five_commands(cluster: FakeCluster) -> None:
    seen = take_inventory(cluster.nodes)
    assert len(cluster.main.commands) == 5
    assert sorted(command[0] for command in cluster.main.commands) == ["perl", *["pvesh"] * 4]
    assert (seen.name, seen.kind.value, seen.reachable) == ("pve", "proxmox", True)
    assert [item.name for item in seen.guests] == ["VM 9000", "away", "dns", "web"]
    web, dns, template, away = (guests(seen)[vmid] for vmid in ("100", "101", "9000", "103"))
    assert (web.node, web.state, web.pool, web.ha, web.agent) == (
        "pve1", GuestState.RUNNING, "shop", "started", True,
    )  # fmt: skip
    assert web.uuid == "8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01"
    assert web.tags == ("prod", "web")
    assert web.in_host_jobs is False
    assert dns.in_host_jobs is True
    assert (dns.kind, dns.state) == (GuestKind.CONTAINER, GuestState.OFF)
    assert template.template
    assert not web.template
    assert away.state is GuestState.OTHER
    assert any("pve3 is offline" in warning for warning in away.warnings)
    assert seen.warnings == ("Node pve3 is offline; its guests are as their configuration says.",)


def test_disks_with_what_is_left_out_and_why(cluster: FakeCluster) -> None:
    seen = guests(take_inventory(cluster.nodes))
    disks = {disk.id: disk for disk in seen["100"].disks}
    assert disks["scsi0"].tracking is Tracking.BITMAP
    assert disks["scsi0"].size == 32 << 30
    assert (disks["scsi1"].included, disks["scsi1"].format) == (False, "qcow2")
    assert "backup=0" in disks["scsi1"].reason
    assert disks["tpmstate0"].included
    assert disks["tpmstate0"].tracking is Tracking.NONE
    assert seen["100"].size == (32 << 30) + (1 << 40) + (8 << 20)
    assert [disk.id for disk in seen["101"].disks if disk.included] == ["mp0", "rootfs"]
    assert any("hostpci0" in warning for warning in seen["100"].warnings)


def test_nodes_storages_and_load(cluster: FakeCluster) -> None:
    seen = take_inventory(cluster.nodes)
    assert [(item.name, item.online, item.address, item.version) for item in seen.nodes] == [
        ("pve1", True, "10.0.0.1", "9.1.4"),
        ("pve2", True, "10.0.0.2", ""),
        ("pve3", False, "10.0.0.3", ""),
    ]
    assert seen.nodes[0].load == HostLoad(0.015, 0.12, 0.0)
    assert seen.nodes[1].load == HostLoad(0.5)
    assert seen.nodes[2].load == HostLoad()
    assert seen.load == HostLoad(0.5, 0.12, 0.0)
    assert [(item.name, item.node, item.type) for item in seen.storages] == [
        ("ceph", "", "rbd"),
        ("local-lvm", "pve1", "lvmthin"),
        ("local-lvm", "pve2", "lvmthin"),
    ]
    assert seen.storages[0].content == ("images", "rootdir")
    assert (seen.storages[0].size, seen.storages[0].used) == (8 << 30, 1 << 30)


def test_without_pressure_the_load_average_serves(cluster: FakeCluster, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "proc/pressure")
    assert take_inventory(cluster.nodes).nodes[0].load == HostLoad(0.5)


def test_it_is_kept_in_the_state(cluster: FakeCluster) -> None:
    seen = take_inventory(cluster.nodes)
    assert inventory_from(inventory_text(seen)) == seen


def test_a_single_node(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/status"] = status("pve1")
    cluster.main.api["/cluster/resources"] = [guest(100, "web"), node("pve1")]
    seen = take_inventory(cluster.nodes)
    assert [item.name for item in seen.nodes] == ["pve1"]
    assert guests(seen)["100"].state is GuestState.RUNNING


# --- identity ----------------------------------------------------------------------------------


def test_identity_stays_when_a_guest_moves_and_differs_between_clusters(cluster: FakeCluster) -> None:
    before = guests(take_inventory(cluster.nodes))["101"].uuid
    (cluster.folder / "etc/pve/nodes/pve2/lxc/101.conf").unlink()
    cluster.main.write("/etc/pve/nodes/pve1/lxc/101.conf", DNS)
    moved = guests(take_inventory(cluster.nodes))["101"]
    assert (moved.uuid, moved.node) == (before, "pve1")
    cluster.main.write("/etc/pve/pve-root-ca.pem", AUTHORITY.replace("MIIB", "MIIC"))
    assert guests(take_inventory(cluster.nodes))["101"].uuid != before


def test_copies_with_the_same_uuid() -> None:
    places = {vmid: Place(vmid, GuestKind.VM, "pve1") for vmid in (200, 100, 300, 400)}
    found = identify({places[200]: "u", places[100]: "u", places[300]: "v", places[400]: ""}, "c")
    assert found[places[100]].uuid == "u"
    assert found[places[100]].shared_with == (200,)
    assert found[places[200]].uuid not in ("u", "v")
    assert found[places[200]].shared_with == (100,)
    assert found[places[300]].uuid == "v"
    assert found[places[300]].shared_with == ()
    assert len({item.uuid for item in found.values()}) == 4
    # The rule does not depend on who is asked first.
    assert identify({places[100]: "u", places[200]: "u"}, "c")[places[200]] == found[places[200]]


def test_a_copy_is_said(cluster: FakeCluster) -> None:
    cluster.main.write("/etc/pve/nodes/pve2/qemu-server/200.conf", WEB.replace("name: web", "name: copy"))
    seen = guests(take_inventory(cluster.nodes))
    assert seen["100"].uuid != seen["200"].uuid
    assert any("same SMBIOS uuid as 200" in warning for warning in seen["100"].warnings)


@pytest.mark.parametrize("pem", ["", "rubbish", "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----"])
def test_a_cluster_without_its_authority_goes_by_name(pem: str) -> None:
    assert cluster_identity(pem, "shop") == "name:shop"
    assert len(cluster_identity(AUTHORITY, "shop")) == 64


# --- odd and hostile answers -------------------------------------------------------------------


def test_perl_s_loose_json_and_noise(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/resources"] = Completed(
        0,
        b"perl: warning: Setting locale failed.\n"
        b'[{"type":"qemu","vmid":"100","node":"pve1","status":"running","template":"0","pool":null},'
        b'null,7,{"type":"qemu"},{"type":"qemu","vmid":-5,"node":"pve1"},{"type":"lxc","vmid":101,"node":"../x"},'
        b'{"type":"node","node":"pve1","cpu":"0.5","maxcpu":"4"},{"type":"storage"},'
        b'{"type":"storage","storage":"x","node":"pve1","maxdisk":"12","shared":"1"}]\n',
        b"wide character in print\n",
    )
    cluster.main.api["/version"] = Completed(0, b"", b"")
    cluster.main.api["/cluster/backup-info/not-backed-up"] = Completed(0, b"\n", b"")
    seen = take_inventory(cluster.nodes)
    assert guests(seen)["100"].state is GuestState.RUNNING
    assert guests(seen)["100"].in_host_jobs is True
    assert seen.nodes[0].version == ""
    assert seen.storages[0].size == 12
    # What the cluster's cache does not tell is listed all the same.
    assert guests(seen)["101"].state is GuestState.OTHER


def test_half_written_and_hostile_configurations(cluster: FakeCluster) -> None:
    write = cluster.main.write
    write("/etc/pve/nodes/pve1/qemu-server/110.conf", "")
    write("/etc/pve/nodes/pve1/qemu-server/111.conf", "name: half\nscsi0: local-lvm:vm-111-di")
    write(
        "/etc/pve/nodes/pve1/qemu-server/112.conf",
        "name: no size\nscsi0: local-lvm:vm-112-disk-0\nzork: 7\nmem",
    )
    write(
        "/etc/pve/nodes/pve1/qemu-server/113.conf",
        "name: Büro 2\u202e \x1b[2J\ntags: a;\x1b[31mb;ok,;;\n".encode(),
    )
    write("/etc/pve/nodes/pve1/qemu-server/114.conf", b"name: \xff\xfe\nscsi0: a:\xff,size=1G\n")
    write("/etc/pve/nodes/pve1/qemu-server/115.conf.tmp.1", "name: not me\n")
    write("/etc/pve/nodes/pve1/qemu-server/007.conf", "name: not me\n")
    seen = guests(take_inventory(cluster.nodes))
    assert seen["110"].name == "VM 110"
    assert "It has no disk that can be backed up." in seen["110"].warnings
    assert seen["112"].disks[0].size == 0
    assert any("size of scsi0" in warning for warning in seen["112"].warnings)
    assert any("half-written" in warning for warning in seen["112"].warnings)
    assert seen["113"].tags == ("a", "ok")
    assert seen["114"].name == "\ufffd\ufffd"
    assert not {"007", "7", "115"} & seen.keys()
    inventory = take_inventory(cluster.nodes)
    assert inventory_from(inventory_text(inventory)) == inventory


def test_a_guest_that_moves_between_the_two_looks(cluster: FakeCluster) -> None:
    old = cluster.folder / "etc/pve/nodes/pve1/qemu-server/100.conf"
    text = old.read_text()
    old.unlink()
    looks = []

    def arrive() -> None:
        looks.append(1)
        if len(looks) == 2:
            cluster.main.write("/etc/pve/nodes/pve2/qemu-server/100.conf", text)

    cluster.main.before_look = arrive
    seen = guests(take_inventory(cluster.nodes))
    assert (seen["100"].name, seen["100"].node) == ("web", "pve2")
    assert len(looks) == 2


def test_a_guest_without_a_configuration_is_said(cluster: FakeCluster) -> None:
    (cluster.folder / "etc/pve/nodes/pve1/qemu-server/100.conf").unlink()
    seen = guests(take_inventory(cluster.nodes))
    assert any("cannot be read now" in warning for warning in seen["100"].warnings)


def test_own_jobs_that_proxmox_cannot_tell(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/backup-info/not-backed-up"] = Completed(
        2, b"", b"pool 'gone' does not exist\n"
    )
    seen = take_inventory(cluster.nodes)
    assert guests(seen)["100"].in_host_jobs is None
    assert any("pool 'gone' does not exist" in warning for warning in seen.warnings)


@pytest.mark.parametrize("other", ["pve2", "pve3"])
def test_a_guest_seen_on_two_nodes_while_it_moves_is_listed_once(cluster: FakeCluster, other: str) -> None:
    cluster.main.write(f"/etc/pve/nodes/{other}/qemu-server/100.conf", WEB)
    assert [(item.id, item.node) for item in take_inventory(cluster.nodes).guests if item.id == "100"] == [
        ("100", "pve1")
    ]


def test_lost_quorum_is_said_and_everything_still_listed(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/status"] = status("pve1", "pve2", quorate=0, offline=("pve2",))
    seen = take_inventory(cluster.nodes)
    assert "lost quorum" in seen.warnings[0]
    assert len(seen.guests) == 4


@pytest.mark.parametrize(
    ("stderr", "error", "words"),
    [
        (b"please run as root\n", NotPermitted, "root"),
        (b"ipcc_send_rec[1] failed: Connection refused\n", HostError, "ipcc"),
        (b"Unable to load access control list: Connection refused\n", HostError, "access control"),
        (b"cluster not ready - no quorum?\n", HostError, "quorum"),
        (
            b"unable to open file '/etc/pve/nodes/pve1/qemu-server/100.conf.tmp.7' - Permission denied\n",
            HostError,
            "quorum",
        ),
        (b"ssh: connect to host 10.0.0.2 port 22: No route to host\n", HostUnreachable, "No route"),
        (
            b"403 Permission check failed (/, Sys.Audit)\n",
            NotPermitted,
            r"needs the privilege Sys.Audit on /",
        ),
    ],
)
def test_refusals(cluster: FakeCluster, stderr: bytes, error: type[Exception], words: str) -> None:
    cluster.main.api["/cluster/resources"] = Completed(255, b"", stderr)
    with pytest.raises(error, match=words) as caught:
        take_inventory(cluster.nodes)
    assert caught.value.hint  # type: ignore[attr-defined]


def test_a_host_that_is_no_proxmox(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/resources"] = ToolMissing("pvesh is not installed", subject="pve")
    with pytest.raises(ToolMissing, match="pvesh is not installed on pve") as caught:
        take_inventory(cluster.nodes)
    assert "libvirt" in caught.value.hint


def test_nonsense_instead_of_a_cluster(cluster: FakeCluster) -> None:
    cluster.main.api["/cluster/status"] = [{"type": "node", "name": "bad name"}]
    with pytest.raises(ProtocolError):
        take_inventory(cluster.nodes)


# --- nodes -------------------------------------------------------------------------------------


def test_when_the_configured_node_is_down_others_are_asked(cluster: FakeCluster) -> None:
    other = FakeCluster(cluster.folder, listed={"pve2": "root@10.9.9.2:2222", "pve3": "root@10.9.9.3"})
    other.main.down = unreachable()
    third = FakeNode(cluster.folder, "pve/pve3", cluster.main.api)
    third.api["/cluster/status"] = status("pve1", "pve2", "pve3", asked="pve3", offline=("pve1",))
    second = FakeNode(cluster.folder, "pve/pve2")
    second.down = unreachable("pve/pve2")
    other.machines |= {"pve2": second, "pve3": third}
    seen = take_inventory(other.nodes)
    assert other.reached == {"": "", "pve2": "root@10.9.9.2:2222", "pve3": "root@10.9.9.3"}
    assert [item.name for item in seen.nodes if not item.online] == ["pve1"]
    # The one that answered is asked first from now on, and is its own node's machine.
    count = len(other.main.commands)
    assert other.nodes.machine("pve3") is third
    assert len(other.main.commands) == count


def test_when_no_node_answers(cluster: FakeCluster) -> None:
    other = FakeCluster(cluster.folder, listed={"pve2": "root@x"})
    other.main.down = unreachable()
    down = FakeNode(cluster.folder, "pve/pve2")
    down.down = unreachable("pve/pve2")
    other.machines["pve2"] = down
    with pytest.raises(
        HostUnreachable, match=r"No node of pve answers: pve cannot.*; pve/pve2 cannot"
    ) as caught:
        take_inventory(other.nodes)
    assert caught.value.hint == "Is it up?"


def test_a_changed_host_key_is_not_passed_over(cluster: FakeCluster) -> None:
    other = FakeCluster(cluster.folder, listed={"pve2": "root@x"})
    other.main.down = HostKeyChanged("the key has CHANGED", subject="pve")
    with pytest.raises(HostKeyChanged):
        take_inventory(other.nodes)
    assert "pve2" not in other.reached


def test_a_machine_for_each_node(cluster: FakeCluster) -> None:
    assert cluster.nodes.machine("pve1") is cluster.main
    second = cluster.nodes.machine("pve2")
    assert (second.name, cluster.reached["pve2"]) == ("pve/pve2", "10.0.0.2")
    assert cluster.nodes.machine("pve2") is second
    with pytest.raises(HostUnreachable, match="Node pve3 of pve is offline"):
        cluster.nodes.machine("pve3")
    with pytest.raises(HostError, match="no node pve9"):
        cluster.nodes.machine("pve9")
    cluster.nodes.close()
    assert cluster.main.closed


def test_addresses_of_the_configuration_win(cluster: FakeCluster) -> None:
    other = FakeCluster(cluster.folder, listed={"pve2": "admin@nat.example:2202"})
    other.main.api = cluster.main.api
    other.nodes.machine("pve2")
    assert other.reached["pve2"] == "admin@nat.example:2202"
    no_address = status("pve1", "pve2")
    no_address[2]["ip"] = "not an address"
    cluster.main.api["/cluster/status"] = no_address
    with pytest.raises(HostError, match="at which address") as caught:
        cluster.nodes.machine("pve2")
    assert 'nodes = { pve2 = "root@ADDRESS" }' in caught.value.hint


def test_the_status_serves_for_a_while(cluster: FakeCluster) -> None:
    cluster.nodes.status()
    cluster.nodes.status()
    assert len(cluster.main.commands) == 1
    cluster.clock.seconds += STATUS_AGE + 1
    cluster.nodes.status()
    assert len(cluster.main.commands) == 2


def test_quorum_is_asked_again_before_it_is_missed(cluster: FakeCluster) -> None:
    good = cluster.main.api["/cluster/status"]
    cluster.main.api["/cluster/status"] = status("pve1", "pve2", quorate=0)
    with pytest.raises(HostError, match="lost quorum"):
        cluster.nodes.require_quorum()
    cluster.main.api["/cluster/status"] = good
    cluster.nodes.require_quorum()


# --- size --------------------------------------------------------------------------------------


def test_twenty_nodes_and_a_thousand_guests(tmp_path: Path) -> None:
    made = FakeCluster(tmp_path)
    names = [f"pve{number}" for number in range(1, 21)]
    resources: list[dict[str, Any]] = [node(name) for name in names]
    for vmid in range(1000, 2000):
        name = names[vmid % 20]
        kind = "lxc" if vmid % 5 == 0 else "qemu"
        text = DNS if kind == "lxc" else WEB.replace("8C7E5A52", f"{vmid:08x}")
        folder = "lxc" if kind == "lxc" else "qemu-server"
        made.main.write(f"/etc/pve/nodes/{name}/{folder}/{vmid}.conf", text)
        resources.append(guest(vmid, f"guest-{vmid}", name, kind))
    made.main.api = {
        "/cluster/resources": resources,
        "/cluster/status": status(*names),
        "/version": {"version": "8.4.1"},
        "/cluster/backup-info/not-backed-up": [],
    }
    made.main.delay = 1.0
    began = time.monotonic()
    seen = take_inventory(made.nodes)
    took = time.monotonic() - began
    assert len(seen.guests) == len({item.uuid for item in seen.guests}) == 1000
    assert len(made.main.commands) == 5
    assert made.reached == {"": ""}
    assert took < 5
    assert len(inventory_text(seen)) < 8 << 20
