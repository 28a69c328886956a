"""QEMU's monitor (QMP) of one running machine: what is asked about it, and how its socket answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmconsole.demo.backup_job import CutRecord
from vmconsole.demo.guests import GuestDisk
from vmconsole.demo.pve.access import COARSE, Access, QmpRefused, coarse_bytes
from vmconsole.demo.pve.contents import MACHINE
from vmconsole.demo.pve.machines import Vm

if TYPE_CHECKING:
    from vmconsole.demo.pve.cluster import Node

_MAX_REQUEST = 1 << 20
_SUPPORT = {
    "backup-access-api": True,
    "backup-fleecing": True,
    "backup-max-workers": True,
    "pbs-dirty-bitmap": True,
    "pbs-library-version": "demo",
    "query-bitmap-info": True,
}
_Command = Callable[[Mapping[str, Any]], Any]


class Monitor:
    """Thread-safe. Of the commands, those that a backup asks for."""

    def __init__(
        self,
        vm: Vm,
        node: Node,
        witnesses: Path,
        hashing: ThreadPoolExecutor,
        record: Callable[[list[CutRecord]], None],
    ) -> None:
        self.vm = vm
        self.access = Access(vm, node, witnesses, hashing, record)
        self._lock = threading.RLock()
        self._commands: dict[str, _Command] = {
            "qmp_capabilities": lambda _: {},
            "query-backup": lambda _: {},
            "query-block": lambda _: [self._block(item) for item in vm.guest.disks],
            "query-blockstats": lambda _: [self._statistics(item) for item in vm.guest.disks],
            "query-block-exports": lambda _: self.access.exports_told(),
            "query-block-jobs": lambda _: [],
            "query-iothreads": lambda _: self._iothreads(),
            "query-jobs": lambda _: [],
            "query-machines": lambda _: [{"name": MACHINE, "is-current": True}],
            "query-migrate": lambda _: {},
            "query-named-block-nodes": lambda _: self._nodes(),
            "query-proxmox-support": lambda _: _SUPPORT,
            "query-status": lambda _: self._status(),
            "query-version": lambda _: _version(),
            "qom-get": self._qom_get,
            "stop": lambda _: self._pause(paused=True),
            "cont": lambda _: self._pause(paused=False),
            "block-dirty-bitmap-add": self._add_bitmap,
            "block-dirty-bitmap-remove": self._remove_bitmap,
            **self.access.commands(),
        }

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, asked: str = "") -> Any:
        """asked: the run on whose behalf, for the record of cuts. Raises QmpRefused."""
        run = self._commands.get(command)
        if run is None:
            raise QmpRefused(f"The command {command} has not been found", "CommandNotFound")
        with self._lock:
            self.access.asked = asked
            try:
                return run(arguments or {})
            except (KeyError, TypeError, AttributeError) as error:
                raise QmpRefused(f"Parameter {error} is missing") from error

    def close(self) -> None:
        with self._lock:
            self.access.end(success=False)

    # --- what there is ---

    def _status(self) -> dict[str, Any]:
        paused = self.vm.guest.paused
        return {"status": "paused" if paused else "running", "running": not paused}

    def _pause(self, *, paused: bool) -> dict[str, Any]:
        self.vm.guest.paused = paused
        return {}

    def _qom_get(self, arguments: Mapping[str, Any]) -> Any:
        if (arguments["path"], arguments["property"]) == ("/machine", "type"):
            return f"{MACHINE}-machine"
        raise QmpRefused(f"Property '{arguments['property']}' not found")

    def _iothreads(self) -> list[dict[str, Any]]:
        keys = [item.target for item in self.vm.guest.disks]
        threaded = [key for key in keys if "iothread=1" in self.vm.conf.values[key]]
        names = [f"iothread-virtio{key}" if key.startswith("scsi") else f"iothread-{key}" for key in threaded]
        return [{"id": name, "thread-id": 5000 + number} for number, name in enumerate(names)]

    def _block(self, item: GuestDisk) -> dict[str, Any]:
        qdev = item.target
        if qdev.startswith("virtio"):
            qdev = f"/machine/peripheral/{qdev}/virtio-backend"
        top = self._node(f"drive-{item.target}", "throttle", item)
        children = [{"child": "file", "node-name": below(self.vm, item)}]
        return {"device": "", "qdev": qdev, "type": "unknown", "inserted": {**top, "children": children}}

    def _statistics(self, item: GuestDisk) -> dict[str, Any]:
        stats = {
            "wr_operations": item.disk.writes,
            "wr_bytes": item.disk.bytes_written,
            "wr_total_time_ns": round(item.disk.write_seconds * 1e9),
            "flush_operations": 0,
            "flush_total_time_ns": 0,
        }
        return {"device": "", "qdev": item.target, "node-name": f"drive-{item.target}", "stats": stats}

    def _nodes(self) -> list[dict[str, Any]]:
        nodes = []
        for item in self.vm.guest.disks:
            name = below(self.vm, item)
            found = self._node(name, item.disk.format, item)
            if bitmaps := self._bitmaps(item):
                found["dirty-bitmaps"] = bitmaps
            nodes += [
                self._node(f"drive-{item.target}", "throttle", item),
                found,
                self._node(f"e{name[1:]}", "file", item),
            ]
        return nodes + self.access.nodes_told()

    def _node(self, name: str, driver: str, item: GuestDisk) -> dict[str, Any]:
        image = {
            "filename": str(item.disk.path),
            "format": item.disk.format,
            "virtual-size": item.disk.size,
            "actual-size": item.disk.allocated_bytes,
        }
        told = {"node-name": name, "drv": driver, "ro": False, "detect_zeroes": "on"}
        return {**told, "file": str(item.disk.path), "image": image}

    def _bitmaps(self, item: GuestDisk) -> list[dict[str, Any]]:
        with item.disk.lock:
            flags = {name: bytes(bitmap) for name, bitmap in item.disk.bitmaps.items()}
        recording = set(flags)
        flags |= {name: bits for (key, name), bits in self.vm.still.items() if key == item.target}
        return [
            {
                "name": name,
                "recording": name in recording,
                "busy": self.access.uses(item.target, name),
                "persistent": False,
                "count": coarse_bytes(bits, item.disk.size),
                "granularity": COARSE,
            }
            for name, bits in flags.items()
        ]

    # --- bitmaps of ours ---

    def _item(self, node: str) -> GuestDisk:
        for item in self.vm.guest.disks:
            if node in (below(self.vm, item), f"drive-{item.target}"):
                return item
        raise QmpRefused(f"Cannot find device='' nor node-name='{node}'")

    def _add_bitmap(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        item, name = self._item(arguments["node"]), str(arguments["name"])
        with item.disk.lock:
            if name in item.disk.bitmaps or (item.target, name) in self.vm.still:
                raise QmpRefused(f"Bitmap already exists: {name}")
            if arguments.get("disabled"):
                self.vm.still[item.target, name] = bytes(len(item.disk.allocated))
            else:
                item.disk.bitmaps[name] = bytearray(len(item.disk.allocated))
        return {}

    def _remove_bitmap(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        item, name = self._item(arguments["node"]), str(arguments["name"])
        if self.access.uses(item.target, name):
            raise QmpRefused(f"Bitmap '{name}' is currently in use by another operation and cannot be used")
        with item.disk.lock:
            recording = item.disk.bitmaps.pop(name, None)
        still = self.vm.still.pop((item.target, name), None)
        if recording is None and still is None:
            raise QmpRefused(f"Dirty bitmap '{name}' not found")
        return {}


class MonitorSocket:
    """The monitor's unix socket: one client after the other, as with QEMU."""

    def __init__(self, monitor: Monitor, path: Path) -> None:
        self._monitor = monitor
        self._path = path
        self._client: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        name = f"demo-qmp-{monitor.vm.vmid}"
        self._thread = threading.Thread(target=self._accept, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # A thread in accept() or recv() is woken by shutdown, not by close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                self._client, _ = self._listener.accept()
            except OSError:
                return
            with self._client as client, contextlib.suppress(OSError, ValueError):
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        _send(client, {"QMP": {"version": _version(), "capabilities": []}})
        negotiated, received = False, b""
        while data := client.recv(65536):
            *lines, received = (received + data).split(b"\n")
            if len(received) > _MAX_REQUEST:
                return
            for line in filter(None, map(bytes.strip, lines)):
                request = json.loads(line)
                answer = self._answer(request, negotiated)
                negotiated = negotiated or request.get("execute") == "qmp_capabilities"
                _send(client, {**answer, **({"id": request["id"]} if "id" in request else {})})

    def _answer(self, request: Mapping[str, Any], negotiated: bool) -> dict[str, Any]:
        command = str(request.get("execute", ""))
        try:
            if not negotiated and command != "qmp_capabilities":
                raise QmpRefused(
                    "Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"
                )
            return {"return": self._monitor.execute(command, request.get("arguments"))}
        except QmpRefused as error:
            return {"error": {"class": error.kind, "desc": str(error)}}


def below(vm: Vm, item: GuestDisk) -> str:
    """Name of a disk's own node, made up as Proxmox does."""
    told = f"drive={item.target},volid={vm.volume(item)}"
    return "f" + hashlib.sha256(told.encode()).hexdigest()[:30]


def _version() -> dict[str, Any]:
    return {"qemu": {"major": 10, "minor": 1, "micro": 2}, "package": "pve-qemu-kvm_10.1.2-1"}


def _send(client: socket.socket, document: Mapping[str, Any]) -> None:
    client.sendall(json.dumps(document).encode() + b"\r\n")
