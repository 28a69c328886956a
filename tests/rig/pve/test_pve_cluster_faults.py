"""Faults of a cluster, each with its exact error, exit code and hint; then the next run is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_world import Ran, sha256
from lab.domain import MIB

from pve.after import all_over, next_is_right, told, wait_clean
from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from pve.world import PveWorld

pytestmark = [pytest.mark.rig, pytest.mark.timeout(200)]

DISKS = (
    PveDiskSpec("scsi0", size=24 * MIB, fs="ext4", iothread=True, storage="shared"),
    PveDiskSpec("virtio1", size=24 * MIB, format="raw", storage="shared"),
)
SMALL = PveDiskSpec("virtio1", size=24 * MIB, format="raw", storage="fast")
QUORUM = (
    "HostError",
    "The cluster of pve has lost quorum: too few of its nodes see each other, so nothing can be locked.",
    "Bring its nodes back; on a node look at: pvecm status",
)
OFFLINE = "Start it, or let its guests be moved; on another node look at: pvecm status"
READING = {"event": "step_started", "step": "read"}


@pytest.fixture(scope="module")
def vm(pve: PveCluster) -> Iterator[PveGuest]:
    """It runs, on a storage that both nodes have."""
    guest = pve.vm(DISKS, name="web")
    yield guest
    guest.remove()


@pytest.fixture(scope="module")
def world(pve: PveCluster, vm: PveGuest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PveWorld]:
    """With a full restore point of the guest, which every later one of it is an increment of."""
    with PveWorld(tmp_path_factory.mktemp("faults") / "world", pve) as one:
        one.backup(vm)
        yield one
        one.borg_check()


@pytest.fixture
def settings(world: PveWorld) -> Iterator[Callable[..., None]]:
    """More of [hosts.pve], for one test."""

    def change(**more: Any) -> None:
        world.host_settings.update(more)
        world.configure()

    yield change
    world.host_settings.clear()
    world.configure()


def failed(ran: Ran, guest: str) -> dict[str, Any]:
    """The guest_failed of one of several guests."""
    (found,) = [item for item in ran.events("guest_failed") if item["guest"] == guest]
    return found


# --- somebody else holds it ---


def test_the_guest_is_locked(pve: PveCluster, world: PveWorld, vm: PveGuest, tmp_path: Path) -> None:
    hints = {
        "backup": "A backup holds it: Proxmox's own, or a run of vmconsole that died (vmconsole doctor --clean). "
        f"If none works on it any more: qm unlock {vm.vmid}",
        "snapshot": "A snapshot is being taken; wait until that has ended.",
    }
    for lock, hint in hints.items():
        with pve.locked(vm.vmid, lock):
            ran = world.backup(vm, expect=1)
            assert vm.lock == lock, "somebody else's lock was taken away"
        message = f"web ({vm.vmid}) on pve/{vm.node.name} is locked by Proxmox ({lock})."
        told(ran, "GuestBusy", message, hint)
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm)


def test_its_configuration_is_being_changed_for_long(
    pve: PveCluster, world: PveWorld, vm: PveGuest, tmp_path: Path
) -> None:
    with vm.node.config_flock(vm.vmid):
        ran = world.backup(vm, expect=1)
    where = "pve" if vm.node is pve.one else "pve/pve2"
    told(
        ran,
        "GuestBusy",
        f"Guest {vm.vmid} on {where} cannot be locked: can't lock file "
        f"'/run/lock/qemu-server/lock-{vm.vmid}.conf' - got timeout",
        "Let whatever holds it finish. If nothing works on it any more: vmconsole doctor --clean, or on its "
        f"node: qm unlock {vm.vmid}",
    )
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm)


def test_a_vzdump_runs_on_the_node(
    pve: PveCluster,
    world: PveWorld,
    vm: PveGuest,
    make_container: Callable[..., PveContainer],
    tmp_path: Path,
) -> None:
    """It is in the way of what only vzdump can read, not of anything else."""
    container = make_container(name="dns", node=vm.node.name)
    with vm.node.vzdump_lock():
        ran = world.run("backup", "pve/dns", expect=1)
        next_is_right(world, vm, tmp_path)
    told(
        ran,
        "GuestBusy",
        f"dns ({container.vmid}) on pve/{vm.node.name} can only be read by vzdump, and a vzdump is running on that "
        "node already.",
        "Proxmox runs one at a time per node; let its own backup job finish, or move one of the two.",
    )
    assert "lock" not in container.conf.values
    world.run("backup", "pve/dns")
    all_over(world, pve, vm)


# --- nodes ---


def test_a_node_is_offline(
    pve: PveCluster, world: PveWorld, vm: PveGuest, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    """Guests of the other nodes are backed up all the same."""
    far = make_vm([SMALL], name="far", node="pve2", start=False)
    with pve.offline("pve2"):
        ran = world.run("backup", "--all", expect=20)
    found = failed(ran, "far")
    assert (found["error"], found["message"], found["hint"]) == (
        "HostUnreachable", "Node pve2 of pve is offline.", OFFLINE,
    )  # fmt: skip
    assert [item["guest"] for item in ran.events("point_made")] == ["web"]
    next_is_right(world, far, tmp_path, mode="full")
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm, far)


def test_the_configured_node_is_offline(
    pve: PveCluster,
    world: PveWorld,
    vm: PveGuest,
    settings: Callable[..., None],
    make_vm: Callable[..., PveGuest],
    tmp_path: Path,
) -> None:
    """One that is listed is asked in its place, and says where guests are."""
    far = make_vm([SMALL], name="far", node="pve2", start=False)
    sshd = pve.two.sshd
    assert sshd is not None
    settings(nodes={"pve2": f"root@{sshd.host}:{sshd.port}"})
    with pve.offline("pve1"):
        next_is_right(world, far, tmp_path, mode="full")
        told(world.backup(vm, expect=20), "HostUnreachable", "Node pve1 of pve is offline.", OFFLINE)
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm, far)


def test_the_key_of_the_second_node_changed(
    pve: PveCluster, world: PveWorld, vm: PveGuest, make_vm: Callable[..., PveGuest], tmp_path: Path
) -> None:
    far = make_vm([SMALL], name="far", node="pve2", start=False)
    sshd = pve.two.sshd
    assert sshd is not None
    old = sshd.host_key_fingerprint
    sshd.stop()
    sshd.renew_host_key()
    sshd.start()
    new = sshd.host_key_fingerprint
    told(
        world.backup(far, expect=20),
        "HostKeyChanged",
        f"The host key of pve/pve2 has CHANGED: it shows ssh-ed25519 {new}, trusted is ssh-ed25519 {old} "
        f"({world.folder}/known_hosts:2)",
        "Somebody may be listening in. Do not go on before the administrator of the host has confirmed the new "
        "fingerprint; then: vmconsole host trust --replace pve/pve2",
    )
    next_is_right(world, vm, tmp_path)
    world.run("host", "trust", "--replace", "pve/pve2", "--fingerprint", old, expect=2)
    world.backup(far, expect=20)
    world.run("host", "trust", "--replace", "pve/pve2", "--fingerprint", new)
    next_is_right(world, far, tmp_path, mode="full")
    all_over(world, pve, vm, far)


# --- moving ---


def test_it_moves_between_the_inventory_and_the_export(
    pve: PveCluster, world: PveWorld, vm: PveGuest, tmp_path: Path
) -> None:
    """The export goes to the node that runs it now."""
    source, target = vm.node, pve.two if vm.node is pve.one else pve.one
    with world.held(vm, event="step_started", step="plan") as child:
        before = (source.qmeventd.history.count(str(vm.vmid)), target.qmeventd.history.count(str(vm.vmid)))
        pve.migrate(vm, target.name, live=True)
        vm.pattern("virtio1", 3 * MIB, MIB, 11)
        ran = child.go()
    assert ran.status == 0, f"{ran}"
    after = (source.qmeventd.history.count(str(vm.vmid)), target.qmeventd.history.count(str(vm.vmid)))
    assert after == (before[0], before[1] + 1), "it was held on the wrong node"
    assert world.borg_sha256(ran.archive, "virtio1") == sha256(vm.raw_copy("virtio1", tmp_path / "now"))
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm)


def test_it_moves_before_its_lock_is_taken(
    pve: PveCluster, world: PveWorld, vm: PveGuest, tmp_path: Path
) -> None:
    source, target = vm.node, pve.two if vm.node is pve.one else pve.one
    with world.held(vm, event="step_started", step="lock") as child:
        pve.migrate(vm, target.name, live=True)
        ran = child.go()
    assert ran.status == 1
    where = "pve" if source is pve.one else f"pve/{source.name}"
    told(
        ran,
        "GuestBusy",
        f"Guest {vm.vmid} is not on {where} any more: Configuration file "
        f"'nodes/{source.name}/qemu-server/{vm.vmid}.conf' does not exist",
        "It has moved to another node, or was removed; try again.",
    )
    all_over(world, pve, vm)
    next_is_right(world, vm, tmp_path, mode="full")


def test_it_cannot_move_while_it_is_read(pve: PveCluster, world: PveWorld, vm: PveGuest) -> None:
    node = vm.node
    with world.held(vm, **READING) as child:
        with pytest.raises(Exception, match=r"VM is locked \(backup\)"):
            pve.migrate(vm, "pve2" if node is pve.one else "pve1", live=True)
        ran = child.go()
    assert ran.status == 0, f"{ran}"
    assert vm.node is node
    all_over(world, pve, vm)


# --- what cannot be written ---


def test_quorum_is_lost(pve: PveCluster, world: PveWorld, vm: PveGuest, tmp_path: Path) -> None:
    with pve.no_quorum():
        told(world.backup(vm, expect=1), *QUORUM)
        (warning,) = world.run("inventory", "--refresh").document["hosts"][0]["warnings"]
        assert warning.startswith("The cluster has lost quorum: nothing can be backed up")
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm)


def left_locked(world: PveWorld, vm: PveGuest, ran: Ran, why: str) -> None:
    """A backup that is good, but could not be unlocked: said, and in the journal."""
    assert ran.status == 3, f"{ran}"
    assert ran.point["mode"] == "incremental"
    where = "pve" if vm.node.name == "pve1" else f"pve/{vm.node.name}"
    (warning,) = ran.events("warned")
    assert warning["message"].startswith(
        f"Not everything could be cleaned up on {where}: qm unlock: {why}"
    ), warning
    assert warning["hint"] == "vmconsole doctor --clean"
    assert [entry.kind for entry in world.journal()] == ["proxmox-export"]
    assert vm.lock == "backup"


def test_quorum_is_lost_while_it_is_read(
    pve: PveCluster, world: PveWorld, vm: PveGuest, tmp_path: Path
) -> None:
    with world.held(vm, **READING) as child, pve.no_quorum():
        ran = child.go()
    left_locked(world, vm, ran, "unable to open file '/etc/pve/nodes/")
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm)


def test_unlocking_fails(pve: PveCluster, world: PveWorld, vm: PveGuest, tmp_path: Path) -> None:
    with vm.node.fault(f"^qm unlock {vm.vmid}", "unable to write"):
        left_locked(world, vm, world.backup(vm, expect=3), "unable to write")
        again = world.backup(vm, expect=1)
        assert again.fails("GuestBusy")["message"].endswith("is locked by Proxmox (backup).")
        assert any("unable to write" in warning for warning in again.warnings)
        failure = world.start("doctor", "--clean").wait()
        assert failure.status == 1
        (item,) = failure.document["cleaned"]
        assert (item["done"], item["detail"]) == (
            False,
            f"The backup of web ({vm.vmid}) on pve/{vm.node.name} is not cleaned up yet: an earlier run left "
            "something: qm unlock: unable to write",
        )
        assert len(failure.document["leftovers"]) == 1
    (item,) = world.clean(expect=0).document["cleaned"]
    cleaned = f"Cleaned up after the backup of web ({vm.vmid}) on pve/{vm.node.name}."
    assert (item["done"], item["detail"]) == (True, cleaned)
    all_over(world, pve, vm)
    next_is_right(world, vm, tmp_path)


# --- storages ---


def test_a_storage_is_missing(
    pve: PveCluster,
    world: PveWorld,
    vm: PveGuest,
    settings: Callable[..., None],
    make_vm: Callable[..., PveGuest],
    tmp_path: Path,
) -> None:
    off = make_vm([SMALL], name="off", start=False, node=vm.node.name)
    node = vm.node.name
    with pve.storage_gone("fast", node):
        told(
            world.backup(off, expect=1),
            "BackupFailed",
            f"Storage fast, which disk virtio1 of off ({off.vmid}) on pve/{node} is on, is not online on node {node}.",
            "Look at it on that node: pvesm status",
        )
        settings(fleecing="fast")
        told(
            world.backup(vm, expect=1),
            "BackupFailed",
            f"The fleecing storage fast is not available on node {node} of pve.",
            "Look at it on that node (pvesm status), or set another `fleecing` for pve.",
        )
    next_is_right(world, vm, tmp_path)
    next_is_right(world, off, tmp_path, mode="full")
    all_over(world, pve, vm, off)


def test_the_fleecing_storage_runs_full(
    pve: PveCluster, world: PveWorld, vm: PveGuest, settings: Callable[..., None], tmp_path: Path
) -> None:
    """The backup is given up; the guest writes on."""
    vm.pattern("virtio1", 0, 20 * MIB, 1)
    settings(fleecing="fast", scratch_reserve="1 MiB")
    with vm.node.small("/srv/fast", 8):
        with world.held(vm, **READING) as child:
            vm.pattern("virtio1", 0, 20 * MIB, 2)
            vm.sync()
            ran = child.go()
        assert ran.status == 1, f"{ran}"
        told(
            ran,
            "OutOfSpace",
            "QEMU gave the backup of web up so that the guest can go on writing: the fleecing space fast ran full, "
            "or was too slow (45 s for one write).",
            "Free space there, or set another `fleecing` for this host.",
        )
        assert vm.state() == "running"
        wait_clean(pve, vm)
    settings(fleecing="shared")
    next_is_right(world, vm, tmp_path)
    all_over(world, pve, vm)
