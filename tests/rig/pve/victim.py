"""A running guest that writes all the time, and what must be true of it once a backup of it has died."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from e2e_world import Child, Ran
from lab.domain import MIB, RING_BYTES
from lab.images import filesystem_problems
from lab.lockstep import check_lockstep
from lab.waiting import wait_for

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.node import PveNode
from pve.ways import Way, way
from pve.world import PveWorld

GUARD_SECONDS = 60.0
"""Within which the node has cleaned up by itself, on a machine that does several other things."""
READ: dict[str, Any] = {"event": "disk_progress", "disk": "virtio1", "done": 0}
"""The first disk is read, the second one begins."""
DISKS = (
    PveDiskSpec("scsi0", size=32 * MIB, fs="ext4"),
    PveDiskSpec("virtio1", size=32 * MIB, format="raw", storage="fast"),
)


@dataclass(slots=True)
class Victim:
    """archives: all that are in the repository. runs: that made the newest."""

    node: PveNode
    vm: PveGuest
    world: PveWorld
    method: str
    folder: Path
    archives: set[str] = field(default_factory=set)
    run: str = ""
    seeds: Iterator[int] = field(default_factory=lambda: count(1))

    def write(self) -> None:
        """A MiB, and somewhere else than the last times."""
        seed = next(self.seeds)
        self.vm.pattern("virtio1", seed * 5 % 28 * MIB, MIB, seed)

    def start(self) -> None:
        """If it is off."""
        if not self.vm.qemu_pid():
            self.vm.start()
        self.vm.lockstep_start("scsi0", "virtio1")

    @contextmanager
    def held(self, at: dict[str, Any]) -> Iterator[Child]:
        """A backup that is held at that event, and meanwhile the guest writes."""
        self.write()
        with self.world.held(self.vm, **at) as child:
            self.write()
            yield child

    def committed(self, ran: Ran) -> None:
        self.archives.add(ran.archive)
        self.run = str(ran.point["run"])

    # --- what must be true ---

    def left(self) -> list[str]:
        """On the guest and its node, but for bitmaps."""
        return [*self.vm.leftovers(), *self.node.leftovers()]

    def await_clean_node(self) -> None:
        wait_for(lambda: not self.left(), "the node to clean up by itself", GUARD_SECONDS)

    def stored(self) -> set[str]:
        """The archives, as stock borg lists them, checkpoints included."""
        listed = self.world.borg("list", "--short", "--consider-checkpoints", "{}")
        return set(listed.stdout.decode().split())

    def bitmaps_are_of(self, run: str) -> None:
        """Only those that an increment over that run needs: its own, and Proxmox's of the repository."""
        kinds = {"own" if name.endswith(f"-{run}") else name.partition("-")[0] for name in self.vm.bitmaps()}
        assert len(self.vm.bitmaps()) == len(kinds)
        assert kinds == ({"own", "vmconsole"} if self.method == "access" else {"own"})

    def matches(self, archive: str, at_least: int) -> None:
        """The archive holds one instant, not older than that step, and all that was written before."""
        images = self.world.restore(archive)
        check_lockstep([images["scsi0"], images["virtio1"]], at_least)
        assert filesystem_problems(images["scsi0"]) == ""
        now = self.vm.raw_copy("virtio1", self.folder / "now").read_bytes()
        assert images["virtio1"].read_bytes()[:-RING_BYTES] == now[:-RING_BYTES], "not what the guest has"

    def next_backup_is_right(self, mode: str = "incremental") -> None:
        """Nothing is lost, nothing half-written is in the repository, and nothing is left."""
        self.write()
        at_least = self.vm.lockstep_step()
        # 3: the lock of the dead run was removed, and that is said.
        made = self.world.backup(self.vm, expect=(0, 3))
        self.committed(made)
        assert made.point["mode"] == mode, f"{made}"
        assert made.point["consistency"] == "application", f"{made}"
        self.matches(made.archive, at_least)
        assert self.stored() == self.archives
        self.world.borg_check()
        assert self.world.journal() == []
        self.await_clean_node()
        self.bitmaps_are_of(self.run)


def run_of(child: Child) -> str:
    """The id of the run that a command is."""
    with (child.folder / "out").open() as out:
        return str(json.loads(out.readline())["run"])


@contextmanager
def victim_of(pve: PveCluster, chosen: Way, folder: Path) -> Iterator[Victim]:
    """With a full restore point."""
    with way(pve, chosen, DISKS, folder) as (vm, world):
        victim = Victim(pve.one, vm, world, chosen.method, folder)
        victim.start()
        victim.committed(world.backup(vm))
        yield victim
