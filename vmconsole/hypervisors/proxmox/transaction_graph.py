"""What is done to a guest's block graph by QEMU's own commands, and how it is undone. Pure; see graph.py.

There are two variants. With `reserve`, one transaction begins a backup job without copying per disk
and so cuts all disks at once; a fleecing image that ran full would fail the guest's writes, so its
full size is set aside first. Without, a copy-before-write filter is put below each disk, which
breaks the snapshot rather than a write; the filters go in by one blockdev-reopen of all throttle
nodes, or one after the other while the guest is paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.graph import (
    GONE,
    GraphDisk,
    Plain,
    Shown,
    Step,
    add_node,
    attach_image,
    attach_plain,
    delete_node,
    remove_bitmap,
)

GRANULARITY = 65536


@dataclass(frozen=True, slots=True)
class Transaction:
    """QEMU's own commands. bitmap: the one that begins at this cut. reserve: see the module's text."""

    bitmap: str
    reserve: bool
    disks: Sequence[GraphDisk]
    plain: Sequence[Plain] = ()

    def prepare(self) -> list[Step]:
        """Before the cut, so that it is short. A bitmap that begins earlier only names more."""
        steps = [*(attach_image(disk.fleecing, disk) for disk in self.disks), *attach_plain(self.plain)]
        if self.reserve:
            return steps
        steps.append(_transaction([self._begin(disk) for disk in self.disks]))
        return steps + [
            add_node({
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
                "mark": [f"in-{disk.key}" for disk in throttled],
            })  # fmt: skip
        steps += [_point(disk, disk.node, disk.filter) | {"mark": f"in-{disk.key}"} for disk in others]
        steps += [_transaction(jobs)] if jobs else []
        if len(steps) > 1:
            steps = [{"pause": True}, *steps, {"resume": True}]
        # The old ones stop after the cut: they name more than changed before it, never less.
        stopped = [_stop(disk) for disk in self.disks if disk.base]
        return [*steps, *([_transaction(stopped)] if stopped else [])]

    def snapshots(self) -> list[Step]:
        return [
            add_node({
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
            steps.append(delete_node(disk.snapshot))
            if self.reserve or disk.by_job:
                steps.append({"cancel": disk.job})
                continue
            back = _point(disk, disk.filter, disk.node)
            if disk.throttle:
                options = [_throttle(disk, disk.node)]
                back = {"qmp": "blockdev-reopen", "arguments": {"options": options}}
            steps += [back | {"if": f"in-{disk.key}", "ignore": GONE}, delete_node(disk.filter)]
        steps += [delete_node(disk.fleecing) for disk in self.disks]
        return steps + [delete_node(disk.node) for disk in self.plain]

    def undo(self) -> list[Step]:
        """The old bitmaps go on, and get what the new ones recorded: all in one, or not at all."""
        steps = self.release()
        for disk in self.disks:
            if not disk.base:
                steps.append(remove_bitmap(disk.node, self.bitmap))
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
        return [*self.release(), *(remove_bitmap(node, name) for node, name in old)]

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


def _point(disk: GraphDisk, old: str, new: str) -> Step:
    return {"point": {"device": disk.device, "key": disk.key, "from": old, "node": new}}


def _action(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data}


def _transaction(actions: Sequence[dict[str, Any]]) -> Step:
    return {"qmp": "transaction", "arguments": {"actions": list(actions)}}
