"""Files and file systems inside a guest's disks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FileKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    DEVICE = "device"
    PIPE = "pipe"
    SOCKET = "socket"
    OTHER = "other"
    UNREADABLE = "unreadable"
    """It is there, but what it is cannot be told: the file system is damaged at this place."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One name in a folder. Names that are not UTF-8 carry their bytes as surrogates (PEP 383).

    size: bytes. changed: seconds since 1970, None where that is not known. mode: permission bits; None, as owner
    and group are, where the file system has none. target: of a symbolic link. identity: the same for all names of
    one file, within one file system; empty where that is not known. links: how many names it has.
    """

    name: str
    kind: FileKind
    size: int = 0
    changed: float | None = None
    mode: int | None = None
    owner: int | None = None
    group: int | None = None
    target: str = ""
    identity: str = ""
    links: int = 1


@dataclass(frozen=True, slots=True)
class Volume:
    """A partition, a logical volume, or a disk without either.

    name: as people call it, unique within the guest: `vda1`, `sda`, `vg0-root`. kind: `ext4`, `ntfs`, `swap`,
    `encrypted`, `unknown` … size: bytes. readable: whether files can be listed. mounted: where the guest has it
    in its own tree, by its fstab; empty where that is not known. note: what should be known of it, a sentence.
    """

    name: str
    disk: str
    kind: str
    size: int
    label: str = ""
    uuid: str = ""
    readable: bool = False
    mounted: str = ""
    note: str = ""
