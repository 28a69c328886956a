"""A large cluster: what one look at it costs, over real SSH and with the command line."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from lab.session import Lab

from pve.cluster import PveCluster
from pve.node import PveNode
from pve.tools import conf
from pve.world import PveWorld

pytestmark = [pytest.mark.rig, pytest.mark.timeout(120)]

NODES, GUESTS, CONTAINERS = 20, 1000, 100
COMMANDS = 6
"""Four questions to the API, one program that reads files, and one more where files and API disagree."""
PLANNING = 6
"""Where the guest is, its files, the storages, its volumes: once each, and some to spare."""
GOAL = 5.0
AT_MOST = 20.0
"""Seconds, on a machine that does several other things: a look per guest would take minutes."""


class QuietNode:
    """A node that is only known by name: it has guests, which are off, and the first node's storages."""

    def __init__(self, name: str, real: PveNode, address: str) -> None:
        self.name, self.address, self.path = name, address, real.path

    def running(self, vmid: int, kind: str = "qemu") -> bool:
        return False

    def pid(self, vmid: int) -> int:
        return 0


@pytest.fixture(scope="module")
def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PveWorld]:
    """One real node, nineteen told ones; a thousand configuration files, every tenth a container's."""
    with PveCluster(lab.folder("fleet"), lab.image, ["pve01"]) as cluster:
        cluster.api.lab = dict(cluster.nodes)
        network = cluster.one.address.rpartition(".")[0]
        for number in range(2, NODES + 1):
            name = f"pve{number:02}"
            cluster.api.lab[name] = QuietNode(name, cluster.one, f"{network}.{number}")
            cluster.api.nodes[name] = {"online": number != NODES}
            for folder in ("qemu-server", "lxc"):
                (cluster.etc / "nodes" / name / folder).mkdir(parents=True)
        for number in range(GUESTS):
            kind = "lxc" if number % (GUESTS // CONTAINERS) == 9 else "qemu"
            path = conf.path_of(100 + number, kind, f"pve{number % NODES + 1:02}", cluster.etc)
            path.write_text(text_of(100 + number, kind))
        with PveWorld(tmp_path_factory.mktemp("fleet") / "world", cluster) as world:
            yield world


def text_of(vmid: int, kind: str) -> str:
    if kind == "lxc":
        return f"arch: amd64\nhostname: ct-{vmid}\nmemory: 512\nrootfs: local:{vmid}/vm-{vmid}-disk-0.raw,size=8G\n"
    disks = [
        f"scsi{disk}: fast:{vmid}/vm-{vmid}-disk-{disk}.raw,iothread=1,size={disk + 1}G" for disk in range(4)
    ]
    net = [
        f"net{card}: virtio=BC:24:11:00:{vmid // 100:02}:{vmid % 100:02},bridge=vmbr{card}"
        for card in range(2)
    ]
    about = [
        f"name: vm-{vmid}",
        f"smbios1: uuid={uuid.UUID(int=vmid)}",
        "agent: 1",
        "tags: prod;web",
        "cores: 4",
    ]
    old = ["", "[before-upgrade]", *about, "snaptime: 1700000000", *disks]
    return "\n".join([*about, *disks, *net, *old]) + "\n"


def sessions(cluster: PveCluster) -> int:
    """Commands that were run over SSH so far."""
    sshd = cluster.one.sshd
    assert sshd is not None
    return sshd.log.count("Starting session: command")


def test_a_thousand_guests_on_twenty_nodes(fleet: PveWorld) -> None:
    before, began = sessions(fleet.cluster), time.monotonic()
    (host,) = fleet.run("inventory", "--refresh").document["hosts"]
    seconds, commands = time.monotonic() - began, sessions(fleet.cluster) - before
    print(f"\n{GUESTS} guests on {NODES} nodes: {seconds:.1f} s (goal: {GOAL:g}), {commands} remote commands")

    assert [node["name"] for node in host["nodes"]] == [f"pve{number:02}" for number in range(1, NODES + 1)]
    assert [node["name"] for node in host["nodes"] if not node["online"]] == [f"pve{NODES}"]
    guests = {guest["id"]: guest for guest in host["guests"]}
    assert set(guests) == {str(100 + number) for number in range(GUESTS)}
    assert sum(guest["kind"] == "container" for guest in guests.values()) == CONTAINERS
    assert len({guest["uuid"] for guest in guests.values()}) == GUESTS
    one = guests["101"]
    assert (one["name"], one["node"], one["uuid"]) == ("vm-101", "pve02", str(uuid.UUID(int=101)))
    assert {disk["id"]: disk["size"] for disk in one["disks"]} == {
        f"scsi{disk}": disk + 1 << 30 for disk in range(4)
    }
    assert {guest["state"] for guest in guests.values() if guest["node"] != f"pve{NODES}"} == {"off"}

    assert 1 <= commands <= COMMANDS
    assert seconds < AT_MOST


def test_a_plan_costs_no_more_than_in_a_small_cluster(fleet: PveWorld) -> None:
    folder = fleet.cluster.one.path("/srv/fast/images/100")
    folder.mkdir(parents=True)
    for disk in range(4):
        (folder / f"vm-100-disk-{disk}.raw").write_bytes(bytes(disk + 1 << 20))
    before, began = sessions(fleet.cluster), time.monotonic()
    (plan,) = fleet.run("backup", "--dry-run", "vm-100").document["plan"]
    seconds, commands = time.monotonic() - began, sessions(fleet.cluster) - before
    print(f"\nA plan: {seconds:.1f} s, {commands} remote commands, those of the inventory included")
    assert plan["method"] == "offline"
    assert {disk["id"]: disk["size"] for disk in plan["disks"]} == {
        f"scsi{disk}": disk + 1 << 20 for disk in range(4)
    }
    assert commands <= COMMANDS + PLANNING
    assert seconds < AT_MOST
