"""Disks, CD-ROMs, mount points and network cards in a guest's configuration, and which of them a
backup holds: the same as Proxmox's own (`get_backup_volumes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vmconsole.hypervisors.proxmox.properties import boolean, parse_properties, parse_size, print_properties
from vmconsole.model.guest import GuestKind

VM_DISKS = {
    "ide": 4, "sata": 6, "scsi": 31, "virtio": 16, "efidisk": 1, "tpmstate": 1, "unused": 256,
}  # fmt: skip
"""Key → how many there can be, from 0 on."""
CONTAINER_DISKS = {"mp": 256, "unused": 256}
"""`rootfs` comes on top."""

_CLOUDINIT = re.compile(r"[:/]vm-\d+-cloudinit(?:\.[a-z0-9]+)?$")
_MODELS = re.compile(r"e1000(?:-\w+|e)?|i8255\w+|ne2k_\w+|pcnet|rtl8139|virtio|vmxnet3")


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk, CD-ROM or mount point. volume: `STORAGE:NAME`, an absolute path, `none` or `cdrom`."""

    key: str
    volume: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def storage(self) -> str:
        """Empty for a path of the host, and for none."""
        name, colon, _ = self.volume.partition(":")
        return name if colon and not self.volume.startswith("/") else ""

    @property
    def cloudinit(self) -> bool:
        return _CLOUDINIT.search(self.volume) is not None

    @property
    def cdrom(self) -> bool:
        return self.options.get("media") == "cdrom" or self.volume in ("none", "cdrom")

    @property
    def unused(self) -> bool:
        return self.key.startswith("unused")

    @property
    def size(self) -> int:
        """Bytes as the configuration says, which Proxmox calls informational; 0 when it does not say."""
        return parse_size(self.options.get("size", ""))

    @property
    def format(self) -> str:
        """By option or name; volumes without a suffix are block devices and so raw."""
        if self.options.get("format"):
            return self.options["format"]
        suffix = self.volume.rpartition("/")[2].rpartition(".")[2]
        return suffix if suffix in ("qcow2", "vmdk", "subvol") else "raw"

    @property
    def text(self) -> str:
        """As the value of its key."""
        return print_properties({"file": self.volume, **self.options}, "file")


@dataclass(frozen=True, slots=True)
class Net:
    """A network card. model: empty for containers. mac: empty when none is written down."""

    key: str
    model: str
    mac: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def bridge(self) -> str:
        return self.options.get("bridge", "")


def is_disk_key(key: str, kind: GuestKind) -> bool:
    match = re.fullmatch(r"([a-z]+)(0|[1-9]\d{0,2})", key)
    if match is None:
        return key == "rootfs" and kind is GuestKind.CONTAINER
    limits = CONTAINER_DISKS if kind is GuestKind.CONTAINER else VM_DISKS
    return int(match[2]) < limits.get(match[1], 0)


def parse_drive(key: str, value: str) -> Drive:
    options = parse_properties(value, "file")
    volume = options.pop("file", "") or options.pop("volume", "")
    return Drive(key, volume, options)


def parse_net(key: str, value: str) -> Net:
    """`virtio=MAC,bridge=…`, `model=virtio,macaddr=MAC,…`, or of a container `name=eth0,hwaddr=MAC,…`."""
    options = parse_properties(value, "model")
    model = options.pop("model", "")
    mac = options.pop("macaddr", "") or options.pop("hwaddr", "")
    named = next((name for name in options if _MODELS.fullmatch(name)), "")
    if named and not model:
        model, mac = named, options.pop(named) or mac
    return Net(key, model, mac, options)


def natural(key: str) -> tuple[bool, str, int]:
    """For sorting: scsi2 before scsi10, unused ones last."""
    digits = re.search(r"\d*$", key)
    number = digits[0] if digits else ""
    return key.startswith("unused"), key.removesuffix(number), int(number or 0)


def left_out(drive: Drive, kind: GuestKind, values: Mapping[str, str]) -> str:
    """Why a backup does not hold it; empty when it does. values: the guest's configuration."""
    if drive.unused:
        return "not attached to the guest"
    if not drive.volume:
        return "its volume is not named in the configuration"
    if kind is GuestKind.CONTAINER:
        return _mount_left_out(drive)
    if drive.cloudinit:
        return "cloud-init drive, made anew at every start"
    if drive.cdrom:
        return "CD-ROM"
    if not boolean(drive.options.get("backup", ""), default=True):
        return "backup=0 in its configuration"
    if drive.key == "efidisk0" and values.get("bios") != "ovmf":
        return "not in use: the BIOS is not OVMF"
    if boolean(drive.options.get("snapshot", "")):
        return "snapshot=1: the guest's writes to it are thrown away when it stops"
    return ""


def _mount_left_out(drive: Drive) -> str:
    if drive.key == "rootfs":
        return ""
    if drive.volume.startswith("/dev/"):
        return "a device of the host"
    if drive.volume.startswith("/"):
        return "a folder of the host"
    return "" if boolean(drive.options.get("backup", "")) else "mount point without backup=1"


def has_iothread(drive: Drive, values: Mapping[str, str]) -> bool:
    """Proxmox ignores the option everywhere but on VirtIO disks and VirtIO SCSI single."""
    if not boolean(drive.options.get("iothread", "")):
        return False
    on_scsi = drive.key.startswith("scsi") and values.get("scsihw") == "virtio-scsi-single"
    return on_scsi or drive.key.startswith("virtio")
