"""The configuration files of guests: /etc/pve/nodes/NODE/{qemu-server,lxc}/VMID.conf.

Read as Proxmox reads them (`parse_vm_config`, `parse_pct_config`), printed back byte for byte: lines
that are not understood, keys that are not known, and the rest of a half-written file all stay. The
first section is the guest as it is; after it come `[PENDING]` (containers: `[pve:pending]`), one
section per snapshot, and `[special:…]`. Comments are the description, percent-encoded. Hostile
input: root's editor, other tools, and whoever may name a guest have written into these files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from urllib.parse import unquote

from vmconsole.hypervisors.proxmox.devices import (
    Drive,
    Net,
    is_disk_key,
    natural,
    parse_drive,
    parse_net,
)
from vmconsole.hypervisors.proxmox.properties import (
    boolean,
    parse_properties,
    split_list,
    split_tags,
    unbase64,
    whole,
)
from vmconsole.model.guest import GuestKind

_HEADER = re.compile(r"\[((?:special:|pve:)?[a-z][a-z0-9_-]+)\]\s*", re.IGNORECASE)
_ANY_HEADER = re.compile(r"\[.*\]\s*")  # what vzdump takes for one
_PAIR = re.compile(r"([a-z][a-z0-9_-]*):\s*(\S(?:.*\S)?)\s*")
_LXC_PAIR = re.compile(r"(lxc\.[a-z0-9_.-]+)(?::|\s*=)\s*(.*?)\s*")
_NOT_ARCHIVED = re.compile(r"#vzdump#|#qmdump#|unused\d+:\s*\S|lock:|parent:")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SectionKind(Enum):
    CURRENT = "current"
    PENDING = "pending"
    SNAPSHOT = "snapshot"
    SPECIAL = "special"


@dataclass(frozen=True, slots=True)
class Line:
    """text: as it stands, without its newline. key: empty for comments, blanks, what is not understood."""

    text: str
    key: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """header: the line in brackets as it stands; empty for the first section. name: without brackets."""

    kind: SectionKind
    name: str
    header: str
    lines: tuple[Line, ...]

    @property
    def values(self) -> dict[str, str]:
        """Of a key that is there twice, the last, as in Proxmox."""
        return {line.key: line.value for line in self.lines if line.key}

    @property
    def description(self) -> str:
        """Comments and `description:`, decoded."""
        parts = [
            unquote(whole(line.value if line.key else line.text[1:]), errors="replace")
            for line in self.lines
            if line.key == "description" or (not line.key and line.text.startswith("#"))
        ]
        return "\n".join(parts).rstrip()


@dataclass(frozen=True, slots=True)
class Agent:
    """The option `agent`. freeze: file systems may be frozen for a backup."""

    enabled: bool
    freeze: bool


@dataclass(frozen=True, slots=True)
class GuestConf:
    """One file. sections: at least one, the first is the guest as it is now."""

    kind: GuestKind
    sections: tuple[Section, ...]

    @property
    def text(self) -> str:
        """The file, exactly as it was parsed unless it was changed since."""
        lines = []
        for section in self.sections:
            lines += [section.header] if section.header else []
            lines += [line.text for line in section.lines]
        return "\n".join(lines)

    @property
    def current(self) -> Section:
        return self.sections[0]

    @property
    def values(self) -> dict[str, str]:
        """Keys of the guest as it is now."""
        return self.current.values

    @property
    def snapshots(self) -> tuple[str, ...]:
        return tuple(section.name for section in self.sections if section.kind is SectionKind.SNAPSHOT)

    @property
    def pending(self) -> dict[str, str]:
        """Changes that wait for the guest's next start."""
        return next((item.values for item in self.sections if item.kind is SectionKind.PENDING), {})

    @property
    def fleecing_images(self) -> tuple[str, ...]:
        """Volumes that a backup by Proxmox has left behind, or is using."""
        for section in self.sections:
            if section.name.lower() == "special:fleecing":
                return split_list(section.values.get("fleecing-images", ""))
        return ()

    @property
    def unclear(self) -> tuple[str, ...]:
        """Lines of the first section that are not understood, such as the end of a half-written file."""
        return tuple(
            line.text
            for line in self.current.lines
            if not line.key and line.text.strip() and not line.text.startswith("#")
        )

    @property
    def name(self) -> str:
        """Empty when it has none."""
        return whole(self.values.get("name" if self.kind is GuestKind.VM else "hostname", ""))

    @property
    def tags(self) -> tuple[str, ...]:
        return split_tags(self.values.get("tags", ""))

    @property
    def lock(self) -> str:
        return whole(self.values.get("lock", ""))

    @property
    def template(self) -> bool:
        return boolean(self.values.get("template", ""))

    @property
    def agent(self) -> Agent:
        """`agent: 1[,freeze-fs=0]`; until 9.0 the second was called freeze-fs-on-backup."""
        options = parse_properties(self.values.get("agent", ""), "enabled")
        freeze = options.get("freeze-fs", options.get("freeze-fs-on-backup", ""))
        return Agent(boolean(options.get("enabled", "")), boolean(freeze, default=True))

    @property
    def smbios(self) -> dict[str, str]:
        """The fields of smbios1, decoded: all but the uuid are base64 when `base64=1`."""
        values = parse_properties(self.values.get("smbios1", ""))
        if not boolean(values.pop("base64", "")):
            return values
        return {key: value if key == "uuid" else unbase64(value) for key, value in values.items()}

    @property
    def hardware_uuid(self) -> str:
        """The uuid of smbios1, else the vmgenid; empty for containers and when neither is set."""
        if self.kind is GuestKind.CONTAINER:
            return ""
        for text in (self.smbios.get("uuid", ""), self.values.get("vmgenid", "")):
            uuid = text.strip().lower()
            if _UUID.fullmatch(uuid) and uuid.strip("0-"):
                return uuid
        return ""

    @property
    def drives(self) -> tuple[Drive, ...]:
        """Everything that is or could be a disk, `unusedN` last, each key once."""
        found = {}
        for key, value in self.values.items():
            drive = "ide2" if key == "cdrom" and self.kind is GuestKind.VM else key
            if is_disk_key(drive, self.kind):
                found[drive] = parse_drive(drive, value)
        return tuple(sorted(found.values(), key=lambda drive: natural(drive.key)))

    @property
    def nets(self) -> tuple[Net, ...]:
        found = [parse_net(key, self.values[key]) for key in self.numbered("net")]
        return tuple(sorted(found, key=lambda net: natural(net.key)))

    def numbered(self, prefix: str) -> tuple[str, ...]:
        """Keys like `hostpci0` that are the prefix and a number, in their order."""
        pattern = re.compile(re.escape(prefix) + r"\d{1,3}")
        return tuple(key for key in self.values if pattern.fullmatch(key))

    def changed(self, changes: Mapping[str, str | None]) -> GuestConf:
        """With keys of the first section set, or removed for None; other lines stay where they are.

        Raises ValueError for a value that would become another line.
        """
        for value in changes.values():
            if value is not None and (not value.strip() or "\n" in value):
                raise ValueError(f"{value!r} cannot stand in a guest's configuration")
        left = dict(changes)
        lines = []
        for line in self.current.lines:
            if not line.key or line.key not in changes:
                lines.append(line)
            elif (value := left.pop(line.key, None)) is not None:
                lines.append(Line(f"{line.key}: {value}", line.key, value))
        added = [Line(f"{key}: {value}", key, value) for key, value in left.items() if value is not None]
        # What stands behind the last newline is an empty line, and stays the last one.
        end = len(lines) - 1 if lines and not lines[-1].text else len(lines)
        tail = lines[end:] or ([Line("")] if added else [])
        first = replace(self.current, lines=(*lines[:end], *added, *tail))
        return replace(self, sections=(first, *self.sections[1:]))


@dataclass(frozen=True, slots=True)
class DiskMap:
    """Where a disk of an archive came from: what `qmrestore` goes by. storage may be empty."""

    key: str
    storage: str
    format: str


def decode(raw: bytes) -> str:
    """A file's bytes as text that encode() turns back into the same bytes."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def digest(text: str) -> str:
    """SHA-1 of the file, which Proxmox calls its digest. It guards against races, not against people."""
    return hashlib.sha1(encode(text), usedforsecurity=False).hexdigest()


def parse(text: str, kind: GuestKind) -> GuestConf:
    """Never fails: what is not understood is kept, and listed by `unclear`."""
    sections = []
    head = SectionKind.CURRENT, "", ""
    lines: list[Line] = []
    for line in text.split("\n"):
        match = _HEADER.fullmatch(line)
        if match:
            sections.append(Section(*head, tuple(lines)))
            head, lines = (_section_kind(match[1]), match[1], line), []
        else:
            lines.append(_line(line, kind))
    sections.append(Section(*head, tuple(lines)))
    return GuestConf(kind, tuple(sections))


def _section_kind(name: str) -> SectionKind:
    if name.lower() in ("pending", "pve:pending"):
        return SectionKind.PENDING
    return SectionKind.SPECIAL if ":" in name else SectionKind.SNAPSHOT


def _line(text: str, kind: GuestKind) -> Line:
    match = _PAIR.fullmatch(text)
    if match is None and kind is GuestKind.CONTAINER:
        match = _LXC_PAIR.fullmatch(text)
    return Line(text, match[1], match[2]) if match else Line(text)


def vzdump_conf(text: str, disks: Iterable[DiskMap]) -> str:
    """What vzdump puts into an archive as qemu-server.conf: no lock, no parent, nothing but the first
    section, no unused disks, and a line for each disk in the archive, which `qmrestore` reads.
    """
    kept = []
    for line in text.removesuffix("\n").split("\n") if text else []:
        if _ANY_HEADER.fullmatch(line):
            break
        if not _NOT_ARCHIVED.match(line):
            kept.append(line)
    maps = [
        f"#qmdump#map:{item.key}:{archive_device(item.key)}:{item.storage}:{item.format}:" for item in disks
    ]
    return "".join(f"{line}\n" for line in [*kept, *maps])


def archive_device(key: str) -> str:
    """What a disk is called in a VMA archive."""
    return "drive-tpmstate0-backup" if key == "tpmstate0" else f"drive-{key}"
