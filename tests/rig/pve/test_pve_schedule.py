"""`--run-schedule` on a cluster: a machine that is locked is postponed, and done on the node to which it moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_schedule import GROUP, RULE, made, night_held, nothing_is_due, planned
from lab.domain import MIB
from lab.waiting import wait_for

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.world import PveWorld

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]


def test_a_machine_in_migration_is_done_where_it_arrives(
    pve: PveCluster, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    vm = make_vm((PveDiskSpec("scsi0", size=24 * MIB, fs="ext4"),), name="walker", node="pve1")
    group = {"guests": [vm.uuid], "when": RULE}
    with PveWorld(tmp_path / "world", pve, groups={GROUP: group}) as world:
        with pve.locked(vm.vmid, "migrate"):
            child = night_held(world, event="guest_postponed")
        pve.migrate(vm, "pve2")
        ran = child.go()

        assert ran.status == 0, f"{ran}"
        postponed = ran.events("guest_postponed")
        assert {item["guest"] for item in postponed} == {"walker"}
        assert "migrat" in postponed[0]["message"]
        assert made(ran) == ["walker"]
        assert planned(ran)["walker"][1] == "full"
        assert ran.events("guest_failed") == []
        newest = world.newest(vm)
        # The machine that runs on the second node is the one that was read.
        assert newest["disks"][0]["bitmap"] in vm.bitmaps()
        nothing_is_due(world)
        assert vm.leftovers() == []
        wait_for(lambda: not [*pve.one.leftovers(), *pve.two.leftovers()], "the nodes to be as before", 10)
        assert world.journal() == []
