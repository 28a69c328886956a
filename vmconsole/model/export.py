"""How a guest is exported: wishes and limits, the plan, and what happened at the cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vmconsole.model.guest import Guest
from vmconsole.model.point import Consistency, Mode


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Limits and wishes of one backup of one guest. Times in seconds, sizes in bytes."""

    full_reason: str = ""
    """Non-empty: read everything, and this is why."""
    freeze: bool = True
    freeze_budget: float = 10.0
    agent_timeout: float = 5.0
    exclude_disks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What will be done with one disk. reason says why it is full or skipped."""

    id: str
    size: int
    format: str
    source: str
    mode: Mode
    reason: str = ""
    parent: str = ""
    """Name of the archive to reuse, for an incremental."""
    bytes_expected: int = 0
    """Forecast of bytes read from the host."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """How a guest will be exported. method is a short stable word, such as `pull` or `offline`.

    facts belongs to the adapter that made the plan; nobody else looks inside.
    """

    guest: Guest
    disks: tuple[DiskPlan, ...]
    method: str
    method_reason: str
    options: ExportOptions
    warnings: tuple[str, ...] = ()
    facts: Any = None

    @property
    def mode(self) -> Mode:
        return Mode.INCREMENTAL if any(d.mode is Mode.INCREMENTAL for d in self.disks) else Mode.FULL

    @property
    def reason(self) -> str:
        """The reasons of the full disks, without repetition."""
        return "; ".join(dict.fromkeys(d.reason for d in self.disks if d.mode is Mode.FULL and d.reason))

    @property
    def bytes_expected(self) -> int:
        return sum(disk.bytes_expected for disk in self.disks)


@dataclass(frozen=True, slots=True)
class Cut:
    """What happened at the cut. facts goes into guest.json and comes back in later plans."""

    time: datetime
    consistency: Consistency
    freeze_ms: int | None
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fed:
    """What a feed brought of one disk. bytes_dirty: as DiskExport.bytes_dirty."""

    bytes_read: int
    bytes_dirty: int = 0


@dataclass(frozen=True, slots=True)
class GuestRestore:
    """A guest to be made on a host. name must be free there.

    storage: a pool's name or a folder; on Proxmox STORAGE, or NODE/STORAGE. Empty: the host's choice.
    """

    name: str
    storage: str = ""
    start: bool = False
