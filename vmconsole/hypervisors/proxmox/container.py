"""What `pct restore` must be told about an archived container.

It reads the tar from its standard input, and finds the container's own settings only after it has
unpacked them; by then the volumes and the user namespace must be there. So these are given, from
the stored config/pct.conf, and with them everything that must not come back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from vmconsole.hypervisors.portable.hardware import Nic
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.portable.plugs import plug_into_proxmox
from vmconsole.hypervisors.portable.words import dns_name
from vmconsole.hypervisors.proxmox.devices import Drive, Net, left_out
from vmconsole.hypervisors.proxmox.guestconf import GuestConf, parse
from vmconsole.hypervisors.proxmox.properties import boolean, print_properties, whole
from vmconsole.model.guest import GuestKind

GIB = 1 << 30

_VOLUME = ("acl", "mountoptions", "quota", "ro")
_NET = ("name", "firewall", "gw", "gw6", "ip", "ip6", "mtu", "rate", "trunks")
_PLAIN = re.compile(r"[!-+\--~]{1,256}")
_MOUNT_POINT = re.compile(r"/[!-+\--~]{0,1000}")


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """options: for `pct restore`, after the VMID and the archive. description: the container's own.

    size: bytes of the new volumes together. later: options for `pct set` when the restore is
    through; remove: settings to delete then.
    """

    options: tuple[str, ...]
    size: int
    description: str
    later: Mapping[str, str]
    remove: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerGiven:
    """tar: bytes of the archive. mark: goes into the description until all is done."""

    name: str
    storage: str
    mark: str
    tar: int
    networks: Mapping[str, str] = field(default_factory=dict)
    bridges: Collection[str] = ()


def plan_container(text: str, given: ContainerGiven) -> ContainerPlan:
    return _Planning(parse(text, GuestKind.CONTAINER), given).plan()


class _Planning:
    def __init__(self, conf: GuestConf, given: ContainerGiven) -> None:
        self.conf = conf
        self.given = given
        self.notes = Notes()
        self.options: dict[str, str] = {}
        self.size = 0

    def plan(self) -> ContainerPlan:
        given, values = self.given, self.conf.values
        name = dns_name(given.name)
        if name != given.name:
            self.notes.add(f"Proxmox takes only host names: the container {given.name!r} is called {name}.")
        self._volumes()
        self.options["unprivileged"] = "1" if boolean(values.get("unprivileged", "")) else "0"
        self.options["hostname"] = name
        self.options["description"] = given.mark
        for net in self.conf.nets:
            self.options[net.key] = self._net(net)
        if boolean(values.get("onboot", "")):
            self.options["onboot"] = "0"
            self.notes.add(
                "The original starts with its node (onboot); the restored container does not until you say so."
            )
        later = {}
        if boolean(values.get("protection", "")):
            # A protected container could not be taken back when something fails.
            self.options["protection"] = "0"
            later["protection"] = "1"
        remove = [key for key in values if key == "hookscript" or re.fullmatch(r"dev\d+", key)]
        for key in remove:
            self.notes.add(f"Left out: {key}: {whole(values[key])}. It reaches into the node.")
        for key in sorted(key for key in values if key.startswith("lxc.")):
            self.notes.add(
                f"Its setting {key} ({whole(values[key])}) comes back from the archive, because it is root who "
                "restores: check it before the container is started."
            )
        words = [word for key, value in self.options.items() for word in (f"--{key}", value)]
        return ContainerPlan(
            tuple(words),
            self.size,
            self.conf.current.description,
            later,
            tuple(remove),
            self.notes.all,
        )

    def _volumes(self) -> None:
        drives = {drive.key: drive for drive in self.conf.drives if not drive.unused}
        self._volume("rootfs", drives.pop("rootfs", Drive("rootfs", "")), "")
        for key, drive in drives.items():
            why = left_out(drive, GuestKind.CONTAINER, self.conf.values)
            path = drive.options.get("mp", "")
            if why:
                self.notes.add(f"The mount point {key} ({whole(path)}) is left out: {why}.")
            elif not _MOUNT_POINT.fullmatch(path) or ".." in path.split("/"):
                self.notes.add(f"The mount point {key} ({whole(path)}) is left out: its path cannot be used.")
            else:
                self._volume(key, drive, path)

    def _volume(self, key: str, drive: Drive, path: str) -> None:
        # A configuration that does not say a size still has its content in the tar.
        size = drive.size or max(4 * GIB, self.given.tar * 3 // 2)
        gib = -(-size // GIB)
        self.size += gib * GIB
        options = {"volume": f"{self.given.storage}:{gib}"}
        if path:
            options |= {"mp": path, "backup": "1"}
        for name in _VOLUME:
            if name in drive.options and _PLAIN.fullmatch(drive.options[name]):
                options[name] = drive.options[name]
        self.options[key] = print_properties(options, "volume")

    def _net(self, net: Net) -> str:
        options = net.options
        tag = options.get("tag", "")
        nic = Nic(
            id=net.key,
            model="virtio",
            network=whole(net.bridge),
            vlan=int(tag) if re.fullmatch(r"\d{1,4}", tag) and 0 < int(tag) < 4095 else 0,
            connected=not boolean(options.get("link_down", "")),
        )
        plug = plug_into_proxmox(nic, self.given.networks, self.given.bridges, self.notes)
        new = {name: options[name] for name in _NET if name in options and _PLAIN.fullmatch(options[name])}
        new.setdefault("name", f"eth{net.key.removeprefix('net')}")
        new["type"] = "veth"
        if plug.kind == "bridge":
            new["bridge"] = plug.name
        if plug.vlan:
            new["tag"] = str(plug.vlan)
        if not plug.connected:
            new["link_down"] = "1"
        return print_properties(new)
