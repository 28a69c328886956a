"""What is done to a guest's block graph for an export, and how it is undone: steps for guard.pl. Pure.

Here are what both ways share and Proxmox's own pair of commands (`Access`); QEMU's own commands are in
transaction_graph.py. Everything is done below the throttle nodes, so that a backup does not use up a guest's I/O limit.
Node names have at most 31 characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vmconsole.hypervisors.proxmox import names

Step = dict[str, Any]
"""One step of guard.pl, as JSON; see guard.py."""

_MARK_GRANULARITY = 64 << 20
"""A mark records nothing, so it may be as coarse, and as small in memory, as can be."""
_SETUP_SECONDS = 60

GONE = "(?i)not found|cannot find|failed to find|no such"
"""QEMU's words for a node, device or bitmap that is not, or no longer, there."""
_NO_ACCESS = "cannot teardown backup access|CommandNotFound"


@dataclass(frozen=True, slots=True)
class GraphDisk:
    """A disk as the graph sees it. Names as in PveDisk; size in bytes.

    image: path of its fleecing image. base: bitmap to read, empty for a full read. ours: all bitmaps
    on the node that are this repository's. discard: the option of the throttle node, which has to
    be repeated when it is reopened; zeroes (detect-zeroes): likewise.
    """

    key: str
    device: str
    node: str
    size: int
    image: str = ""
    throttle: str = ""
    base: str = ""
    ours: tuple[str, ...] = ()
    discard: bool = False
    zeroes: str = "off"

    @property
    def fleecing(self) -> str:
        return f"vmc-fl-{self.key}"

    @property
    def filter(self) -> str:
        return f"vmc-cbw-{self.key}"

    @property
    def snapshot(self) -> str:
        return f"vmc-snap-{self.key}"

    @property
    def job(self) -> str:
        return f"vmc-job-{self.key}"

    @property
    def by_job(self) -> bool:
        """Firmware variables in the old layout have no device whose drive could be replaced."""
        return not self.throttle and self.key.startswith("efidisk")


@dataclass(frozen=True, slots=True)
class Plain:
    """A volume QEMU has not open, such as the TPM's state: attached read-only and exported as it is."""

    key: str
    path: str
    format: str

    @property
    def node(self) -> str:
        return f"vmc-{self.key}"


@dataclass(frozen=True, slots=True)
class Shown:
    """One NBD export. node: what is read. bitmap_node, bitmap: offered as a context; may be empty."""

    key: str
    node: str
    bitmap_node: str = ""
    bitmap: str = ""


def storage_node(path: str) -> dict[str, Any]:
    """Options of the protocol node of a volume. path: as `pvesm path` says it. Raises ValueError."""
    if path.startswith("/dev/"):
        return {"driver": "host_device", "filename": path}
    if path.startswith("/"):
        return {"driver": "file", "filename": path}
    match = re.fullmatch(r"rbd:([^/:]+)/([^:]+)((?::[^:]+)*)", path)
    if not match:
        raise ValueError(path)
    options = dict(part.split("=", 1) for part in match[3].split(":") if "=" in part)
    node = {"driver": "rbd", "pool": match[1], "image": match[2]}
    return node | {to: options[name] for name, to in (("conf", "conf"), ("id", "user")) if name in options}


def attach_plain(disks: Iterable[Plain]) -> list[Step]:
    return [
        add_node({
            "driver": disk.format,
            "node-name": disk.node,
            "read-only": True,
            "file": {**storage_node(disk.path), "locking": "off"},
        })
        for disk in disks
    ]  # fmt: skip


def serve(socket: str, shown: Iterable[Shown]) -> list[Step]:
    """Start the NBD server and export. Read-only, so that several connections may share an export."""
    exports = []
    for item in shown:
        arguments: dict[str, Any] = {
            "type": "nbd",
            "id": f"vmc-exp-{item.key}",
            "name": item.key,
            "node-name": item.node,
            "writable": False,
        }
        if item.bitmap:
            arguments["bitmaps"] = [{"node": item.bitmap_node, "name": item.bitmap}]
        exports.append({"qmp": "block-export-add", "arguments": arguments})
    return [{"serve": socket}, *exports]


@dataclass(frozen=True, slots=True)
class Access:
    """Proxmox's pair. target: its id. bitmap: the mark's name, see proof.py. blockdev: the layout."""

    target: str
    bitmap: str
    blockdev: bool
    disks: Sequence[GraphDisk]
    plain: Sequence[Plain] = ()

    def prepare(self) -> list[Step]:
        return [*(self._attach(disk) for disk in self.disks), *attach_plain(self.plain)]

    def cut(self) -> list[Step]:
        devices = [
            {"device": disk.device, "bitmap-mode": "use" if disk.base else "new"} for disk in self.disks
        ]
        return [
            {
                "qmp": "backup-access-setup",
                "arguments": {"target-id": self.target, "devices": devices},
                "limit": _SETUP_SECONDS,
                "mark": "access",
                "keep": "setup",
            }
        ]

    def undo(self) -> list[Step]:
        return [{"unserve": names.PREFIX}, self._teardown(success=False), *self._detach()]

    def commit(self) -> list[Step]:
        """The mark of the last point goes first: without it, a bitmap that begins anew proves nothing."""
        marks = [
            remove_bitmap(disk.node, name) for disk in self.disks for name in disk.ours if name != self.bitmap
        ]
        new = [
            {
                "qmp": "block-dirty-bitmap-add",
                "arguments": {
                    "node": disk.node,
                    "name": self.bitmap,
                    "granularity": _MARK_GRANULARITY,
                    "disabled": True,
                },
                "ignore": "already exists",
            }
            for disk in self.disks
        ]
        teardown = self._teardown(success=True)
        return [{"unserve": names.PREFIX}, *marks, teardown, *new, *self._detach()]

    def _teardown(self, *, success: bool) -> Step:
        return {
            "qmp": "backup-access-teardown",
            "arguments": {"target-id": self.target, "success": success},
            "limit": _SETUP_SECONDS,
            "if": "access",
            "ignore": _NO_ACCESS,
        }

    def _attach(self, disk: GraphDisk) -> Step:
        """Under the name that Proxmox's command looks for."""
        name = f"{disk.device}-fleecing"
        if self.blockdev:
            step = attach_image(name, disk)
        else:
            # Commas part options, and quotes end the monitor's argument.
            path = disk.image.replace(",", ",,").replace("\\", "\\\\").replace('"', '\\"')
            options = f"file={path},if=none,id={name},format=raw,discard=unmap,size={disk.size}"
            step = human(f'drive_add auto "{options}"') | {"expect": r"\A\s*OK"}
        return step | {"mark": f"fl-{disk.key}"}

    def _detach(self) -> list[Step]:
        steps = []
        for disk in self.disks:
            name = f"{disk.device}-fleecing"
            if self.blockdev:
                step = delete_node(name)
            else:
                step = human(f"drive_del {name}") | {"expect": r"\A\s*\z", "ignore": GONE}
            steps.append(step | {"if": f"fl-{disk.key}"})
        return [*steps, *(delete_node(disk.node) for disk in self.plain)]


def attach_image(name: str, disk: GraphDisk) -> Step:
    return add_node({
        "driver": "raw",
        "node-name": name,
        "size": disk.size,
        "discard": "unmap",
        "read-only": False,
        "file": {**storage_node(disk.image), "discard": "unmap"},
    })  # fmt: skip


def add_node(options: dict[str, Any]) -> Step:
    return {"qmp": "blockdev-add", "arguments": options}


def delete_node(node: str) -> Step:
    return {"qmp": "blockdev-del", "arguments": {"node-name": node}, "ignore": GONE}


def remove_bitmap(node: str, bitmap: str) -> Step:
    arguments = {"node": node, "name": bitmap}
    return {"qmp": "block-dirty-bitmap-remove", "arguments": arguments, "ignore": GONE}


def human(line: str) -> Step:
    return {"qmp": "human-monitor-command", "arguments": {"command-line": line}}
