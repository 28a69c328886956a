"""Printing neutral hardware as a Proxmox guest's configuration (qm.conf(5)).

Every value is made of parts that are allow-listed here, so that nothing in them can become another
line, another option, a device of the node or an argument of QEMU.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote
from uuid import UUID

from vmconsole.hypervisors.portable import words
from vmconsole.hypervisors.portable.hardware import Bus, Clock, Disk, Firmware, Hardware
from vmconsole.hypervisors.portable.names import Placed, conf_keys
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.portable.plugs import plug_into_proxmox
from vmconsole.hypervisors.proxmox.properties import print_properties

MAX_DESCRIPTION = 8000
MAX_NICS = 32

_OSTYPES = {system: name for name, system in words.OSTYPES.items()}
_UNITS = (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10))


@dataclass(frozen=True, slots=True)
class ConfDraft:
    """text: the configuration. disks: id in Hardware → key. efidisk: the variables go into efidisk0.

    later: keys and values for `qm set` after the restore, for volumes that Proxmox makes itself.
    """

    text: str
    disks: Mapping[str, str]
    efidisk: bool
    later: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """What the node has. storage: for the disks. machines: its machine types; empty when not known.

    networks: as in the configuration of the host (plugs.py). bridges: those of the node.
    """

    storage: str
    networks: Mapping[str, str] = field(default_factory=dict)
    bridges: Collection[str] = ()
    machines: Collection[str] = ()


def to_qemu_conf(
    hardware: Hardware, node: Node, uuid: UUID, *, variables: int = 0
) -> tuple[ConfDraft, tuple[str, ...]]:
    """variables: size in bytes of the UEFI variables that are restored, 0 for none.

    Raises RestoreFailed when there are more disks than a Proxmox guest can have.
    """
    return _Printing(hardware, node, uuid, variables).print()


class _Printing:
    def __init__(self, hardware: Hardware, node: Node, uuid: UUID, variables: int) -> None:
        self.hardware = hardware
        self.node = node
        self.uuid = uuid
        self.variables = variables
        self.notes = Notes()
        self.lines: dict[str, str] = {}
        self.later: dict[str, str] = {}
        self.boot: list[tuple[int, str]] = []

    def print(self) -> tuple[ConfDraft, tuple[str, ...]]:
        hardware = self.hardware
        placed = conf_keys([*hardware.disks, *hardware.drives])
        self._identity()
        self._processor()
        self._machine()
        efidisk = self._firmware()
        self._disks(placed)
        self._nics()
        self._extras()
        if self.boot:
            self.lines["boot"] = "order=" + ";".join(key for _, key in sorted(self.boot))
        text = "".join(
            [*print_description(hardware.description), *(f"{k}: {v}\n" for k, v in self.lines.items())]
        )
        disks = {disk.id: placed[disk.id][0] for disk in hardware.disks}
        return ConfDraft(text, disks, efidisk, self.later), self.notes.all

    def _identity(self) -> None:
        hardware = self.hardware
        name = words.dns_name(hardware.name)
        if name != hardware.name:
            self.notes.add(
                f"Proxmox takes only host names: the guest {hardware.name!r} is called {name} there."
            )
        self.lines["name"] = name
        smbios = {"uuid": str(self.uuid)}
        for key, value in dict(hardware.smbios).items():
            if key in words.SMBIOS and value:
                smbios[key] = base64.b64encode(value.encode("utf-8", "replace")).decode()
        if len(smbios) > 1:
            smbios["base64"] = "1"
        self.lines["smbios1"] = print_properties(smbios)
        if len(self.lines["smbios1"]) > 512:
            self.notes.add("What the guest reads about its maker (SMBIOS) is too long for Proxmox.")
            self.lines["smbios1"] = f"uuid={self.uuid}"
        if hardware.genid:
            self.lines["vmgenid"] = "1"
        tags = [tag.lower() for tag in hardware.tags]
        good = [tag for tag in dict.fromkeys(tags) if words.TAG.fullmatch(tag)]
        if good:
            self.lines["tags"] = ";".join(good)
        for tag in sorted(set(tags) - set(good)):
            self.notes.add(f"Proxmox does not take the tag {tag!r}.")

    def _processor(self) -> None:
        hardware, cpu = self.hardware, self.hardware.cpu
        memory = max(16, -(-min(hardware.memory, words.MAX_MEMORY) // words.MIB))
        self.lines["memory"] = str(memory)
        balloon = hardware.balloon // words.MIB
        if 0 < balloon < memory:
            self.lines["balloon"] = str(balloon)
        self.lines["sockets"] = str(min(max(cpu.sockets, 1), words.MAX_CPUS))
        self.lines["cores"] = str(min(max(cpu.cores * cpu.threads, 1), words.MAX_CPUS))
        if cpu.threads > 1:
            self.notes.add(f"Proxmox knows no threads: {cpu.threads} threads of a core become cores.")
        if 0 < cpu.cpus < cpu.most:
            self.lines["vcpus"] = str(cpu.cpus)
        if cpu.model and cpu.model != "host" and cpu.model not in words.CPU_MODELS:
            self.notes.add(f"Proxmox does not know the CPU model {cpu.model}: the guest gets the node's own.")
        # Without KVM there is nothing of the node to pass on.
        fallback = "host" if hardware.kvm else "qemu64"
        options = {"cputype": cpu.model if cpu.model in words.CPU_MODELS else fallback}
        flags = [(name, on) for name, on in cpu.flags if words.CPU_FLAG.fullmatch(name)]
        if flags:
            options["flags"] = ";".join(f"{'+' if on else '-'}{name}" for name, on in flags)
        self.lines["cpu"] = print_properties(options, "cputype")

    def _machine(self) -> None:
        hardware = self.hardware
        q35 = hardware.machine == "q35"
        machine = "q35" if q35 else ""
        if words.VERSION.fullmatch(hardware.version):
            pinned = f"{'pc-q35' if q35 else 'pc-i440fx'}-{hardware.version}"
            if not self.node.machines or pinned in self.node.machines:
                machine = pinned
            else:
                self.notes.add(
                    f"The node does not have the machine type {pinned}; its newest is used. Windows may "
                    "find new hardware and ask for activation."
                )
        if machine:
            self.lines["machine"] = machine
        self.lines["ostype"] = _OSTYPES.get(hardware.system, "other")
        local = hardware.clock is Clock.LOCAL
        if local != hardware.system.windows:
            self.lines["localtime"] = "1" if local else "0"

    def _firmware(self) -> bool:
        hardware, storage = self.hardware, self.node.storage
        if hardware.tpm:
            version = "v1.2" if hardware.tpm == "1.2" else "v2.0"
            self.later["tpmstate0"] = f"{storage}:1,version={version}"
            self.notes.add(
                "The TPM starts empty: its state is not carried over. "
                "Disk encryption bound to it (BitLocker) asks for the recovery key."
            )
        if hardware.firmware is not Firmware.UEFI:
            return False
        self.lines["bios"] = "ovmf"
        keys = "1" if hardware.secure_boot else "0"
        efitype = words.VARIABLES.get(self.variables, "")
        if efitype:
            size = print_size(self.variables)
            self.lines["efidisk0"] = (
                f"{storage}:vm-0-disk-0,efitype={efitype},pre-enrolled-keys={keys},size={size}"
            )
            return True
        self.later["efidisk0"] = f"{storage}:1,efitype=4m,pre-enrolled-keys={keys}"
        self.notes.add("Its UEFI variables are not carried over: boot entries are made anew.")
        return False

    def _disks(self, placed: Placed) -> None:
        hardware = self.hardware
        on_scsi = [disk for disk in hardware.disks if placed[disk.id][1] is Bus.SCSI]
        if on_scsi or any(placed[drive.id][1] is Bus.SCSI for drive in hardware.drives):
            single = any(disk.iothread for disk in on_scsi) and hardware.scsi == "virtio-scsi"
            model = words.SCSI_CONF.get(hardware.scsi, "virtio-scsi-pci")
            self.lines["scsihw"] = "virtio-scsi-single" if single else model
        for number, disk in enumerate(hardware.disks, 1):
            key, bus = placed[disk.id]
            if bus is not disk.bus:
                self.notes.add(
                    f"Disk {disk.id} moves from {disk.bus.value} to {bus.value}: the guest needs that driver."
                )
            self.lines[key] = self._disk(disk, bus, f"{self.node.storage}:vm-0-disk-{number}")
            self._booted(disk.boot, key)
        for drive in hardware.drives:
            key = placed[drive.id][0]
            self.lines[key] = "none,media=cdrom"
            self._booted(drive.boot, key)

    def _disk(self, disk: Disk, bus: Bus, volume: str) -> str:
        options = {"file": volume}
        if disk.cache in words.CACHES:
            options["cache"] = disk.cache
        if disk.io in words.IOS:
            options["aio"] = disk.io
        if disk.discard:
            options["discard"] = "on"
        if disk.detect_zeroes:
            options["detect_zeroes"] = "1"
        if disk.iothread and (bus is Bus.VIRTIO or (bus is Bus.SCSI and self.hardware.scsi == "virtio-scsi")):
            options["iothread"] = "1"
        if disk.ssd and bus is not Bus.VIRTIO:
            options["ssd"] = "1"
        if disk.readonly:
            if bus in (Bus.VIRTIO, Bus.SCSI):
                options["ro"] = "1"
            else:
                self.notes.add(f"Disk {disk.id} was read-only; on {bus.value} it can be written.")
        if disk.serial:
            if words.SERIAL.fullmatch(disk.serial):
                options["serial"] = disk.serial
            else:
                self.notes.add(f"Proxmox does not take the serial number {disk.serial!r} of disk {disk.id}.")
        if disk.size > 0:
            options["size"] = print_size(disk.size)
        return print_properties(options, "file")

    def _nics(self) -> None:
        for number, nic in enumerate(self.hardware.nics):
            if number >= MAX_NICS:
                self.notes.add(f"Network card {nic.id} is left out: Proxmox takes {MAX_NICS}.")
                continue
            model = nic.model if nic.model in words.NIC_MODELS else "e1000"
            if model != nic.model:
                self.notes.add(f"The network card {nic.id} ({nic.model}) becomes an e1000.")
            # qmrestore --unique replaces addresses; it gives none to a card without one.
            mac = nic.mac if words.MAC.fullmatch(nic.mac) else f"BC:24:11:00:00:{number:02X}"
            plug = plug_into_proxmox(nic, self.node.networks, self.node.bridges, self.notes)
            options = {model: mac}
            if plug.kind == "bridge":
                options["bridge"] = plug.name
            if not plug.connected:
                options["link_down"] = "1"
            if 576 <= nic.mtu <= 65520 and model == "virtio":
                options["mtu"] = str(nic.mtu)
            if plug.vlan:
                options["tag"] = str(plug.vlan)
            self.lines[f"net{number}"] = print_properties(options)
            self._booted(nic.boot, f"net{number}")

    def _extras(self) -> None:
        hardware = self.hardware
        if not hardware.kvm:
            self.lines["kvm"] = "0"
        if hardware.agent:
            self.lines["agent"] = "1"
        if not hardware.tablet:
            self.lines["tablet"] = "0"
        if hardware.rng:
            self.lines["rng0"] = "source=/dev/urandom"
        for number in range(min(hardware.serials, 4)):
            self.lines[f"serial{number}"] = "socket"
        if hardware.vga in words.VGA_XML:
            serial = hardware.vga == "none" and hardware.serials
            self.lines["vga"] = "serial0" if serial else hardware.vga
        if hardware.sound in words.SOUND_CONF:
            driver = "spice" if hardware.vga == "qxl" else "none"
            self.lines["audio0"] = f"device={words.SOUND_CONF[hardware.sound]},driver={driver}"
        model, _, action = hardware.watchdog.partition(" ")
        if model in words.WATCHDOG_MODELS:
            action = action if action in words.WATCHDOG_ACTIONS else "reset"
            self.lines["watchdog"] = f"model={model},action={action}"

    def _booted(self, place: int, key: str) -> None:
        if place > 0:
            self.boot.append((place, key))


def print_size(size: int) -> str:
    """Bytes as Proxmox writes them: 32G, 528K."""
    return next((f"{size // unit}{name}" for name, unit in _UNITS if size % unit == 0), str(size))


def print_description(text: str) -> list[str]:
    """As comment lines. Everything that could end a line or be a mark of Proxmox's is percent-encoded."""
    if not text.strip():
        return []
    lines = re.split(r"\r\n|\r|\n", text[:MAX_DESCRIPTION])
    return [f"#{quote(line, safe=' !&()*+,-./;<=>?@[]^_{|}~', errors='replace')}\n" for line in lines]
