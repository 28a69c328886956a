"""The command line against a cluster, as its user runs it."""

from __future__ import annotations

from collections.abc import Callable

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from pve.world import PveWorld

SMALL = (PveDiskSpec(size=8 << 20),)


def test_inventory_and_checks(
    pve: PveCluster,
    pve_world: PveWorld,
    make_vm: Callable[..., PveGuest],
    make_container: Callable[..., PveContainer],
) -> None:
    vm, container = make_vm(SMALL, start=False, node="pve2"), make_container()
    found = {
        item["id"]: item for item in pve_world.run("inventory", "--refresh").document["hosts"][0]["guests"]
    }
    assert set(found) == {str(vm.vmid), str(container.vmid)}
    assert (found[str(vm.vmid)]["node"], found[str(vm.vmid)]["uuid"]) == ("pve2", vm.uuid)
    pve_world.run("host", "check", "pve")


def test_a_node_that_is_offline_is_told(
    pve: PveCluster, pve_world: PveWorld, make_vm: Callable[..., PveGuest]
) -> None:
    make_vm(SMALL, start=False, node="pve2")
    with pve.offline("pve2"):
        assert "Node pve2 is offline" in pve_world.run("inventory", "--refresh", expect=(0, 3)).out
