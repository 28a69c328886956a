"""Proxmox's backup access, and QEMU's NBD server: what a running machine does for a backup.

As with Proxmox's own: bitmaps have a granularity of 4 MiB and the name of the target; while a backup
reads, a second bitmap records; where a bitmap is used, only what it calls dirty can be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from vmconsole.demo.backup_job import CutRecord, granule_map
from vmconsole.demo.disk import GRANULE, Snapshot, cut, granules
from vmconsole.demo.guests import GuestDisk
from vmconsole.demo.pve.machines import Vm
from vmconsole.disks.nbd.protocol import BASE_ALLOCATION, DIRTY_BITMAP, STATE_DIRTY, STATE_HOLE, STATE_ZERO
from vmconsole.disks.nbd.server import NbdServer
from vmconsole.disks.nbd.source import ExportSource, MappedSource
from vmconsole.errors import VmconsoleError

if TYPE_CHECKING:
    from vmconsole.demo.pve.cluster import Node

COARSE = 4 << 20
_PER_COARSE = COARSE // GRANULE
_BACKGROUND = "backup-access-background-bitmap"


class QmpRefused(Exception):
    """QEMU refuses a command. kind: the error's class."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class _Fleecing:
    """A node that takes what the guest overwrites. path: its image."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class _Device:
    """A disk while it is read. base: what its bitmap called dirty at the cut, empty for none."""

    item: GuestDisk
    snapshot: Snapshot
    node: str
    base: bytes
    action: str


class Access:
    """Not thread-safe. asked: the run on whose behalf the next command comes."""

    def __init__(
        self,
        vm: Vm,
        node: Node,
        witnesses: Path,
        hashing: ThreadPoolExecutor,
        record: Callable[[list[CutRecord]], None],
    ) -> None:
        self.asked = ""
        self._vm = vm
        self._node = node
        self._witnesses = witnesses
        self._hashing = hashing
        self._record = record
        self._fleecing: dict[str, _Fleecing] = {}
        self._target = ""
        self._devices: dict[str, _Device] = {}
        self._server: NbdServer | None = None
        self._exports: dict[str, tuple[str, str]] = {}
        self._sources: dict[str, ExportSource] = {}
        self._working: tuple[Event, Thread] | None = None

    def commands(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "backup-access-setup": self._set_up,
            "backup-access-teardown": self._tear_down,
            "block-export-add": self._add_export,
            "block-export-del": self._delete_export,
            "blockdev-add": self._add_node,
            "blockdev-del": self._delete_node,
            "nbd-server-start": self._start_server,
            "nbd-server-stop": self._stop_server,
        }

    def uses(self, key: str, bitmap: str) -> bool:
        """The bitmap of a disk is held by a backup."""
        return key in self._devices and bitmap in (self._target, _BACKGROUND)

    def nodes_told(self) -> list[dict[str, Any]]:
        nodes = [
            _told(item.name, "raw", item.path, item.size, read_only=False) for item in self._fleecing.values()
        ]
        for device in self._devices.values():
            disk = device.item.disk
            nodes.append(_told(f"cbw-{device.item.target}", "copy-before-write", disk.path, disk.size))
            nodes.append(_told(device.node, "snapshot-access", disk.path, device.snapshot.size))
        return nodes

    def exports_told(self) -> list[dict[str, Any]]:
        return [
            {"id": name, "type": "nbd", "node-name": node, "shutting-down": False}
            for name, (_, node) in self._exports.items()
        ]

    def end(self, *, success: bool) -> None:
        """Drop whoever reads, end the backup if there is one."""
        self._stop_server({})
        if self._target:
            self._finish(success=success)
        self._fleecing.clear()

    # --- images for what the guest overwrites ---

    def _add_node(self, options: Mapping[str, Any]) -> dict[str, Any]:
        name = str(options["node-name"])
        if name in self._fleecing:
            raise QmpRefused(f"Duplicate nodes with node-name='{name}'")
        path = self._node.path(str(options["file"]["filename"]))
        if not path.exists():
            raise QmpRefused(f"Could not open '{path}': No such file or directory")
        size = int(options.get("size", path.stat().st_size))
        if path.stat().st_size < size:
            raise QmpRefused("The sum of offset and size has to be smaller or equal to the actual size")
        self._fleecing[name] = _Fleecing(name, path, size)
        return {}

    def _delete_node(self, options: Mapping[str, Any]) -> dict[str, Any]:
        name = str(options["node-name"])
        if name not in self._fleecing:
            raise QmpRefused(f"Failed to find node with node-name='{name}'")
        if any(f"drive-{key}-fleecing" == name for key in self._devices):
            raise QmpRefused(f"Node '{name}' is busy: node is used as 'target'")
        del self._fleecing[name]
        return {}

    # --- the cut and its end ---

    def _set_up(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        target = str(arguments["target-id"])
        if self._target:
            raise QmpRefused(f"previous backup for target '{self._target}' not finished")
        wanted = [self._wanted(item) for item in arguments["devices"]]
        bases, actions = [], []
        for item, mode, _ in wanted:
            there = target in item.disk.bitmaps
            bases.append(target if there and mode == "use" else "")
            actions.append("used" if bases[-1] else "new" if mode == "new" else "missing-recreated")
        now = time.time()
        made = cut(
            [
                (item.disk, base, fleecing.path)
                for (item, _, fleecing), base in zip(wanted, bases, strict=True)
            ],
            self._witnesses,
            new_bitmap=_BACKGROUND,
            tracked=[item.disk for item, _, _ in wanted],
        )
        self._target = target
        cuts = []
        for (item, _, _), base, action, (snapshot, witness) in zip(wanted, bases, actions, made, strict=True):
            dirty = coarse(snapshot.dirty) if base else b"\x01" * granules(snapshot.size)
            with item.disk.lock:
                item.disk.bitmaps.pop(target, None)
            self._vm.still[item.target, target] = dirty
            self._devices[item.target] = _Device(item, snapshot, f"psn-{item.target}", dirty, action)
            digest = self._hashing.submit(witness.sha256)
            cuts.append(CutRecord(self._vm.guest.uuid, item.target, target, self.asked, now, digest))
        self._record(cuts)
        self._begin_work()
        return [self._described(device) for device in self._devices.values()]

    def _wanted(self, device: Mapping[str, Any]) -> tuple[GuestDisk, str, _Fleecing]:
        name = str(device["device"])
        item = self._vm.guest.disk(name.removeprefix("drive-"))
        if item is None:
            raise QmpRefused(f"Device '{name}' not found", "DeviceNotFound")
        fleecing = self._fleecing.get(f"{name}-fleecing")
        if fleecing is None:
            raise QmpRefused(f"Device '{name}-fleecing' not found", "DeviceNotFound")
        if fleecing.size != item.disk.size:
            raise QmpRefused(f"Size mismatch for '{name}-fleecing' - sector count differs")
        return item, str(device.get("bitmap-mode", "none")), fleecing

    def _described(self, device: _Device) -> dict[str, Any]:
        from vmconsole.demo.pve.monitor import below

        return {
            "device": f"drive-{device.item.target}",
            "node-name": device.node,
            "size": device.snapshot.size,
            "bitmap-node-name": below(self._vm, device.item),
            "bitmap-name": self._target,
            "bitmap-action": device.action,
        }

    def _tear_down(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        target = str(arguments["target-id"])
        if self._target and target != self._target:
            raise QmpRefused(f"cannot teardown backup access - got target {target} instead of {self._target}")
        if self._target:
            self._finish(success=bool(arguments["success"]))
        return {}

    def _finish(self, *, success: bool) -> None:
        """Done: what the guest wrote meanwhile is dirty. Failed: that, and what was dirty before."""
        self._end_work()
        for key, device in self._devices.items():
            device.snapshot.close()
            before = self._vm.still.pop((key, self._target), b"")
            disk = device.item.disk
            with disk.lock:
                meanwhile = disk.bitmaps.pop(_BACKGROUND, None)
                if meanwhile is None:
                    continue
                if not success:
                    for first in (at for at, bit in enumerate(before) if bit):
                        meanwhile[first] = 1
                disk.bitmaps[self._target] = meanwhile
        self._devices.clear()
        self._target = ""

    # --- the NBD server ---

    def _start_server(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self._server is not None:
            raise QmpRefused("NBD server already running")
        wanted = str(arguments["addr"]["data"]["path"])
        path = self._node.path(wanted)
        server = NbdServer(self._sources)
        try:
            server.listen_unix(path)
        except VmconsoleError as error:
            server.close()
            raise QmpRefused(f"Failed to bind socket to {wanted}: {error.message}") from error
        self._server = server
        return {}

    def _stop_server(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self._exports.clear()
        self._sources.clear()
        if self._server is not None:
            self._server.close()
        self._server = None
        return {}

    def _add_export(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self._server is None:
            raise QmpRefused("NBD server not running")
        identity, node = str(arguments["id"]), str(arguments["node-name"])
        device = next((item for item in self._devices.values() if item.node == node), None)
        if device is None:
            raise QmpRefused(f"Cannot find device='' nor node-name='{node}'")
        if identity in self._exports:
            raise QmpRefused(f"Block export id '{identity}' is already in use")
        name = str(arguments.get("name", node))
        bitmaps = [str(item["name"]) for item in arguments.get("bitmaps", ())]
        self._sources[name] = _source(device, bitmaps)
        self._exports[identity] = name, node
        return {}

    def _delete_export(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        identity = str(arguments["id"])
        if identity not in self._exports:
            raise QmpRefused(f"Export '{identity}' is not found")
        name, _ = self._exports.pop(identity)
        self._sources.pop(name, None)
        return {}

    # --- the guest goes on working ---

    def _begin_work(self) -> None:
        workload = self._vm.guest.workload
        if workload is not None:
            end = Event()
            thread = Thread(target=workload, args=(end,), name="demo-pve-guest", daemon=True)
            thread.start()
            self._working = end, thread

    def _end_work(self) -> None:
        if self._working is not None:
            end, thread = self._working
            end.set()
            # A frozen guest cannot finish what it began.
            self._vm.guest.thaw()
            thread.join()
        self._working = None


def _source(device: _Device, bitmaps: list[str]) -> MappedSource:
    snapshot = device.snapshot
    maps = {BASE_ALLOCATION: granule_map(snapshot.allocated, snapshot.size, 0, STATE_HOLE | STATE_ZERO)}
    for name in bitmaps:
        maps[f"{DIRTY_BITMAP}{name}"] = granule_map(device.base, snapshot.size, STATE_DIRTY, 0)

    def read(offset: int, length: int) -> bytes:
        if 0 in device.base[offset // GRANULE : -(-(offset + length) // GRANULE)]:
            raise OSError("only what the bitmap calls dirty can be read")
        return snapshot.read_at(offset, length)

    return MappedSource(snapshot.size, read, maps)


def coarse(flags: bytes) -> bytes:
    """Dirty granules at 4 MiB: a granule is dirty when one of its neighbours is."""
    out = bytearray(len(flags))
    for start in range(0, len(flags), _PER_COARSE):
        part = flags[start : start + _PER_COARSE]
        if 1 in part:
            out[start : start + len(part)] = b"\x01" * len(part)
    return bytes(out)


def coarse_bytes(flags: bytes, size: int) -> int:
    """How much a bitmap of 4 MiB granularity calls dirty."""
    dirty = range(0, len(flags), _PER_COARSE)
    return min(size, sum(COARSE for start in dirty if 1 in flags[start : start + _PER_COARSE]))


def _told(name: str, driver: str, path: Path, size: int, *, read_only: bool = True) -> dict[str, Any]:
    image = {"filename": str(path), "format": "raw", "virtual-size": size, "actual-size": 0}
    return {
        "node-name": name,
        "drv": driver,
        "ro": read_only,
        "detect_zeroes": "off",
        "file": str(path),
        "image": image,
    }
