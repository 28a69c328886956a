"""A guest's hardware, in words that no hypervisor owns.

What is in here can be carried over; what has no place here is said in a note by whoever read the
guest's description. Strings come from hosts and guests' owners and may hold anything: whoever
prints them into a configuration allow-lists them again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from vmconsole.hypervisors.portable.notes import Notes


class Firmware(Enum):
    BIOS = "bios"
    UEFI = "uefi"


class Bus(Enum):
    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"


class Clock(Enum):
    """What the hardware clock shows."""

    UTC = "utc"
    LOCAL = "localtime"


class System(Enum):
    """The operating system, as far as a hypervisor cares."""

    OTHER = "other"
    LINUX = "linux"
    LINUX_OLD = "linux 2.4"
    SOLARIS = "solaris"
    WINDOWS_2000 = "windows 2000"
    WINDOWS_XP = "windows xp"
    WINDOWS_2003 = "windows 2003"
    WINDOWS_VISTA = "windows vista"
    WINDOWS_2008 = "windows 2008"
    WINDOWS_7 = "windows 7"
    WINDOWS_8 = "windows 8"
    WINDOWS_10 = "windows 10"
    WINDOWS_11 = "windows 11"

    @property
    def windows(self) -> bool:
        return self.value.startswith("windows")


@dataclass(frozen=True, slots=True)
class Disk:
    """A hard disk. id: what its old host called it, and so what the archive does.

    size: bytes, 0 when unknown. cache: none, writethrough, writeback, unsafe, directsync. io: native,
    threads, io_uring. Empty is the host's own choice. discard: the guest may give back space.
    boot: place in the boot order, from 1; 0 is not booted from.
    """

    id: str
    bus: Bus
    size: int = 0
    cache: str = ""
    io: str = ""
    discard: bool = False
    detect_zeroes: bool = False
    ssd: bool = False
    iothread: bool = False
    readonly: bool = False
    serial: str = ""
    boot: int = 0


@dataclass(frozen=True, slots=True)
class Drive:
    """A CD-ROM drive. Media stay behind."""

    id: str
    bus: Bus
    boot: int = 0


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card. network: bridge or network on its old host; empty is QEMU's user network.

    vlan: tag, 0 is none. connected: the cable is in. mtu: 0 is the host's own choice.
    """

    id: str
    model: str
    network: str
    mac: str = ""
    vlan: int = 0
    connected: bool = True
    mtu: int = 0
    boot: int = 0

    @property
    def place(self) -> str:
        """How the configuration names where it is plugged in: `vmbr0`, or `vmbr0.20` with a VLAN."""
        return f"{self.network}.{self.vlan}" if self.vlan else self.network


@dataclass(frozen=True, slots=True)
class Cpu:
    """model: QEMU's name, `host` (all that the host has), or empty for the host's default.

    cpus: that are there at the start, of sockets * cores * threads. flags: (name, on or off).
    """

    cpus: int = 1
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    model: str = ""
    flags: tuple[tuple[str, bool], ...] = ()

    @property
    def most(self) -> int:
        return self.sockets * self.cores * self.threads


@dataclass(frozen=True, slots=True)
class Hardware:
    """A guest. memory: bytes, of which it may be asked to give back all but balloon (0: nothing).

    machine: `q35` or `pc`; version: `8.1`, empty is the newest. scsi: the model of the SCSI
    controllers: virtio-scsi, lsi, lsi53c810, megasas, pvscsi. agent: the channel of QEMU's guest
    agent is there. vga: std, virtio, qxl, cirrus, vmware, none, or empty for the host's choice.
    tpm: `1.2`, `2.0` or empty. sound: hda, ich9, ac97 or empty. watchdog: `MODEL` or `MODEL ACTION`.
    smbios: what the guest reads about its maker: manufacturer, product, version, serial, sku, family.
    kvm: it runs on the processor itself, not emulated. genid: it has a VM generation id, which must
    change when it is restored.
    """

    name: str
    memory: int
    cpu: Cpu = Cpu()
    balloon: int = 0
    firmware: Firmware = Firmware.BIOS
    secure_boot: bool = False
    machine: str = "pc"
    version: str = ""
    system: System = System.OTHER
    clock: Clock = Clock.UTC
    disks: tuple[Disk, ...] = ()
    drives: tuple[Drive, ...] = ()
    nics: tuple[Nic, ...] = ()
    scsi: str = "virtio-scsi"
    agent: bool = False
    tablet: bool = True
    rng: bool = False
    serials: int = 0
    vga: str = ""
    tpm: str = ""
    sound: str = ""
    watchdog: str = ""
    smbios: tuple[tuple[str, str], ...] = ()
    genid: bool = False
    kvm: bool = True
    description: str = ""
    tags: tuple[str, ...] = ()


def keep_disks(hardware: Hardware, stored: Collection[str]) -> tuple[Hardware, tuple[str, ...]]:
    """The same with the disks that are in the archive only, and a note for each other one."""
    notes = Notes()
    kept = []
    for disk in hardware.disks:
        if disk.id in stored:
            kept.append(disk)
        else:
            notes.add(f"Disk {disk.id} is not in the restore point and is left out.")
    return replace(hardware, disks=tuple(kept)), notes.all
