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
    """A virtual machine or container. uuid is its identity; id is what the host calls it.

    node: of a cluster, the node it is on now; empty where a host is one machine.
    ha: its state in the cluster's high availability, such as `started`; empty when not managed.
    lock: what the host says it is locked for, such as `backup` or `migrate`; empty when it is not.
    in_host_jobs: whether a backup job of the host's own covers it; None where a host does not say.
    """

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
    node: str = ""
    template: bool = False
    ha: str = ""
    lock: str = ""
    in_host_jobs: bool | None = None

    @property
    def size(self) -> int:
        """Bytes of all included disks."""
        return sum(disk.size for disk in self.disks if disk.included)


@dataclass(frozen=True, slots=True)
class HostLoad:
    """How busy a host is, each 0.0 (idle) and up; None when the host does not say.

    cpu, io, memory: PSI "some avg10" as a fraction where the kernel offers it;
    cpu falls back to the one-minute load average per processor, and for the nodes of a cluster that
    were not asked themselves, to the share of their processors that is in use.
    """

    cpu: float | None = None
    io: float | None = None
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a cluster. version: of the software it runs guests with, as far as it was asked."""

    name: str
    online: bool
    address: str = ""
    version: str = ""
    load: HostLoad = field(default_factory=HostLoad)


@dataclass(frozen=True, slots=True)
class Storage:
    """A place for disks. node: which node's view this is; a shared one is listed once, without a node.

    type: as the host calls it (`lvmthin`, `zfspool`, `nfs` …). content: what it may hold (`images`,
    `rootdir`, `backup` …). size, used: bytes, 0 when the host does not say.
    """

    name: str
    type: str
    available: bool
    node: str = ""
    content: tuple[str, ...] = ()
    size: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class HostInventory:
    """One look at a host. reachable False leaves guests empty and says why in error.

    load: of a cluster, that of its busiest node. nodes: the machines of a cluster, empty when the
    host is one machine. warnings: what is wrong with the host as a whole.
    failure: the same as it was raised, with its hint; not kept in the state.
    """

    name: str
    kind: HostKind
    reachable: bool
    error: str = ""
    load: HostLoad = field(default_factory=HostLoad)
    guests: tuple[Guest, ...] = ()
    nodes: tuple[Node, ...] = ()
    storages: tuple[Storage, ...] = ()
    warnings: tuple[str, ...] = ()
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
