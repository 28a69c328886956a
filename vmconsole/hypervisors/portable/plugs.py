"""Where the network cards of a guest are plugged in on another host.

The configuration of the host says it: `networks = { "vmbr0" = "default", "vmbr0.20" = "br20" }`, from
the old network (with its VLAN tag, where it has one) to the one here. What it does not name goes to
the network of the same name; where there is none, the card gets a place with its link down, because
nothing is ever connected by guess.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vmconsole.hypervisors.portable.hardware import Nic
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.portable.words import NETWORK

LIBVIRT_FALLBACK = "default"
PROXMOX_FALLBACK = "vmbr0"

_TAGGED = re.compile(r"(.+)\.([1-9]\d{0,3})")


@dataclass(frozen=True, slots=True)
class Plug:
    """kind: `bridge`, `network` (of libvirt) or `user`. name: printable anywhere. vlan: 0 is none."""

    kind: str
    name: str
    vlan: int = 0
    connected: bool = True


def plug_into_libvirt(
    nic: Nic, wanted: Mapping[str, str], networks: Collection[str], bridges: Collection[str], notes: Notes
) -> Plug:
    """networks, bridges: those of the host. A VLAN has no place in libvirt's Linux bridges: it must be mapped."""
    if not nic.network:
        return Plug("user", "", connected=nic.connected)
    name = wanted.get(nic.place, "" if nic.vlan else nic.network)
    if NETWORK.fullmatch(name):
        if name in networks:
            return Plug("network", name, connected=nic.connected)
        if name in bridges:
            return Plug("bridge", name, connected=nic.connected)
    _say_unplugged(nic, wanted, LIBVIRT_FALLBACK, "virsh domif-setlink GUEST CARD up", notes)
    return Plug("network", LIBVIRT_FALLBACK, connected=False)


def plug_into_proxmox(nic: Nic, wanted: Mapping[str, str], bridges: Collection[str], notes: Notes) -> Plug:
    """bridges: those of the node. `vmbr0.20` as a target is the VLAN 20 of vmbr0."""
    if not nic.network:
        return Plug("user", "", connected=nic.connected)
    for name, vlan in (
        (wanted.get(nic.place, ""), 0),
        (wanted.get(nic.network, nic.network), nic.vlan),
    ):
        if name in bridges and NETWORK.fullmatch(name):
            return Plug("bridge", name, vlan, nic.connected)
        tagged = _TAGGED.fullmatch(name)
        if tagged and tagged[1] in bridges and int(tagged[2]) < 4095 and NETWORK.fullmatch(tagged[1]):
            return Plug("bridge", tagged[1], int(tagged[2]), nic.connected)
    usable = sorted(name for name in bridges if NETWORK.fullmatch(name))
    fallback = PROXMOX_FALLBACK if PROXMOX_FALLBACK in usable or not usable else usable[0]
    _say_unplugged(nic, wanted, fallback, "untick Disconnect in its network card", notes)
    return Plug("bridge", fallback, connected=False)


def _say_unplugged(nic: Nic, wanted: Mapping[str, str], fallback: str, remedy: str, notes: Notes) -> None:
    target = wanted.get(nic.place)
    what = f"{target}, where the configuration puts {nic.place}," if target else nic.place
    advice = (
        "" if target else f' Say where it belongs with networks = {{ "{nic.place}" = "…" }} for this host.'
    )
    notes.add(
        f"{what} is not on this host: network card {nic.id} is on {fallback} with its link down. "
        f"Choose its network, then connect it ({remedy}).{advice}"
    )
