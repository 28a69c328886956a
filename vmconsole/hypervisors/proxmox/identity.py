"""Which guest is which, whatever node it is on and whatever it is called.

A virtual machine is known by the uuid of its smbios1, else by its vmgenid. Containers, and machines
without either, get a uuid made from the cluster's own certificate authority and their VMID, so that
two clusters never meet, and a guest keeps its identity when it migrates. A machine that was restored
beside its original carries the same smbios1: then the lowest VMID keeps it, the others are known by
their VMID, and all of them say so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vmconsole.hypervisors.proxmox.guestconf import decode, parse
from vmconsole.hypervisors.proxmox.look import Ask, Found
from vmconsole.model.guest import GuestKind

CA_PATH = "/etc/pve/pve-root-ca.pem"
VM_CONFIGS = "/etc/pve/nodes/*/qemu-server/*.conf"
CONTAINER_CONFIGS = "/etc/pve/nodes/*/lxc/*.conf"
QUESTIONS = (
    (Ask.IDENTITIES, VM_CONFIGS),
    (Ask.IDENTITIES, CONTAINER_CONFIGS),
    (Ask.FILE, CA_PATH),
)
"""What look() must be asked to tell all guests of a cluster apart."""

_NAMESPACE = uuid.UUID("5f0f1b0e-7d0c-5c53-9d0b-2f1f5f3c8a51")
_CONFIG = re.compile(
    r"/etc/pve/nodes/([A-Za-z0-9][A-Za-z0-9.-]{0,62})/(qemu-server|lxc)/([1-9]\d{2,8})\.conf"
)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Place:
    """A guest, and where it is now."""

    vmid: int
    kind: GuestKind
    node: str

    @property
    def path(self) -> str:
        """Of its configuration file."""
        folder = "lxc" if self.kind is GuestKind.CONTAINER else "qemu-server"
        return f"/etc/pve/nodes/{self.node}/{folder}/{self.vmid}.conf"

    @property
    def api(self) -> str:
        """Of the guest in Proxmox's API."""
        kind = "lxc" if self.kind is GuestKind.CONTAINER else "qemu"
        return f"/nodes/{self.node}/{kind}/{self.vmid}"


@dataclass(frozen=True, slots=True)
class Identity:
    """shared_with: VMIDs of other guests with the same smbios1 or vmgenid."""

    uuid: str
    shared_with: tuple[int, ...] = ()


def place_of(path: str) -> Place | None:
    """The guest whose configuration file this is; None when it is no such file."""
    match = _CONFIG.fullmatch(path)
    if match is None:
        return None
    kind = GuestKind.CONTAINER if match[2] == "lxc" else GuestKind.VM
    return Place(int(match[3]), kind, match[1])


def cluster_identity(ca_pem: str, name: str) -> str:
    """A fingerprint of the cluster's certificate authority; without one, its name has to do."""
    match = _PEM.search(ca_pem)
    if match:
        try:
            der = base64.b64decode("".join(match[1].split()), validate=True)
        except (binascii.Error, ValueError):
            der = b""
        if der:
            return hashlib.sha256(der).hexdigest()
    return f"name:{name}"


def identify(hardware: Mapping[Place, str], cluster: str) -> dict[Place, Identity]:
    """hardware: GuestConf.hardware_uuid of every guest of the cluster. cluster: cluster_identity()."""
    owners: dict[str, list[int]] = {}
    for place, own in hardware.items():
        if own:
            owners.setdefault(own, []).append(place.vmid)
    found = {}
    for place, own in hardware.items():
        others = tuple(sorted(vmid for vmid in owners.get(own, ()) if vmid != place.vmid))
        if own and all(place.vmid < vmid for vmid in others):
            found[place] = Identity(own, others)
        else:
            made = uuid.uuid5(_NAMESPACE, f"{cluster}/{place.vmid}")
            found[place] = Identity(str(made), others)
    return found


def identify_found(answers: Iterable[Found], name: str) -> dict[Place, Identity]:
    """From the answers to QUESTIONS. name: of the cluster, or of its only node."""
    hardware: dict[Place, str] = {}
    authority = ""
    for answer in answers:
        place = place_of(answer.name)
        if place is not None:
            hardware[place] = parse(decode(answer.data), place.kind).hardware_uuid
        elif answer.name == CA_PATH:
            authority = answer.text
    return identify(hardware, cluster_identity(authority, name))
