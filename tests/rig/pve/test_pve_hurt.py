"""What else can die in the middle of a backup of a running guest: the connection, QEMU, the guest, its agent."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from lab.domain import RING_BYTES
from lab.lockstep import check_lockstep
from lab.waiting import wait_for

from pve.victim import READ, Victim

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]

# --- the connection ---


def test_the_connection_is_cut_in_the_middle(victim: Victim) -> None:
    with victim.held(READ) as child:
        assert victim.node.sshd is not None
        assert victim.node.sshd.cut()
        ran = child.go()
    assert ran.status == 20
    assert ran.fails("HostUnreachable")["hint"]
    victim.await_clean_node()
    assert victim.world.journal() == []
    victim.next_backup_is_right()


@pytest.mark.parametrize("victim", ["transaction"], indirect=True)
def test_the_connection_is_silent_in_the_middle(victim: Victim) -> None:
    """Nothing is closed, nothing answers, as when a firewall forgets us."""
    sshd = victim.node.sshd
    assert sshd is not None
    with victim.held(READ) as child:
        assert sshd.freeze()
        began = time.monotonic()
        try:
            ran = child.go(120)
        finally:
            seconds = time.monotonic() - began
            sshd.thaw()
    assert ran.status == 20
    assert ran.fails("HostUnreachable")["hint"]
    assert seconds < 90
    victim.await_clean_node()
    victim.world.clean()
    assert victim.world.journal() == []
    victim.next_backup_is_right()


# --- the guest ---


def test_qemu_is_killed_in_the_middle(victim: Victim) -> None:
    with victim.held(READ) as child:
        victim.vm.kill_qemu()
        ran = child.go()
    assert ran.status == 1
    told = ran.fails("GuestStopped")
    assert told["message"].endswith("was stopped while it was read.")
    assert told["hint"] == "Back it up again; earlier restore points are untouched."
    victim.await_clean_node()
    assert victim.world.journal() == []
    assert victim.stored() == victim.archives
    victim.start()
    victim.next_backup_is_right("full")
    assert victim.world.newest(victim.vm)["reason"].startswith("the guest was stopped, restarted")


def test_the_guest_powers_off_in_the_middle(victim: Victim) -> None:
    """Its QEMU stays until the backup has all it needs, and ends then."""
    victim.write()
    at_least = victim.vm.lockstep_step()
    before = victim.vm.raw_copy("virtio1", victim.folder / "before").read_bytes()
    with victim.world.held(victim.vm, **READ) as child:
        victim.write()
        victim.vm.sh("(sleep 0.1; shutdown) >/dev/null 2>&1 &")
        victim.vm.wait_for_state("shutdown")
        ran = child.go()
    assert ran.status == 0, f"{ran}"
    victim.committed(ran)
    assert ran.point["mode"] == "incremental"
    victim.vm.wait_for_state("stopped")
    victim.vm.hang_up()
    victim.await_clean_node()
    assert victim.world.journal() == []
    images = victim.world.restore(ran.archive)
    check_lockstep([images["scsi0"], images["virtio1"]], at_least)
    assert images["virtio1"].read_bytes()[:-RING_BYTES] == before[:-RING_BYTES]
    victim.start()
    victim.next_backup_is_right("full")


# --- its agent ---


@pytest.fixture
def deceived(victim: Victim) -> Iterator[Victim]:
    """With its real agent afterwards."""
    yield victim
    victim.vm.agent_program("real")


def with_agent(victim: Victim, *fault: str) -> None:
    """A backup with short limits and a fake agent; it warns that the guest may be frozen, and keeps that in mind."""
    world = victim.world
    victim.vm.agent_program("fake", *fault)
    world.defaults = {"agent_timeout": "500 ms", "freeze_budget": "3 s"}
    world.configure()
    try:
        made = world.backup(victim.vm, expect=3)
    finally:
        world.defaults = {}
        world.configure()
    victim.committed(made)
    assert any(f"qm guest cmd {victim.vm.vmid} fsfreeze-status" in line for line in made.warnings), f"{made}"
    assert "proxmox-freeze-check" in {entry.kind for entry in world.journal()}


@pytest.mark.parametrize("victim", ["access"], indirect=True)
def test_an_agent_that_freezes_when_nobody_waits_any_more(deceived: Victim) -> None:
    with_agent(deceived, "freeze-when=/late")
    assert deceived.world.newest(deceived.vm)["consistency"] == "crash"
    deceived.vm.sh("touch /late")
    # For how long is not known: the guard on the node comes back to such a guest too, and thaws it.
    wait_for(lambda: "gone" in deceived.vm.sh("[ -e /late ] || echo gone"), "the late freeze")
    wait_for(deceived.vm.agent_answers, "the agent to answer")
    deceived.world.clean(0)
    assert not deceived.vm.frozen()
    assert deceived.left() == []
    assert deceived.world.journal() == []
    deceived.vm.agent_program("real")
    deceived.next_backup_is_right()


@pytest.mark.parametrize("victim", ["transaction"], indirect=True)
def test_an_agent_that_never_thaws(deceived: Victim) -> None:
    """Only the agent could thaw: the next backup does it, as soon as one answers."""
    with_agent(deceived, "thaw=error")
    assert deceived.vm.frozen("scsi0"), "the fake agent is meant to leave it frozen"
    deceived.vm.agent_program("fake")
    assert deceived.vm.frozen("scsi0")
    deceived.next_backup_is_right()
