"""The cluster's guests, their configuration files and the storages their volumes are on."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

from vmconsole.demo.disk import VirtualDisk
from vmconsole.demo.guests import Guest, GuestDisk

CLOCK_TICKS = 100
_FIRST_PID = 4200


@dataclass(frozen=True, slots=True)
class Process:
    """A QEMU process, as /proc tells: start is in clock ticks since the node's boot."""

    pid: int
    start: int

    @property
    def text(self) -> str:
        return f"{self.pid}:{self.start}"


_processes = itertools.count(1)


def new_process() -> Process:
    number = next(_processes)
    return Process(_FIRST_PID + 31 * number, 100_000 + 977 * number)


@dataclass(slots=True)
class Conf:
    """A configuration file: `key: value` lines after a description."""

    values: dict[str, str]
    description: str = ""

    @property
    def text(self) -> str:
        comment = f"#{self.description}\n" if self.description else ""
        return comment + "".join(f"{key}: {value}\n" for key, value in sorted(self.values.items()))


@dataclass(slots=True)
class Vm:
    """A virtual machine. guest: its disks, named as in the configuration (`scsi0`), and what it does.

    process: None when it is off. still: its disabled bitmaps by disk and name; they hold what was
    dirty when they were disabled, and record nothing.
    """

    vmid: int
    node: str
    guest: Guest
    conf: Conf
    process: Process | None = None
    still: dict[tuple[str, str], bytes] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.process is not None

    @property
    def kind(self) -> str:
        return "qemu"

    @property
    def name(self) -> str:
        return self.guest.name

    @property
    def conf_path(self) -> str:
        return f"/etc/pve/nodes/{self.node}/qemu-server/{self.vmid}.conf"

    def volume(self, item: GuestDisk) -> str:
        return self.conf.values[item.target].partition(",")[0]

    def forget_bitmaps(self) -> None:
        """They live in the memory of QEMU."""
        self.still.clear()
        for item in self.guest.disks:
            with item.disk.lock:
                item.disk.bitmaps.clear()


@dataclass(frozen=True, slots=True)
class File:
    """One member of a container's file system.

    path: relative. time: when it was changed, seconds since 1970. link: target of a symbolic link.
    """

    path: str
    time: int
    content: bytes = b""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    link: str = ""
    folder: bool = False


@dataclass(slots=True)
class Container:
    """A Linux container. files: by path, folders before what is in them."""

    vmid: int
    node: str
    name: str
    conf: Conf
    files: dict[str, File]
    running: bool = True

    @property
    def kind(self) -> str:
        return "lxc"

    @property
    def conf_path(self) -> str:
        return f"/etc/pve/nodes/{self.node}/lxc/{self.vmid}.conf"

    def put(self, file: File) -> None:
        self.files[file.path] = file

    @property
    def size(self) -> int:
        return sum(len(file.content) for file in self.files.values())


@dataclass(frozen=True, slots=True)
class Storage:
    """kind: Proxmox's word for it. Of a shared one every node has the same folder."""

    name: str
    kind: str
    content: str
    shared: bool = False


@dataclass(slots=True)
class Volumes:
    """Volumes that were allocated beside the guests' own: `STORAGE:ID/NAME` → its file."""

    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def allocate(self, volume: str, size: int) -> Path:
        """Raises FileExistsError, OSError."""
        if volume in self.made:
            raise FileExistsError(volume)
        storage, _, name = volume.partition(":")
        path = self.folder / storage / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        self.made[volume] = path
        return path

    def free(self, volume: str) -> bool:
        """False when there is none."""
        path = self.made.pop(volume, None)
        if path is not None:
            path.unlink(missing_ok=True)
        return path is not None


def image(folder: Path, storage: str, vmid: int, number: int, size: int, suffix: str) -> VirtualDisk:
    """A new volume of a guest, as a file below the storage's folder."""
    place = folder / storage / "images" / str(vmid)
    place.mkdir(parents=True, exist_ok=True)
    name = f"vm-{vmid}-disk-{number}.{suffix}"
    return VirtualDisk(place / name, size, format=suffix)


def volume_id(disk: VirtualDisk) -> str:
    """`STORAGE:ID/NAME` of a volume made by image()."""
    storage, _, vmid, name = disk.path.parts[-4:]
    return f"{storage}:{vmid}/{name}"
