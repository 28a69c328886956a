"""How one Proxmox VE cluster, or single node, is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EXPORTS = ("auto", "vzdump", "qmp")


@dataclass(frozen=True, slots=True)
class ProxmoxSettings:
    """export: how running machines leave the cluster. `auto`: as plan.py chooses; `vzdump`: always
    Proxmox's own vzdump; `qmp`: never that, a guest that only it can read safely is refused.

    fleecing: where a node keeps the blocks a guest overwrites while it is read, the name of a storage
    or an absolute folder. Empty: of the storages the guest's disks are on, the one with most space.
    fleecing_min_free: bytes that must stay free there, before and during a backup.
    nbd_connections: how many connections read one disk at the same time.
    networks: where network cards of restored guests go, see portable/plugs.py.
    """

    export: str = "auto"
    fleecing: str = ""
    fleecing_min_free: int = 1024**3
    nbd_connections: int = 2
    networks: Mapping[str, str] = field(default_factory=dict)
