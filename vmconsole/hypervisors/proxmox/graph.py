"""What is done to a guest's block graph for an export, and how it is undone: steps for guard.pl. Pure.

Two ways: Proxmox's own pair of commands (`Access`), and QEMU's own commands (`Transaction`), the
latter in two variants. With `reserve`, one transaction begins a backup job without copying per disk
and so cuts all disks at once; a fleecing image that ran full would fail the guest's writes, so its
full size is set aside first. Without, a copy-before-write filter is put below each disk, which
breaks the snapshot rather than a write; the filters go in by one blockdev-reopen of all throttle
nodes, or one after the other while the guest is paused.

Everything is done below the throttle nodes, so that a backup does not use up a guest's I/O limit.
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

GRANULARITY = 65536
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
        _add({
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
        marks = [_remove(disk.node, name) for disk in self.disks for name in disk.ours if name != self.bitmap]
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
            step = _fleecing(name, disk)
        else:
            path = disk.image.replace(",", ",,")
            options = f"file={path},if=none,id={name},format=raw,discard=unmap,size={disk.size}"
            step = _human(f'drive_add auto "{options}"') | {"expect": r"\A\s*OK"}
        return step | {"mark": f"fl-{disk.key}"}

    def _detach(self) -> list[Step]:
        steps = []
        for disk in self.disks:
            name = f"{disk.device}-fleecing"
            if self.blockdev:
                step = _delete(name)
            else:
                step = _human(f"drive_del {name}") | {"expect": r"\A\s*\z", "ignore": GONE}
            steps.append(step | {"if": f"fl-{disk.key}"})
        return [*steps, *(_delete(disk.node) for disk in self.plain)]


@dataclass(frozen=True, slots=True)
class Transaction:
    """QEMU's own commands. bitmap: the one that begins at this cut. reserve: see the module's text."""

    bitmap: str
    reserve: bool
    disks: Sequence[GraphDisk]
    plain: Sequence[Plain] = ()

    def prepare(self) -> list[Step]:
        """Before the cut, so that it is short. A bitmap that begins earlier only names more."""
        steps = [*(_fleecing(disk.fleecing, disk) for disk in self.disks), *attach_plain(self.plain)]
        if self.reserve:
            return steps
        steps.append(_transaction([self._begin(disk) for disk in self.disks]))
        return steps + [
            _add({
                "driver": "copy-before-write",
                "node-name": disk.filter,
                "file": disk.node,
                "target": disk.fleecing,
                "on-cbw-error": "break-snapshot",
                "cbw-timeout": 45,
                "discard": "unmap",
            })
            for disk in self._filtered()
        ]  # fmt: skip

    def cut(self) -> list[Step]:
        if self.reserve:
            return [_transaction(self._cut_all())]
        throttled = [disk for disk in self.disks if disk.throttle]
        others = [disk for disk in self._filtered() if not disk.throttle]
        jobs = [_backup(disk) for disk in self.disks if disk.by_job]
        steps: list[Step] = []
        if throttled:
            steps.append({
                "qmp": "blockdev-reopen",
                "arguments": {"options": [_throttle(disk, disk.filter) for disk in throttled]},
                "mark": "reopened",
            })  # fmt: skip
        steps += [_point(disk, disk.filter) | {"mark": f"in-{disk.key}"} for disk in others]
        steps += [_transaction(jobs)] if jobs else []
        if len(steps) > 1:
            steps = [{"pause": True}, *steps, {"resume": True}]
        # The old ones stop after the cut: they name more than changed before it, never less.
        stopped = [_stop(disk) for disk in self.disks if disk.base]
        return [*steps, *([_transaction(stopped)] if stopped else [])]

    def snapshots(self) -> list[Step]:
        return [
            _add({
                "driver": "snapshot-access",
                "node-name": disk.snapshot,
                "file": disk.filter,
                "read-only": True,
            })
            for disk in self.disks
        ]  # fmt: skip

    def shown(self) -> list[Shown]:
        return [Shown(disk.key, disk.snapshot, disk.node, disk.base) for disk in self.disks]

    def release(self) -> list[Step]:
        """Everything but the bitmaps. May be done again."""
        steps: list[Step] = [{"unserve": names.PREFIX}]
        for disk in self.disks:
            steps.append(_delete(disk.snapshot))
            if self.reserve or disk.by_job:
                steps.append({"cancel": disk.job})
                continue
            mark = "reopened" if disk.throttle else f"in-{disk.key}"
            back = _point(disk, disk.node)
            if disk.throttle:
                options = [_throttle(disk, disk.node)]
                back = {"qmp": "blockdev-reopen", "arguments": {"options": options}}
            steps += [back | {"if": mark, "ignore": GONE}, _delete(disk.filter)]
        steps += [_delete(disk.fleecing) for disk in self.disks]
        return steps + [_delete(disk.node) for disk in self.plain]

    def undo(self) -> list[Step]:
        """The old bitmaps go on, and get what the new ones recorded: all in one, or not at all."""
        steps = self.release()
        for disk in self.disks:
            if not disk.base:
                steps.append(_remove(disk.node, self.bitmap))
                continue
            merge = {"node": disk.node, "target": disk.base, "bitmaps": [self.bitmap]}
            actions = [
                _action("block-dirty-bitmap-enable", node=disk.node, name=disk.base),
                {"type": "block-dirty-bitmap-merge", "data": merge},
                _action("block-dirty-bitmap-remove", node=disk.node, name=self.bitmap),
            ]
            steps.append(_transaction(actions) | {"ignore": GONE})
        return steps

    def commit(self) -> list[Step]:
        old = [(disk.node, name) for disk in self.disks for name in disk.ours if name != self.bitmap]
        return [*self.release(), *(_remove(node, name) for node, name in old)]

    def _filtered(self) -> list[GraphDisk]:
        return [disk for disk in self.disks if not disk.by_job]

    def _begin(self, disk: GraphDisk) -> dict[str, Any]:
        return _action("block-dirty-bitmap-add", node=disk.node, name=self.bitmap, granularity=GRANULARITY)

    def _cut_all(self) -> list[dict[str, Any]]:
        actions = []
        for disk in self.disks:
            actions += [self._begin(disk), *([_stop(disk)] if disk.base else []), _backup(disk)]
        return actions


def _backup(disk: GraphDisk) -> dict[str, Any]:
    """A job that only saves what the guest overwrites. It lasts until it is cancelled."""
    return {
        "type": "blockdev-backup",
        "data": {
            "job-id": disk.job,
            "device": disk.node,
            "target": disk.fleecing,
            "sync": "none",
            "auto-dismiss": False,
            "filter-node-name": disk.filter,
        },
    }


def _stop(disk: GraphDisk) -> dict[str, Any]:
    return _action("block-dirty-bitmap-disable", node=disk.node, name=disk.base)


def _fleecing(name: str, disk: GraphDisk) -> Step:
    return _add({
        "driver": "raw",
        "node-name": name,
        "size": disk.size,
        "discard": "unmap",
        "read-only": False,
        "file": {**storage_node(disk.image), "discard": "unmap"},
    })  # fmt: skip


def _throttle(disk: GraphDisk, below: str) -> dict[str, Any]:
    """Every option of the node: what is not repeated falls back to its default."""
    return {
        "driver": "throttle",
        "node-name": disk.throttle,
        "throttle-group": f"throttle-{disk.device}",
        "file": below,
        "detect-zeroes": disk.zeroes,
        "discard": "unmap" if disk.discard else "ignore",
        "read-only": False,
    }


def _point(disk: GraphDisk, node: str) -> Step:
    path = f"/machine/peripheral/{disk.key}"
    arguments = {"path": path, "property": "drive", "value": node}
    return {"qmp": "qom-set", "arguments": arguments}


def _add(options: dict[str, Any]) -> Step:
    return {"qmp": "blockdev-add", "arguments": options}


def _delete(node: str) -> Step:
    return {"qmp": "blockdev-del", "arguments": {"node-name": node}, "ignore": GONE}


def _remove(node: str, bitmap: str) -> Step:
    arguments = {"node": node, "name": bitmap}
    return {"qmp": "block-dirty-bitmap-remove", "arguments": arguments, "ignore": GONE}


def _action(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data}


def _transaction(actions: Sequence[dict[str, Any]]) -> Step:
    return {"qmp": "transaction", "arguments": {"actions": list(actions)}}


def _human(line: str) -> Step:
    return {"qmp": "human-monitor-command", "arguments": {"command-line": line}}
