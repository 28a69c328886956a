"""What was chosen for a restore, and the command that carries it out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from enum import Enum
from pathlib import Path

from vmconsole.front.capabilities import Capability, capability
from vmconsole.model.guest import HostInventory, HostKind, Storage
from vmconsole.model.point import TAR, RestorePoint, slug
from vmconsole.runs.restore import file_name


class What(Enum):
    """value: the id of its option."""

    GUEST = "guest"
    DISKS = "disks"
    DISK = "disk"
    FILES = "files"
    ROLLBACK = "rollback"
    BOOT = "boot"

    @property
    def later(self) -> Capability | None:
        """What is missing for it; None when it can be done."""
        if self in (What.GUEST, What.DISKS, What.DISK, What.FILES):
            return None
        found = capability(self.value)
        return None if found.there else found

    @property
    def to_files(self) -> bool:
        return self in (What.DISKS, What.DISK)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A restore point that can be chosen. pruned: retention marked it, its space is not free yet."""

    point: RestorePoint
    repository: str
    pruned: bool = False

    @property
    def key(self) -> str:
        return f"{self.repository}/{self.point.archive}"


@dataclass(frozen=True, slots=True)
class Choice:
    """All that was chosen so far. disks: ids, all when empty. to: a file or, with / at its end, a folder."""

    candidate: Candidate
    what: What = What.GUEST
    disks: tuple[str, ...] = ()
    to: str = ""
    host: str = ""
    name: str = ""
    storage: str = ""
    start: bool = False

    @property
    def point(self) -> RestorePoint:
        return self.candidate.point


def command(choice: Choice) -> tuple[str, ...]:
    """As people would type it, without `vmconsole`, `--yes` and `--dry-run`."""
    words = ["restore", choice.point.archive]
    if choice.candidate.repository:
        words += _option("--repository", choice.candidate.repository)
    if choice.what.to_files:
        words += _option("--to", choice.to)
        for disk in choice.disks:
            words += _option("--disk", disk)
        return tuple(words)
    words += _option("--host", choice.host) + _option("--as", choice.name)
    if choice.storage:
        words += _option("--storage", choice.storage)
    if choice.start:
        words.append("--start")
    return tuple(words)


def _option(name: str, value: str) -> list[str]:
    # A value that looks like an option would be taken for one.
    return [f"{name}={value}"] if value.startswith("-") else [name, value]


def is_container(point: RestorePoint) -> bool:
    return any(disk.format == TAR for disk in point.disks)


def why_not_what(what: What, point: RestorePoint | None) -> str:
    """Why this cannot be restored, as a sentence; empty when it can."""
    if what.later is not None:
        return what.later.sentence
    if point is None:
        return "There is no restore point to choose."
    if not point.stored_disks:
        return "This restore point holds no disk, only the guest's configuration."
    return ""


def why_not_host(kind: HostKind, point: RestorePoint) -> str:
    if is_container(point) and kind is not HostKind.PROXMOX:
        return "A container can only be restored to a Proxmox host."
    return ""


def why_not_name(name: str, inventory: HostInventory | None) -> str:
    """Before the host is asked itself: by the guests it was last seen with."""
    if not name.strip():
        return "The new guest needs a name."
    if inventory is not None and name in names_on(inventory):
        return f"There is a guest {name} on {inventory.name} already; a restore never overwrites."
    return ""


def names_on(inventory: HostInventory) -> set[str]:
    return {guest.name for guest in inventory.guests}


def default_name(point: RestorePoint, inventories: Iterable[HostInventory]) -> str:
    """The guest's own name when no host has it any more, otherwise the first free `NAME-restored`."""
    taken = {name for inventory in inventories for name in names_on(inventory)}
    base = point.guest if point.guest.strip() and point.guest.isprintable() else slug(point.guest)
    if base not in taken:
        return base
    wanted = f"{base}-restored"
    number = 1
    while wanted in taken:
        number += 1
        wanted = f"{base}-restored-{number}"
    return wanted


def default_place(point: RestorePoint, what: What, disks: Sequence[str], home: Path, zone: tzinfo) -> str:
    """A folder that is made for all disks, a file in it for one."""
    folder = home / "restore" / f"{slug(point.guest)}-{point.time.astimezone(zone):%Y-%m-%d-%H%M}"
    if what is What.DISK:
        chosen = next((disk for disk in point.stored_disks if disk.id in disks), None)
        if chosen is not None:
            return f"{folder.parent}/{folder.name}-{file_name(chosen)}"
    return f"{folder}/"


def usable_storages(inventory: HostInventory, point: RestorePoint) -> list[Storage]:
    """Those of the host that take such disks, the one with most space first."""
    content = "rootdir" if is_container(point) else "images"
    found = [item for item in inventory.storages if item.available and content in item.content]
    return sorted(found, key=lambda item: item.used - item.size)


def storage_argument(storage: Storage) -> str:
    return f"{storage.node}/{storage.name}" if storage.node else storage.name


def chosen_size(choice: Choice) -> int:
    """Bytes of the disks that are restored; at most that much is written."""
    wanted = set(choice.disks)
    return sum(disk.size for disk in choice.point.stored_disks if not wanted or disk.id in wanted)
