"""The product's Proxmox room over SSH against a cluster: inventory, checks, where a guest is, plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pve.access import host, nodes
from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from vmconsole.errors import HostUnreachable
from vmconsole.hypervisors.proxmox.host import ProxmoxHost
from vmconsole.interfaces import ExportOptions
from vmconsole.model.guest import GuestKind, GuestState

REPOSITORY = "ab" * 32
DISKS = (
    PveDiskSpec(size=16 << 20, fs="ext4"),
    PveDiskSpec("virtio1", size=8 << 20, format="raw", options="backup=0"),
)


@pytest.fixture(scope="module")
def running(pve: PveCluster) -> Iterator[PveGuest]:
    with pve.vm(DISKS, name="web", node="pve2") as guest:
        yield guest


@pytest.fixture
def product(pve: PveCluster, tmp_path: Path) -> Iterator[ProxmoxHost]:
    with host(pve, tmp_path) as one:
        yield one


def test_the_inventory_of_both_nodes(
    product: ProxmoxHost,
    running: PveGuest,
    make_vm: Callable[..., PveGuest],
    make_container: Callable[..., PveContainer],
) -> None:
    stopped = make_vm([PveDiskSpec(size=8 << 20)], start=False, name="off")
    container = make_container(name="dns")
    found = product.inventory()
    guests = {guest.name: guest for guest in found.guests}
    assert {name: guest.id for name, guest in guests.items()} == {
        "web": str(running.vmid), "off": str(stopped.vmid), "dns": str(container.vmid),
    }  # fmt: skip
    assert guests["web"].state is GuestState.RUNNING
    assert (guests["web"].node, guests["web"].uuid) == ("pve2", running.uuid)
    assert guests["off"].state is GuestState.OFF
    assert guests["dns"].kind is GuestKind.CONTAINER
    assert [disk.id for disk in guests["web"].disks if disk.included] == ["scsi0"]
    assert [node.name for node in found.nodes] == ["pve1", "pve2"]
    assert {storage.name for storage in found.storages} == {"local", "fast", "shared"}


def test_the_vitals_of_a_running_machine(product: ProxmoxHost, running: PveGuest) -> None:
    found = product.vitals([running.uuid])
    assert found.load.cpu is not None
    assert set(found.writes) == {running.uuid}
    assert product.vitals([running.uuid]).writes[running.uuid].requests >= found.writes[running.uuid].requests


def test_every_check_is_good(product: ProxmoxHost) -> None:
    assert [check for check in product.check() if not check.ok and not check.warning] == []


def test_a_running_guest_is_planned_on_its_node(product: ProxmoxHost, running: PveGuest) -> None:
    plan = product.plan(running.uuid, REPOSITORY, [], ExportOptions())
    assert plan.method == "access"
    assert running.leftovers() == []


def test_the_older_machine_is_planned_without_proxmox_commands(
    product: ProxmoxHost, make_vm: Callable[..., PveGuest]
) -> None:
    vm = make_vm([PveDiskSpec(size=8 << 20)], layout="drive", qemu="7.2", backup_access=False)
    assert product.plan(vm.uuid, REPOSITORY, [], ExportOptions()).method == "transaction"
    vm.destroy()
    assert product.plan(vm.uuid, REPOSITORY, [], ExportOptions()).method == "offline"


def test_a_guest_is_followed_to_another_node(
    pve: PveCluster, tmp_path: Path, make_vm: Callable[..., PveGuest]
) -> None:
    vm = make_vm([PveDiskSpec(size=8 << 20)], start=False)
    with nodes(pve, tmp_path) as seen:
        assert seen.locate(vm.uuid)[0].node == "pve1"
        pve.migrate(vm, "pve2")
        place, _ = seen.locate(vm.uuid)
        assert place.node == "pve2"
        assert seen.machine("pve2").run(["hostname"]).stdout == b"pve2\n"
        with pve.offline("pve2"):
            seen.status(fresh=True)
            with pytest.raises(HostUnreachable):
                seen.machine("pve2")
