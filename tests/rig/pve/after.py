"""What must hold after something went wrong: the exact words, nothing left, and a next backup that is right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from e2e_world import Ran, sha256
from lab.domain import MIB
from lab.waiting import wait_for

from pve.cluster import PveCluster
from pve.guest import PveGuest
from pve.world import PveWorld


def told(ran: Ran, error: str, message: str, hint: str) -> None:
    """The one error of a command, in exactly these words."""
    found = ran.fails(error)
    assert (found["message"], found["hint"]) == (message, hint)


def wait_clean(cluster: PveCluster, *guests: PveGuest, timeout: float = 60.0) -> None:
    """Nothing is left of a backup, in the guests, on their storages and on the nodes."""

    def left() -> list[str]:
        found = [item for node in cluster.nodes.values() for item in node.leftovers()]
        return [*found, *(item for guest in guests for item in guest.leftovers())]

    try:
        wait_for(lambda: not left(), "the cluster to be as it was", timeout)
    except TimeoutError:
        assert left() == []


def next_is_right(
    world: PveWorld,
    vm: PveGuest,
    folder: Path,
    *,
    mode: str = "incremental",
    disk: str = "virtio1",
    expect: int | tuple[int, ...] = 0,
) -> Ran:
    """A backup after a change of a disk that nothing else writes to: it holds what the disk does.

    The disk has 24 MiB; every time another place is written, so that a lost change shows.
    """
    seed = int.from_bytes(os.urandom(3), "big")
    if vm.state() == "running":
        vm.pattern(disk, seed % 23 * MIB, MIB, seed)
    else:
        write = f"write -P {seed % 255 + 1} {seed % 23}M 1M"
        image = ["-f", vm.disks[disk].format, "-c", write, str(vm.path(disk))]
        subprocess.run(["qemu-io", *image], check=True, capture_output=True)
    now = sha256(vm.raw_copy(disk, folder / f"now-{os.urandom(4).hex()}"))
    made = world.backup(vm, expect=expect)
    assert made.point["mode"] == mode, f"{made}"
    assert world.borg_sha256(made.archive, disk) == now
    return made


def all_over(world: PveWorld, cluster: PveCluster, *guests: PveGuest) -> None:
    """As wait_clean(), and the journal is empty."""
    wait_clean(cluster, *guests)
    assert world.journal() == []
