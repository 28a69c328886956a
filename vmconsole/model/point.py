"""Restore points: what `guest.json` holds, and how points are named.

The JSON shape is a contract (schema version 1): a restore years later depends on it. Unknown
keys are kept out of the way, never refused; a newer schema version is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from vmconsole.errors import RepositoryDamaged

SCHEMA = 1
GUEST_JSON = "guest.json"
TAR = "tar"
"""The format of a container's DiskPoint: its files as one tar, not a disk."""


class Mode(Enum):
    FULL = "full"
    INCREMENTAL = "incremental"
    SKIPPED = "skipped"


class Consistency(Enum):
    APPLICATION = "application"
    """Frozen through the guest agent at the cut."""
    CRASH = "crash"
    """Cut while running, not frozen: like a power failure."""
    OFFLINE = "offline"
    """The guest was off."""


@dataclass(frozen=True, slots=True)
class DiskPoint:
    """One disk inside a restore point, or all files of a container (format `tar`). Sizes in bytes."""

    id: str
    path: str
    size: int
    """Of the disk, or of the tar."""
    format: str
    mode: Mode
    reason: str = ""
    source: str = ""
    parent: str = ""
    """Id of the archive whose chunks were reused; empty for a full read."""
    bitmap: str = ""
    """Name of the bitmap or checkpoint that has recorded changes since this point, or longer."""
    process: str = ""
    """Identity of the QEMU process at the cut, `PID:START`; empty when the guest was off."""
    bytes_dirty: int = 0
    """What the hypervisor said had changed; the whole allocated size for a full read."""
    bytes_read: int = 0
    """What was read from the host."""
    bytes_stored: int = 0
    """What the repository grew by."""
    sha256: str = ""
    """Of the whole disk or tar, hex, for full reads; empty otherwise, and where it came out of order."""


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """One backup of one guest: one Borg archive."""

    archive: str
    guest: str
    uuid: str
    host: str
    hypervisor: str
    time: datetime
    """The instant of the cut, with zone."""
    consistency: Consistency
    disks: tuple[DiskPoint, ...]
    run: str = ""
    reason: str = ""
    """Why this mode."""
    freeze_ms: int | None = None
    seconds: float = 0.0
    chunk_size: int = 0
    fulls_ago: int = 0
    """How many incrementals stand between this point and the last full read."""
    warnings: tuple[str, ...] = ()
    group: str = ""
    schedule: str = ""
    """Whose retention it is kept by; both empty for a backup by hand."""
    together: Mapping[str, Any] = field(default_factory=dict)
    """Of guests cut at the same moment: `guests` (their names) and `skew_ms` between the first cut and the last."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the hypervisor adapter wants to see again; opaque to everybody else."""
    archive_id: str = ""
    """Borg's id of the archive, hex; not in guest.json, which cannot know it."""
    pinned: bool = False
    """Kept whatever retention says. Recorded in the repository beside the archives, not in guest.json."""

    @property
    def mode(self) -> Mode:
        if any(disk.mode is Mode.INCREMENTAL for disk in self.disks):
            return Mode.INCREMENTAL
        return Mode.FULL

    @property
    def stored_disks(self) -> tuple[DiskPoint, ...]:
        return tuple(disk for disk in self.disks if disk.mode is not Mode.SKIPPED)

    @property
    def size(self) -> int:
        return sum(disk.size for disk in self.stored_disks)

    def total(self, name: str) -> int:
        """Sum of a per-disk figure: bytes_dirty, bytes_read or bytes_stored."""
        return sum(int(getattr(disk, name)) for disk in self.disks)

    def to_json(self) -> dict[str, Any]:
        """The document stored as guest.json."""
        document = asdict(self)
        del document["archive_id"], document["pinned"]
        document["schema"] = SCHEMA
        document["time"] = iso(self.time)
        document["consistency"] = self.consistency.value
        document["mode"] = self.mode.value
        document["disks"] = [disk_json(disk) for disk in self.disks]
        document["warnings"] = list(self.warnings)
        return document

    @classmethod
    def from_json(cls, document: Any, *, archive_id: str = "") -> RestorePoint:
        """Read guest.json. Raises RepositoryDamaged when it is not one we understand."""
        try:
            if int(document["schema"]) > SCHEMA:
                raise RepositoryDamaged(
                    f"guest.json has schema version {document['schema']}, this vmconsole knows {SCHEMA}.",
                    hint="Use a newer vmconsole, or restore the disks with `borg extract`.",
                )
            known = {item.name for item in fields(cls)} - {"pinned"}
            values = {key: value for key, value in document.items() if key in known}
            values["time"] = datetime.fromisoformat(document["time"])
            values["consistency"] = Consistency(document["consistency"])
            values["disks"] = tuple(_disk_from_json(disk) for disk in document["disks"])
            values["warnings"] = tuple(str(item) for item in document.get("warnings", ()))
            values["archive_id"] = archive_id
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RepositoryDamaged(
                f"guest.json cannot be read: {error!r}.",
                hint="The disks themselves can still be restored with `borg extract`.",
            ) from error


def disk_json(disk: DiskPoint) -> dict[str, Any]:
    return asdict(disk) | {"mode": disk.mode.value}


def _disk_from_json(document: Any) -> DiskPoint:
    known = {item.name for item in fields(DiskPoint)}
    values = {key: value for key, value in document.items() if key in known}
    values["mode"] = Mode(values["mode"])
    return DiskPoint(**values)


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with zone, whole microseconds kept."""
    return moment.astimezone(UTC).isoformat()


def slug(name: str) -> str:
    """A guest's name reduced to [a-z0-9-], never empty, at most 64 characters."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    reduced = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")
    return reduced or "guest"


def archive_prefix(name: str, uuid: str) -> str:
    return f"{slug(name)}.{uuid.replace('-', '')[:8].lower()}-"


def archive_name(name: str, uuid: str, moment: datetime) -> str:
    """`GUEST.UUID8-YYYYMMDDTHHMMSSZ`."""
    return archive_prefix(name, uuid) + moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
