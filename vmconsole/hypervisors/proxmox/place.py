"""Where a restored guest goes: a node, a storage with space, and what the node has of what it refers to."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vmconsole.errors import GuestExists, ProtocolError, RestoreFailed, VmconsoleError
from vmconsole.hypervisors.proxmox.api import PveshApi
from vmconsole.hypervisors.proxmox.cluster import ClusterStatus
from vmconsole.hypervisors.proxmox.facts import THICK, StorageFacts
from vmconsole.hypervisors.proxmox.gather import look_at_storages
from vmconsole.hypervisors.proxmox.loose import integer, records, word
from vmconsole.hypervisors.proxmox.space import size
from vmconsole.model.point import DiskPoint, Mode
from vmconsole.remote.machine import Machine

MAX_NAME = 128
_RESERVE = 256 * 1024 * 1024
"""Bytes that stay free: a full storage stops guests."""
_BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_BRIDGES = r"""
for path in /sys/class/net/*; do
    if [ -d "$path/bridge" ]; then printf '%s\n' "${path##*/}"; fi
done
ovs-vsctl list-br 2>/dev/null || true
"""

_T = TypeVar("_T")


class Cluster(Protocol):
    """What is needed of nodes.Nodes."""

    @property
    def host(self) -> str: ...

    def ask(self, work: Callable[[Machine], _T]) -> _T: ...

    def status(self, *, fresh: bool = False) -> ClusterStatus: ...

    def machine(self, node: str) -> Machine: ...

    def require_quorum(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """machine: of the node. notes: doubts about the space there."""

    node: str
    storage: str
    machine: Machine
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that are certainly used, that may be used, and all of the disks.

    A full point says how much of a disk is used, an increment only what had changed.
    """

    least: int
    most: int
    whole: int

    @classmethod
    def of(cls, disks: Sequence[DiskPoint]) -> Need:
        return cls(
            sum(disk.bytes_dirty for disk in disks),
            sum(disk.size if disk.mode is Mode.INCREMENTAL else disk.bytes_dirty for disk in disks),
            sum(disk.size for disk in disks),
        )


def check_name(cluster: Cluster, name: str) -> None:
    """Raise RestoreFailed for a name that cannot be one, GuestExists when a guest of the cluster has it."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise RestoreFailed(
            f"{name!r} cannot be a guest's name: it must have 1 to {MAX_NAME} printable characters.",
            hint="Choose another one with --as NAME.",
            subject=name,
        )
    guests = records(get(cluster, "/cluster/resources", type="vm"))
    if any(word(guest.get("name")) == name for guest in guests):
        raise GuestExists(
            f"There is a guest {name!r} on {cluster.host} already; a restore never overwrites.",
            hint="Choose another name with --as NAME, or rename or remove that guest first.",
            subject=name,
        )


def find(cluster: Cluster, wanted: str, content: str, need: Need, preferred: Sequence[str]) -> Place:
    """wanted: STORAGE, NODE/STORAGE, or empty for the first storage that will do, preferred ones first.

    content: `images` or `rootdir`. Raises RestoreFailed, HostUnreachable for a node that is offline.
    """
    cluster.require_quorum()
    node, _, storage = wanted.rpartition("/")
    node = node or cluster.status().asked
    if not node:
        raise ProtocolError(f"{cluster.host} does not say which of its nodes answers.", subject=cluster.host)
    machine = cluster.machine(node)
    there = cluster.ask(lambda asked: look_at_storages(PveshApi(asked), node))
    usable = [item for item in there.values() if item.enabled and content in item.content]
    if storage:
        chosen = _wanted(storage, node, usable, content)
        return Place(node, chosen.name, machine, _check_space(chosen, node, need))
    active = [item for item in usable if item.active]
    active.sort(key=lambda item: preferred.index(item.name) if item.name in preferred else len(preferred))
    refusals: list[RestoreFailed] = []
    for item in active:
        try:
            return Place(node, item.name, machine, _check_space(item, node, need))
        except RestoreFailed as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]
    raise RestoreFailed(
        f"No active storage on node {node} of {cluster.host} takes a guest's disks ({content}).",
        hint="Look at it on the node (pvesm status), or name another node: --storage NODE/STORAGE.",
        subject=cluster.host,
    )


def new_vmid(cluster: Cluster) -> str:
    """A number that no guest of the cluster has now."""
    vmid = integer(get(cluster, "/cluster/nextid"))
    if not 100 <= vmid <= 999_999_999:
        raise ProtocolError(f"{cluster.host} does not say which VMID is free.", subject=cluster.host)
    return str(vmid)


def get(cluster: Cluster, path: str, **params: str | int) -> Any:
    return cluster.ask(lambda machine: PveshApi(machine).get(path, **params))


def bridges(machine: Machine) -> frozenset[str]:
    """The node's bridges, of the kernel (those of Proxmox's SDN, too) and of Open vSwitch."""
    found = machine.script(_BRIDGES).text.splitlines()
    return frozenset(name for name in (line.strip() for line in found) if _BRIDGE.fullmatch(name))


def machines(cluster: Cluster, node: str) -> frozenset[str]:
    """Machine types that QEMU on the node has; empty when it does not say."""
    try:
        found = records(get(cluster, f"/nodes/{node}/capabilities/qemu/machines"))
    except VmconsoleError:
        return frozenset()
    return frozenset(word(item.get("id")) for item in found)


def media(cluster: Cluster, node: str, storages: Collection[str]) -> frozenset[str]:
    """CD-ROM images that are on these storages."""
    found: set[str] = set()
    for storage in sorted(storages):
        if not _BRIDGE.fullmatch(storage):
            continue
        try:
            content = records(get(cluster, f"/nodes/{node}/storage/{storage}/content", content="iso"))
        except VmconsoleError:
            continue  # a storage that is gone or off has no media
        found |= {word(item.get("volid")) for item in content}
    return frozenset(found)


def _wanted(name: str, node: str, usable: Sequence[StorageFacts], content: str) -> StorageFacts:
    found = next((item for item in usable if item.name == name), None)
    if found is None:
        names = ", ".join(item.name for item in usable) or "none"
        raise RestoreFailed(
            f"Node {node} has no storage {name!r} for a guest's disks ({content}); it has {names}.",
            hint="Name one of these, or one of another node: --storage NODE/STORAGE.",
            subject=node,
        )
    if not found.active:
        raise RestoreFailed(
            f"The storage {name} is not active on node {node}.",
            hint="Look at it on the node: pvesm status",
            subject=node,
        )
    return found


def _check_space(storage: StorageFacts, node: str, need: Need) -> tuple[str, ...]:
    thick = storage.type in THICK
    least, most = (need.whole, need.whole) if thick else (need.least, need.most)
    if storage.free < 0:
        return (f"How much space is free on {storage.name} is not known; up to {size(most)} are needed.",)
    if least + _RESERVE > storage.free:
        raise RestoreFailed(
            f"The storage {storage.name} on node {node} has {size(storage.free)} free; "
            f"the disks need at least {size(least)}.",
            hint="Free space there, or name another storage with --storage.",
            subject=node,
        )
    if most + _RESERVE > storage.free:
        return (
            f"The storage {storage.name} has {size(storage.free)} free; the disks need between "
            f"{size(least)} and {size(most)}.",
        )
    return ()
