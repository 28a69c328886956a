"""Hosts' guests and disks as the inventory sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from vmconsole.errors import VmconsoleError


class HostKind(Enum):
    LIBVIRT = "libvirt"
    PROXMOX = "proxmox"


class GuestKind(Enum):
    VM = "vm"
    CONTAINER = "container"


class GuestState(Enum):
    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"
    OTHER = "other"


class Tracking(Enum):
    """Whether the hypervisor can record what changes on a disk."""

    BITMAP = "bitmap"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Disk:
    """One virtual disk. size: bytes, as the guest sees it. source: path or volume on the host."""

    id: str
    size: int
    format: str
    source: str
    included: bool = True
    reason: str = ""
    """Why it is excluded, or why it cannot be tracked; empty when neither."""
    tracking: Tracking = Tracking.NONE


@dataclass(frozen=True, slots=True)
class Guest:
    """A virtual machine or container. uuid is its identity; id is what the host calls it."""

    uuid: str
    id: str
    name: str
    host: str
    kind: GuestKind
    state: GuestState
    agent: bool = False
    tags: tuple[str, ...] = ()
    pool: str = ""
    disks: tuple[Disk, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all included disks."""
        return sum(disk.size for disk in self.disks if disk.included)


@dataclass(frozen=True, slots=True)
class HostLoad:
    """How busy a host is, each 0.0 (idle) and up; None when the host does not say.

    cpu, io, memory: PSI "some avg10" as a fraction where the kernel offers it;
    cpu falls back to the one-minute load average per processor.
    """

    cpu: float | None = None
    io: float | None = None
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class HostInventory:
    """One look at a host. reachable False leaves guests empty and says why in error.

    failure: the same as it was raised, with its hint; not kept in the state.
    """

    name: str
    kind: HostKind
    reachable: bool
    error: str = ""
    load: HostLoad = field(default_factory=HostLoad)
    guests: tuple[Guest, ...] = ()
    failure: VmconsoleError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `host check` and `doctor`. remedy: the command or edit that fixes it."""

    name: str
    ok: bool
    detail: str = ""
    remedy: str = ""
    warning: bool = False
    """True: works without, but worse."""
