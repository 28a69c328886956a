"""Guests' configuration files, storage.cfg, and the locks around them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pve.tools.says import Died

ETC = Path("/etc/pve")
FOLDERS = {"qemu": "qemu-server", "lxc": "lxc"}
KINDS = {"qemu": "VM", "lxc": "CT"}
LOCKS = {
    "backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete", "suspending", "suspended",
    "mounted", "disk", "destroyed", "fstrim",
}  # fmt: skip
DRIVE = re.compile(r"(?:ide[0-3]|sata[0-5]|scsi(?:[12]?\d|30)|virtio(?:1[0-5]|\d)|efidisk0|tpmstate0)")
MOUNT = re.compile(r"rootfs|mp\d{1,3}")
_SECTION = re.compile(r"\[[^\]]+\]\s*$")
_LOCK_TIMEOUT = 10.0


@dataclass
class Conf:
    """The unnamed section as values, in the order of the file; the comment above it; the rest as it is."""

    values: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    rest: str = ""

    @property
    def text(self) -> str:
        lines = "".join(f"{key}: {value}\n" for key, value in sorted(self.values.items()))
        return self.comment + lines + (f"\n{self.rest}" if self.rest else "")

    @property
    def description(self) -> str:
        """The comment in one line, as `qm config` prints it."""
        lines = [line.removeprefix("#") for line in self.comment.splitlines()]
        return "".join(f"{line}%0A" for line in lines)

    def describe(self, text: str) -> None:
        self.comment = "".join(f"#{quote(line, safe=' ')}\n" for line in text.split("\n")) if text else ""


def parse(text: str) -> Conf:
    conf = Conf()
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        if _SECTION.match(line):
            conf.rest = "".join(lines[at:])
            break
        if line.startswith("#"):
            conf.comment += line
        elif ":" in line:
            key, _, value = line.partition(":")
            conf.values[key.strip()] = value.strip()
    return conf


def path_of(vmid: int, kind: str, node: str, etc: Path = ETC) -> Path:
    return etc / "nodes" / node / FOLDERS[kind] / f"{vmid}.conf"


def find(vmid: int, etc: Path = ETC) -> tuple[str, str] | None:
    """(kind, node) of a guest anywhere in the cluster."""
    for kind, folder in FOLDERS.items():
        for path in etc.glob(f"nodes/*/{folder}/{vmid}.conf"):
            return kind, path.parents[1].name
    return None


def all_guests(etc: Path = ETC) -> Iterator[tuple[int, str, str]]:
    """(vmid, kind, node)."""
    for kind, folder in FOLDERS.items():
        for path in sorted(etc.glob(f"nodes/*/{folder}/*.conf")):
            if path.stem.isdigit():
                yield int(path.stem), kind, path.parents[1].name


def read(vmid: int, kind: str, node: str, etc: Path = ETC) -> Conf:
    try:
        return parse(path_of(vmid, kind, node, etc).read_text())
    except FileNotFoundError:
        raise Died(
            f"Configuration file 'nodes/{node}/{FOLDERS[kind]}/{vmid}.conf' does not exist", 2
        ) from None


def write(path: Path, text: str) -> None:
    """As PVE::Tools::file_set_contents: beside it, then renamed."""
    beside = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        beside.write_text(text)
        beside.rename(path)
    except OSError as error:
        # pmxcfs without quorum refuses with EACCES; a read-only mount is what the lab has.
        word = "Permission denied" if error.errno == 30 else error.strerror
        raise Died(f"unable to open file '{beside}' - {word}", 13) from None


def digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def check_lock(conf: Conf, kind: str) -> None:
    if lock := conf.values.get("lock"):
        raise Died(f"{KINDS[kind]} is locked ({lock})")


@contextmanager
def held(vmid: int, kind: str) -> Iterator[None]:
    """The flock around every change of a guest's configuration."""
    folder, name = ("qemu-server", "lock") if kind == "qemu" else ("lxc", "pve-config")
    path = Path("/run/lock", folder, f"{name}-{vmid}.{'conf' if kind == 'qemu' else 'lock'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Died(f"can't lock file '{path}' - got timeout", 4) from None
                time.sleep(0.05)
        yield


# --- property strings ---


def properties(value: str, first: str = "file") -> dict[str, str]:
    """`local:100/x.raw,size=1G` → {"file": "local:100/x.raw", "size": "1G"}"""
    found = {}
    for part in filter(None, value.split(",")):
        key, equals, text = part.partition("=")
        found.update({key: text} if equals else {first: part})
    return found


def joined(values: Mapping[str, str], first: str = "file") -> str:
    rest = [f"{key}={value}" for key, value in sorted(values.items()) if key != first]
    return ",".join([*([values[first]] if first in values else []), *rest])


def drives(conf: Conf) -> dict[str, dict[str, str]]:
    """Key → properties, of everything that holds data: no CD-ROM drives."""
    found = {key: properties(value) for key, value in conf.values.items() if DRIVE.fullmatch(key)}
    return {key: item for key, item in found.items() if item.get("media") != "cdrom" and "file" in item}


def backed_up(conf: Conf) -> dict[str, dict[str, str]]:
    """The drives that a backup includes."""
    uefi = conf.values.get("bios") == "ovmf"
    return {
        key: item for key, item in drives(conf).items()
        if item.get("backup", "1") != "0" and (key != "efidisk0" or uefi)
    }  # fmt: skip


def mounts(conf: Conf) -> dict[str, dict[str, str]]:
    return {key: properties(value, "volume") for key, value in conf.values.items() if MOUNT.fullmatch(key)}
