"""How one libvirt host is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

METHODS = ("auto", "pull", "push", "snapshot", "offline")


@dataclass(frozen=True, slots=True)
class LibvirtSettings:
    """uri: as for `virsh -c`.

    scratch: folder on the host where blocks are kept that the guest overwrites while it is read;
    libvirtd creates the files, so only libvirtd must be able to write there. Empty: the folder of
    the guest's first disk that is a file, else /var/lib/libvirt/images.
    scratch_min_free: bytes that must stay free in that folder, before and during a backup.
    method: `auto` picks the safest way per guest; any other of METHODS insists on one.
    nbd_connections: how many connections read one disk at the same time.
    networks: where network cards of guests from Proxmox go, see portable/plugs.py.
    """

    uri: str = "qemu:///system"
    scratch: str = ""
    scratch_min_free: int = 1024**3
    method: str = "auto"
    nbd_connections: int = 2
    networks: Mapping[str, str] = field(default_factory=dict)
