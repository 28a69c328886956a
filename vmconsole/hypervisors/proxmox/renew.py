"""An archived configuration for a new life on a node of the same kind.

The archive may be years old, from another cluster, or planted, and root carries the result out. So
options are allow-listed: nothing of it reaches into the node (its devices, files, scripts, or the
volumes of other guests), and what is left out is said.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from vmconsole.hypervisors.portable.hardware import Nic
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.portable.plugs import plug_into_proxmox
from vmconsole.hypervisors.portable.to_conf import print_description, print_size
from vmconsole.hypervisors.portable.words import MAC, NIC_MODELS, SMBIOS, dns_name
from vmconsole.hypervisors.proxmox.devices import Drive, Net
from vmconsole.hypervisors.proxmox.guestconf import GuestConf, parse, vzdump_conf
from vmconsole.hypervisors.proxmox.properties import (
    boolean,
    parse_properties,
    print_properties,
    whole,
)
from vmconsole.model.guest import GuestKind
from vmconsole.model.point import DiskPoint

_KEPT = frozenset({
    "acpi", "affinity", "agent", "allow-ksm", "amd-sev", "arch", "audio0", "autostart", "balloon", "bios",
    "bootdisk", "cipassword", "citype", "ciupgrade", "ciuser", "cores", "cpu", "cpulimit", "cpuunits",
    "freeze", "hotplug", "hugepages", "intel-tdx", "keephugepages", "keyboard", "kvm", "localtime", "machine",
    "memory", "meta", "migrate_downtime", "migrate_speed", "nameserver", "numa", "ostype", "reboot", "scsihw",
    "searchdomain", "shares", "smp", "sockets", "spice_enhancements", "sshkeys", "startdate", "startup",
    "tablet", "tags", "tdf", "template", "vcpus", "vga", "watchdog",
})  # fmt: skip
_KEPT_NUMBERED = frozenset({"ipconfig", "numa"})
_DRIVE = frozenset({
    "aio", "bps", "bps_max_length", "bps_rd", "bps_rd_max_length", "bps_wr", "bps_wr_max_length", "cache", "cyls",
    "detect_zeroes", "discard", "efitype", "heads", "iops", "iops_max", "iops_max_length", "iops_rd",
    "iops_rd_max", "iops_rd_max_length", "iops_wr", "iops_wr_max", "iops_wr_max_length", "iothread", "mbps",
    "mbps_max", "mbps_rd", "mbps_rd_max", "mbps_wr", "mbps_wr_max", "media", "model", "ms-cert",
    "pre-enrolled-keys", "product", "queues", "rerror", "ro", "secs", "serial", "ssd", "trans", "vendor",
    "version", "werror", "wwn",
})  # fmt: skip
_NET = ("firewall", "mtu", "queues", "rate", "trunks")
_SMBIOS = frozenset({"base64", *SMBIOS})
_RANDOM = frozenset({"/dev/urandom", "/dev/random", "/dev/hwrng"})
_DISK_KEY = re.compile(r"(?:ide|sata|scsi|virtio|efidisk|tpmstate)\d+")
_PLAIN = re.compile(r"[!-+\--~]{1,256}")
"""Printable ASCII without blanks and commas."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """text: for the archive, with the disks on the new storage. keys: disks that are restored.

    later: options for `qm set` when the restore is through. description: the guest's own.
    """

    text: str
    keys: tuple[str, ...]
    later: Mapping[str, str]
    description: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """What the new guest gets. networks, bridges: see portable/plugs.py. media: CD-ROM images there are."""

    name: str
    uuid: UUID
    storage: str
    mark: str
    disks: Mapping[str, DiskPoint] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    bridges: Collection[str] = ()
    media: Collection[str] = ()


def wanted_media(text: str) -> frozenset[str]:
    """The storages of the CD-ROM images in a configuration."""
    conf = parse(text, GuestKind.VM)
    return frozenset(drive.storage for drive in conf.drives if drive.cdrom and drive.storage)


def renew(text: str, given: Given) -> Renewed:
    """Never fails on a line that is not understood; those are left out."""
    return _Renewal(parse(vzdump_conf(text, ()), GuestKind.VM), given).renew()


class _Renewal:
    def __init__(self, conf: GuestConf, given: Given) -> None:
        self.conf = conf
        self.given = given
        self.notes = Notes()
        self.lines: dict[str, str] = {}
        self.later: dict[str, str] = {}
        self.gone: set[str] = set()

    def renew(self) -> Renewed:
        given = self.given
        self.lines["name"] = dns_name(given.name)
        if self.lines["name"] != given.name:
            self.notes.add(
                f"Proxmox takes only host names: the guest {given.name!r} is called {self.lines['name']}."
            )
        for drive in self.conf.drives:
            self._drive(drive)
        for net in self.conf.nets:
            self._net(net)
        for key, value in self.conf.values.items():
            if not _DISK_KEY.fullmatch(key) and not re.fullmatch(r"net\d+", key):
                self._option(key, value)
        self._identity()
        self._boot()
        self._firmware()
        for line in self.conf.unclear:
            self.notes.add(f"A line of its configuration is not understood: {whole(line)[:100]}")
        description = self.conf.current.description
        head = print_description(f"{given.mark}\n{description}" if description else given.mark)
        body = "".join([*head, *(f"{key}: {value}\n" for key, value in self.lines.items())])
        keys = tuple(key for key in given.disks if key in self.lines)
        return Renewed(body, keys, self.later, description, self.notes.all)

    def _drive(self, drive: Drive) -> None:
        if drive.unused:
            return
        if drive.cloudinit:
            self.lines[drive.key] = f"{self.given.storage}:vm-0-cloudinit,media=cdrom"
        elif drive.cdrom:
            known = drive.volume in self.given.media and _PLAIN.fullmatch(drive.volume)
            if not known and drive.volume != "none":
                self.notes.add(
                    f"CD-ROM drive {drive.key} is empty: {whole(drive.volume)} is not on this node."
                )
            self.lines[drive.key] = f"{drive.volume if known else 'none'},media=cdrom"
        elif drive.key in self.given.disks:
            self.lines[drive.key] = self._disk(drive, self.given.disks[drive.key])
        else:
            # Its line would attach the volume of the old guest to the new one.
            self.gone.add(drive.key)
            self.notes.add(f"Disk {drive.key} is not in the restore point and is left out.")

    def _disk(self, drive: Drive, point: DiskPoint) -> str:
        options = {"file": f"{self.given.storage}:vm-0-disk-{len(self.lines)}"}
        for name, value in drive.options.items():
            if name in _DRIVE and _PLAIN.fullmatch(value):
                options[name] = value
            elif name not in ("size", "format", "backup", "replicate", "shared"):
                self.notes.add(f"The option {name}={whole(value)} of disk {drive.key} is left out.")
        options["size"] = print_size(point.size)
        return print_properties(options, "file")

    def _net(self, net: Net) -> None:
        model = net.model if net.model in NIC_MODELS else "e1000"
        if model != net.model:
            self.notes.add(f"The network card {net.key} ({whole(net.model) or 'no model'}) becomes an e1000.")
        options = net.options
        tag = options.get("tag", "")
        nic = Nic(
            id=net.key,
            model=model,
            network=whole(net.bridge),
            vlan=int(tag) if re.fullmatch(r"\d{1,4}", tag) and 0 < int(tag) < 4095 else 0,
            connected=not boolean(options.get("link_down", "")),
        )
        plug = plug_into_proxmox(nic, self.given.networks, self.given.bridges, self.notes)
        number = net.key.removeprefix("net")
        # qmrestore --unique replaces addresses; it gives none to a card without one.
        mac = net.mac if MAC.fullmatch(net.mac) else f"BC:24:11:00:00:{int(number) % 256:02X}"
        new = {model: mac}
        if plug.kind == "bridge":
            new["bridge"] = plug.name
        for name in _NET:
            if name in options and _PLAIN.fullmatch(options[name]):
                new[name] = options[name]
        if not plug.connected:
            new["link_down"] = "1"
        if plug.vlan:
            new["tag"] = str(plug.vlan)
        self.lines[net.key] = print_properties(new)

    def _option(self, key: str, value: str) -> None:
        prefix = key.rstrip("0123456789")
        text = whole(value)
        if not text.isprintable() or len(text) > 16000:
            self.notes.add(f"The setting {key} holds what no setting can and is left out.")
        elif key in _KEPT or (key != prefix and prefix in _KEPT_NUMBERED):
            self.lines[key] = text
        elif key == "onboot":
            if boolean(value):
                self.notes.add(
                    "The original starts with its node (onboot); the restored guest does not until you say so."
                )
        elif key == "protection":
            if boolean(value):
                self.later["protection"] = "1"
        elif key == "rng0" and parse_properties(value, "source").get("source") in _RANDOM:
            self.lines[key] = text
        elif (prefix == "serial" and value == "socket") or (prefix == "usb" and value.startswith("spice")):
            self.lines[key] = "socket" if prefix == "serial" else "spice"
        elif key not in (
            "boot",
            "name",
            "smbios1",
            "vmgenid",
            "description",
            "digest",
            "vmstatestorage",
            "cdrom",
        ):
            self.notes.add(
                f"Left out: {key}: {text}. It reaches into the node; add it again by hand if it is wanted."
            )

    def _identity(self) -> None:
        # What --unique would do, too: the copy must not be taken for the original.
        smbios = parse_properties(self.conf.values.get("smbios1", ""))
        kept = {name: value for name, value in smbios.items() if name in _SMBIOS and _PLAIN.fullmatch(value)}
        self.lines["smbios1"] = print_properties({"uuid": str(self.given.uuid), **kept})
        if self.conf.values.get("vmgenid", "0") != "0":
            self.lines["vmgenid"] = "1"

    def _boot(self) -> None:
        text = self.conf.values.get("boot", "")
        options = parse_properties(text, "legacy")
        if "order" in options:
            kept = [key for key in options["order"].split(";") if key in self.lines]
            self.lines["boot"] = "order=" + ";".join(kept)
        elif re.fullmatch(r"[acdn]{1,4}", text):
            self.lines["boot"] = text

    def _firmware(self) -> None:
        storage = self.given.storage
        if "efidisk0" in self.gone and self.lines.get("bios") == "ovmf":
            old = parse_properties(self.conf.values.get("efidisk0", ""), "file")
            keys = "1" if boolean(old.get("pre-enrolled-keys", "")) else "0"
            self.later["efidisk0"] = f"{storage}:1,efitype=4m,pre-enrolled-keys={keys}"
        if "tpmstate0" in self.gone:
            old = parse_properties(self.conf.values.get("tpmstate0", ""), "file")
            version = "v2.0" if old.get("version") == "v2.0" else "v1.2"
            self.later["tpmstate0"] = f"{storage}:1,version={version}"
