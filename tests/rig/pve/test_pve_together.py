"""A group of two running machines on two nodes, read in two ways, cut at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from e2e_world import Ran
from lab.domain import MIB
from lab.images import filesystem_problems
from lab.waiting import wait_for

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.world import PveWorld

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]

BUDGET = 20.0
DISKS = (PveDiskSpec("scsi0", size=24 * MIB, fs="ext4"),)
Pair = tuple[PveGuest, PveGuest]


@pytest.fixture(scope="module")
def pair(pve: PveCluster) -> Iterator[Pair]:
    """On two nodes; one by the access method, one by the transaction."""
    with ExitStack() as stack:

        def made(**more: object) -> PveGuest:
            vm = pve.vm(DISKS, **more)  # type: ignore[arg-type]  # its own names
            stack.callback(vm.remove)
            return vm

        yield (
            made(name="left", node="pve1"),
            made(name="right", node="pve2", qemu="7.2", layout="drive", backup_access=False),
        )


@pytest.fixture(scope="module")
def world(pve: PveCluster, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PveWorld]:
    group = {"guests": [vm.uuid for vm in pair], "together": True}
    with PveWorld(
        tmp_path_factory.mktemp("together") / "world",
        pve,
        host_settings={"scratch_reserve": "16 MiB"},
        defaults={"freeze_budget": f"{BUDGET:g} s", "agent_timeout": "2 s"},
        groups={"pair": group},
    ) as made:
        yield made


def modes(ran: Ran) -> dict[str, tuple[str, str]]:
    return {item["guest"]: (item["mode"], item["method"]) for item in ran.events("guest_planned")}


def both(mode: str) -> dict[str, tuple[str, str]]:
    return {"left": (mode, "access"), "right": (mode, "transaction")}


def nothing_left(pve: PveCluster, world: PveWorld, pair: Pair) -> None:
    for vm in pair:
        wait_for(lambda vm=vm: not vm.leftovers(), f"{vm.name} to be as before", 20)
        assert vm.agent("guest-fsfreeze-status") == "thawed"
    wait_for(lambda: not [*pve.one.leftovers(), *pve.two.leftovers()], "the nodes to be as before", 10)
    assert world.journal() == []


def test_both_are_frozen_before_either_is_cut(pve: PveCluster, world: PveWorld, pair: Pair) -> None:
    for number, mode in enumerate(("full", "incremental")):
        for vm in pair:
            vm.write_file("scsi0", "mark", f"{mode} {vm.name}".encode())
        ran = world.run("backup", "--group", "pair")
        assert modes(ran) == both(mode)
        order = [(item["event"], item["step"]) for item in ran.documents if "step" in item]
        frozen = [at for at, what in enumerate(order) if what == ("step_finished", "freeze")]
        cut = [at for at, what in enumerate(order) if what == ("step_started", "cut")]
        assert len(frozen) == len(cut) == 2
        assert max(frozen) < min(cut)
        (told,) = ran.events("cut_together")
        assert sorted(told["guests"]) == ["left", "right"]
        print(f"{mode}: cut within {told['skew_ms']} ms")
        for vm in pair:
            (point, *older) = world.points(vm)
            assert len(older) == number
            assert point["consistency"] == "application"
            assert point["together"] == {"guests": told["guests"], "skew_ms": told["skew_ms"]}
            image = world.restore(point["archive"])["scsi0"]
            assert filesystem_problems(image) == ""
            assert f"{mode} {vm.name}".encode() in image.read_bytes()
        nothing_left(pve, world, pair)


def test_one_without_an_agent_fails_both(pve: PveCluster, world: PveWorld, pair: Pair) -> None:
    world.run("backup", "--group", "pair")
    pair[1].agent_program("none")
    wait_for(lambda: not pair[1].agent_answers(), "the agent to be gone")
    try:
        ran = world.run("backup", "--group", "pair", expect=1)
    finally:
        pair[1].agent_program("real")
    assert {item["error"] for item in ran.events("guest_failed")} == {"NotTogether"}
    assert not pair[0].frozen()
    # What was asked of an agent that did not answer is remembered, and over.
    world.clean()
    nothing_left(pve, world, pair)
    assert modes(world.run("backup", "--group", "pair")) == both("incremental")


def test_kill_9_while_both_are_frozen_and_wait(pve: PveCluster, world: PveWorld, pair: Pair) -> None:
    at = {"event": "step_finished", "step": "freeze", "guest": "right"}
    pair[1].agent_program("fake", "freeze-delay=1")
    try:
        child = world.start("backup", "--group", "pair", trap={"do": "hold", "at": at})
        child.await_trap()
        assert [vm.frozen() for vm in pair] == [True, True]
        child.kill()
        wait_for(lambda: not any(vm.frozen() for vm in pair), "the guards to thaw", BUDGET)
    finally:
        pair[1].agent_program("real")
    ran = world.run("backup", "--group", "pair", expect=(0, 3))  # 3: of the dead run's lock is told
    assert modes(ran) == both("incremental")
    nothing_left(pve, world, pair)
