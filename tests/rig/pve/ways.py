"""The ways a running machine is backed up, each with a guest and a backup server that take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveGuest
from pve.world import PveWorld

_SMALL = "/srv/small"


@dataclass(frozen=True, slots=True)
class Way:
    """method: as plans name it. qemu, layout: of the machine. reserve: space for whole disks can be set aside."""

    method: str
    qemu: str
    layout: str
    reserve: bool = True

    @property
    def iothread(self) -> bool:
        """Only where the safety rule allows it."""
        return self.qemu.startswith("10")


WAYS = {
    "access-10": Way("access", "10.0", "blockdev"),
    "access-7": Way("access", "7.2", "drive"),
    "reserved-7": Way("transaction", "7.2", "drive"),
    "filter-10": Way("transaction", "10.0", "blockdev", reserve=False),
}


@contextmanager
def way(
    pve: PveCluster, chosen: Way, disks: Sequence[PveDiskSpec], folder: Path, **defaults: Any
) -> Iterator[tuple[PveGuest, PveWorld]]:
    """A running guest and a world without a backup of it. folder: for the world. defaults: of its configuration.

    Without reserve the fleecing place has as much space as the disks, and not the reserve beyond.
    """
    with ExitStack() as stack:
        settings = {"scratch_reserve": "16 MiB"}
        if not chosen.reserve:
            pve.one.run("mkdir", "-p", _SMALL)
            mib = sum(disk.size for disk in disks) >> 20
            stack.enter_context(pve.one.small(_SMALL, mib))
            settings["fleecing"] = _SMALL
        vm = pve.vm(disks, qemu=chosen.qemu, layout=chosen.layout, backup_access=chosen.method == "access")
        stack.callback(vm.remove)
        world = PveWorld(folder / "world", pve, host_settings=settings, defaults=defaults)
        yield vm, stack.enter_context(world)
