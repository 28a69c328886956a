"""Storages of type dir, as storage.cfg defines them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pve.tools.conf import ETC
from pve.tools.says import Died

FORMATS = ("raw", "qcow2", "vmdk", "subvol")
_HEAD = re.compile(r"(\w+):\s*(\S+)\s*$")
_VOLUME = re.compile(r"(\d{3,9})/((?:vm|base|subvol|basevol)-(\d+)-[^/\s]+\.(raw|qcow2|vmdk|subvol))")
_SPARE_NAMES = 256


@dataclass(frozen=True)
class Storage:
    name: str
    type: str
    options: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return Path(self.options["path"])

    @property
    def content(self) -> list[str]:
        return self.options.get("content", "").split(",")

    @property
    def shared(self) -> bool:
        return self.options.get("shared", "0") == "1"

    @property
    def disabled(self) -> bool:
        return "disable" in self.options

    def on(self, node: str) -> bool:
        nodes = self.options.get("nodes", "")
        return not nodes or node in nodes.split(",")

    def active(self, at: Path = Path("/")) -> bool:
        """Whether its folder is there. at: where the node's root is for the caller."""
        return not self.disabled and within(at, self.folder).is_dir()


def within(at: Path, path: Path) -> Path:
    return at / path.relative_to("/")


def storages(etc: Path = ETC) -> dict[str, Storage]:
    found: dict[str, Storage] = {}
    name, kind, options = "", "", {}
    for line in [*(etc / "storage.cfg").read_text().splitlines(), ""]:
        head = _HEAD.match(line)
        if head:
            kind, name, options = head[1], head[2], {}
        elif line.strip() and name:
            key, _, value = line.strip().partition(" ")
            options[key] = value.strip()
        elif name:
            found[name] = Storage(name, kind, options)
            name = ""
    return found


def storage(name: str, node: str) -> Storage:
    """One that can be used here. Dies as Proxmox does when it cannot."""
    found = storages().get(name)
    if found is None:
        raise Died(f"storage '{name}' does not exist", 25)
    if not found.on(node):
        raise Died(f"storage '{name}' is not available on node '{node}'", 25)
    if found.disabled:
        raise Died(f"storage '{name}' is disabled", 25)
    if not found.folder.is_dir():
        raise Died(
            f"unable to activate storage '{name}' - directory is expected to be a mount point but is not mounted: "
            f"'{found.folder}'"
        )
    return found


def split_volid(volid: str) -> tuple[str, str]:
    name, colon, volume = volid.partition(":")
    if not colon:
        raise Died(f"unable to parse volume ID '{volid}'", 255)
    return name, volume


def volume_format(volume: str) -> str:
    return volume.rpartition(".")[2]


def path_of(volid: str, node: str) -> Path:
    """Where a volume is; it need not exist. An absolute path is itself."""
    if volid.startswith("/"):
        return Path(volid)
    name, volume = split_volid(volid)
    if not _VOLUME.fullmatch(volume):
        raise Died(f"unable to parse directory volume name '{volume}'")
    return storage(name, node).folder / "images" / volume


def alloc(name: str, vmid: int, volume: str, size: int, form: str, node: str) -> str:
    """Make an empty volume of `size` bytes; returns its id. volume: file name, empty for the next free one."""
    target = storage(name, node)
    if form not in FORMATS:
        raise Died(f"unknown image format '{form}'")
    if {"images", "rootdir"}.isdisjoint(target.content):
        raise Died(f"storage '{name}' does not support content-type 'images'")
    folder = target.folder / "images" / str(vmid)
    stem = "subvol" if form == "subvol" else "vm"
    if not volume:
        volume = next(
            spare for number in range(_SPARE_NAMES)
            if not any(folder.glob(f"*-{vmid}-disk-{number}.*")) and (spare := f"{stem}-{vmid}-disk-{number}.{form}")
        )  # fmt: skip
    match = _VOLUME.fullmatch(f"{vmid}/{volume}")
    if match is None:
        raise Died(f"unable to parse volume filename '{volume}'")
    if match[4] != form:
        raise Died(f"illegal name '{volume}' - wrong extension for format ('{match[4]} != '{form}')")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / volume
    if path.exists():
        raise Died(f"disk image '{path}' already exists")
    if form == "subvol":
        path.mkdir()
    else:
        make = subprocess.run(
            ["qemu-img", "create", "-q", "-f", form, str(path), str(size)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if make.returncode:
            path.unlink(missing_ok=True)
            raise Died(f"unable to create image: {make.stderr.strip()}")
    return f"{name}:{vmid}/{volume}"


def free(volid: str, node: str) -> None:
    path = path_of(volid, node)
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    else:
        raise Died(f"disk image '{path}' does not exist")
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


@dataclass(frozen=True)
class Volume:
    volid: str
    vmid: int
    format: str
    size: int
    used: int

    @property
    def content(self) -> str:
        return "rootdir" if self.format == "subvol" else "images"


def volumes(of: Storage, at: Path = Path("/")) -> Iterator[Volume]:
    base = within(at, of.folder) / "images"
    for path in sorted(base.glob("*/*")):
        match = _VOLUME.fullmatch(f"{path.parent.name}/{path.name}")
        if match:
            try:
                size, used = (0, 0) if path.is_dir() else _sizes(path, match[4])
            except FileNotFoundError:
                continue  # freed meanwhile
            yield Volume(f"{of.name}:{path.parent.name}/{path.name}", int(match[1]), match[4], size, used)


def image_size(path: Path, form: str) -> int:
    return _sizes(path, form)[0]


def _sizes(path: Path, form: str) -> tuple[int, int]:
    used = path.stat().st_blocks * 512
    if form == "raw":
        return path.stat().st_size, used
    done = subprocess.run(
        ["qemu-img", "info", "-U", "-f", form, "--output=json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return (int(json.loads(done.stdout)["virtual-size"]) if done.returncode == 0 else 0), used


def space(of: Storage, at: Path = Path("/")) -> tuple[int, int, int]:
    """(total, used, free) bytes."""
    usage = shutil.disk_usage(within(at, of.folder))
    return usage.total, usage.used, usage.free
