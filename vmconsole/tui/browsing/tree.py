"""Folders and what is in them, made from an archive's members and a container's index. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from vmconsole.model.files import FileEntry, FileKind, Volume
from vmconsole.model.point import TAR, RestorePoint
from vmconsole.runs.tarindex import clean

FILES = "files"
"""The folder that the guest's files are shown in."""
VOLUMES = "volumes"
"""The folder that a virtual machine's partitions and logical volumes are shown in, one by one."""
_LONGEST = 8192
"""Letters of a path; a longer one is not shown."""


class Kind(Enum):
    FOLDER = "folder"
    TEXT = "text"
    """A small member of the archive: configuration, firmware, guest.json."""
    DISK = "disk"
    TAR = "tar"
    FILE = "file"
    """Of the guest."""
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """path: from the top of the restore point. member: of the guest's file, its mode and owner, as the index of a
    container has them.

    size: bytes. changed: seconds since 1970, None where that is not known.
    """

    path: str
    kind: Kind
    size: int = 0
    changed: float | None = None
    note: str = ""
    member: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def order(self) -> tuple[bool, str]:
        return (self.kind is not Kind.FOLDER, self.name)


@dataclass(slots=True)
class Tree:
    """texts: the small members' contents, by path. unread: folders of a virtual machine that nobody looked into yet."""

    folders: dict[str, dict[str, Entry]] = field(default_factory=dict)
    texts: Mapping[str, bytes] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)

    def inside(self, folder: str) -> list[Entry]:
        """Folders first, then by name."""
        return sorted(self.folders.get(folder, {}).values(), key=lambda entry: entry.order)

    def add(self, entry: Entry) -> None:
        """With the folders it lies in. A later entry of the same path replaces an earlier one, as tar does."""
        parent = self._folder(entry.path.rpartition("/")[0])
        parent[entry.path] = entry

    def _folder(self, path: str) -> dict[str, Entry]:
        """What is in a folder, which is made when it is not there, with those above it."""
        found = self.folders.setdefault(path, {})
        while path:
            above = path.rpartition("/")[0]
            known = self.folders.setdefault(above, {})
            if path in known:
                break
            known[path] = Entry(path, Kind.FOLDER, note=_FOLDERS.get(path, ""))
            path = above
        return found


def make_tree(point: RestorePoint, files: Mapping[str, bytes], members: Iterable[Mapping[str, Any]]) -> Tree:
    """files: the members that are not disks. members: of the container's index, none for a virtual machine."""
    tree = Tree({"": {}}, files)
    for path, content in files.items():
        tree.add(Entry(path, Kind.TEXT, len(content), note=_note(path)))
    for disk in point.stored_disks:
        kind = Kind.TAR if disk.format == TAR else Kind.DISK
        tree.add(Entry(disk.path, kind, disk.size, note=f"{disk.id}, {disk.format} on its host"))
    for member in members:
        path = clean(str(member.get("path", "")))
        # The names come from a guest, which may make a folder in a folder a million times.
        if path and len(path) <= _LONGEST:
            tree.add(_entry(f"{FILES}/{path}", member))
    return tree


def place_of(path: str) -> tuple[str, str] | None:
    """Volume and path in the guest of what is shown as path; None for what is none of the guest's files."""
    top, _, rest = path.partition("/")
    if top == FILES:
        return "", f"/{rest}"
    volume, _, inside = rest.partition("/")
    return (volume, f"/{inside}") if top == VOLUMES and volume else None


def add_volumes(tree: Tree, volumes: Iterable[Volume]) -> None:
    """What a virtual machine's disks hold: its own tree, and each volume, as folders that are read when opened."""
    readable = [one for one in volumes if one.readable]
    if not readable:
        return
    for path, note in (
        (FILES, _FOLDERS[FILES]),
        *(
            (f"{VOLUMES}/{one.name}", " ".join(filter(None, (one.kind, one.label, one.mounted))))
            for one in readable
        ),
    ):
        tree.add(Entry(path, Kind.FOLDER, note=note))
        tree.unread.add(path)


def add_entries(tree: Tree, folder: str, entries: Iterable[FileEntry]) -> None:
    """What is in a folder of a virtual machine, which is read now."""
    tree.unread.discard(folder)
    tree.folders.setdefault(folder, {})
    for entry in entries:
        path = f"{folder}/{entry.name}"
        if "/" in entry.name or len(path) > _LONGEST:
            continue
        kind = _KINDS.get(entry.kind, Kind.OTHER)
        member = {} if entry.mode is None else {"mode": entry.mode, "uid": entry.owner, "gid": entry.group}
        note = f"→ {entry.target}" if kind is Kind.LINK else entry.kind.value if kind is Kind.OTHER else ""
        tree.add(Entry(path, kind, entry.size, entry.changed, note, member))
        if kind is Kind.FOLDER:
            tree.unread.add(path)


_KINDS = {FileKind.FOLDER: Kind.FOLDER, FileKind.FILE: Kind.FILE, FileKind.LINK: Kind.LINK}


def _entry(path: str, member: Mapping[str, Any]) -> Entry:
    kinds = {"dir": Kind.FOLDER, "file": Kind.FILE, "symlink": Kind.LINK, "hardlink": Kind.LINK}
    kind = kinds.get(str(member.get("type")), Kind.OTHER)
    note = (
        f"→ {member['link']}" if member.get("link") else str(member.get("type")) if kind is Kind.OTHER else ""
    )
    return Entry(path, kind, int(member.get("size", 0)), float(member.get("mtime", 0)), note, member)


def mode_text(member: Mapping[str, Any]) -> str:
    """`rw-r-----`; empty where nothing is known."""
    if not member:
        return ""
    mode = int(member.get("mode", 0))
    return "".join(letter if mode & (1 << (8 - at)) else "-" for at, letter in enumerate("rwxrwxrwx"))


def readable(content: bytes) -> str | None:
    """As text, when it is text; None otherwise."""
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1") if _mostly_letters(content) else None


def _mostly_letters(content: bytes) -> bool:
    odd = sum(byte < 32 and byte not in (9, 10, 12, 13) for byte in content[:4096])
    return odd * 20 < len(content[:4096]) + 20


_FOLDERS = {
    "config": "the guest's configuration",
    "firmware": "what the guest's firmware remembers",
    "disks": "its disks",
    "container": "all its files, as one tar",
    FILES: "the guest's files",
    VOLUMES: "its partitions and logical volumes, one by one",
}
_NOTES: Sequence[tuple[str, str]] = (
    ("guest.json", "what vmconsole knows of this restore point"),
    ("config/libvirt.xml", "the guest's definition on its host"),
    ("config/checkpoint.xml", "the checkpoint its next backup builds upon"),
    ("config/qemu-server.conf", "the guest's configuration on its host"),
    ("config/pct.conf", "the container's configuration on its host"),
    ("config/firewall.fw", "the guest's firewall rules"),
    ("firmware/", "what the guest's firmware remembers"),
)


def _note(path: str) -> str:
    return next((note for start, note in _NOTES if path.startswith(start)), "")
