"""Stands before QEMU's monitor and adds what Proxmox's patches add: python proxy.py SOCKET QEMUS-SOCKET [backup-access]

As with QEMU, one client is served at a time; the next two may connect and wait, the fourth is refused.
Added are query-proxmox-support, query-backup, query-pbs-bitmap-info and, when asked for,
backup-access-setup and backup-access-teardown. They do with QEMU's own commands what Proxmox's do in
C: copy-before-write filters that break the snapshot before a guest's write would fail, bitmaps of
4 MiB granularity named after the target, a second bitmap that records meanwhile. As with Proxmox's,
only what the bitmap calls dirty can be read when a bitmap is used. Unlike theirs, the disks of a
running guest are cut while it is paused. A firmware disk that is no throttle's child is copied by a
backup job instead.
Says "up" once it listens; ends when QEMU does.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

BACKGROUND = "backup-access-background-bitmap"
GRANULARITY = 4 << 20
_WRITE_AT_ONCE = 1 << 30


class Refused(Exception):
    """An error answer. document: what is sent under "error"."""

    def __init__(self, description: str, kind: str = "GenericError") -> None:
        super().__init__(description)
        self.document = {"class": kind, "desc": description}


class Upstream:
    """QEMU's own monitor. Thread-safe for one caller; events go to `events`."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("r", encoding="utf-8")
        self.greeting = json.loads(self._file.readline())
        self.events: queue.Queue[str] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.run("qmp_capabilities")

    def _listen(self) -> None:
        for line in self._file:
            message = json.loads(line)
            if "event" in message:
                self.events.put(line)
            else:
                self._answers.put(message)
        os._exit(0)

    def ask(self, command: str, arguments: Any = None) -> dict[str, Any]:
        """The whole answer."""
        request = {"execute": command, "id": "proxy"}
        if arguments is not None:
            request["arguments"] = arguments
        self._socket.sendall(json.dumps(request).encode())
        answer = self._answers.get()
        assert answer is not None
        return answer

    def run(self, command: str, **arguments: Any) -> Any:
        """What the command returns. Underscores in names become hyphens. Raises Refused."""
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        answer = self.ask(command, given or None)
        if "error" in answer:
            raise Refused(answer["error"]["desc"], answer["error"]["class"])
        return answer["return"]


class Device:
    """One disk of a backup access. mode: what was asked for its bitmap."""

    def __init__(
        self, name: str, node: str, block: dict[str, Any], fleecing: str, size: int, mode: str
    ) -> None:
        self.name = name
        self.node = node
        self.block = block
        self.fleecing = fleecing
        self.size = size
        self.mode = mode
        self.action = "not-used"
        self.bitmap = False
        self.throttle: dict[str, Any] | None = None
        self.job = False
        self.disabled = False

    @property
    def cbw(self) -> str:
        return f"pbw-{self.name}"[:31]

    @property
    def snapshot(self) -> str:
        return f"psn-{self.name}"[:31]


class Proxmox:
    """The added commands. qemu: QEMU's own monitor."""

    def __init__(self, qemu: Upstream, *, access: bool) -> None:
        self._qemu = qemu
        self._access = access
        self._target: str | None = None
        self._devices: list[Device] = []
        self._info: list[dict[str, Any]] = []

        self.commands: dict[str, Callable[..., Any]] = {
            "query-proxmox-support": self._support,
            "query-backup": dict,
            "query-pbs-bitmap-info": lambda: self._info,
        }
        if access:
            self.commands["backup-access-setup"] = self._setup
            self.commands["backup-access-teardown"] = self._teardown

    def _support(self) -> dict[str, Any]:
        answer = {"pbs-dirty-bitmap": True, "query-bitmap-info": True, "pbs-library-version": "rig"}
        answer |= {"backup-max-workers": True, "backup-fleecing": True}
        if self._access:
            answer["backup-access-api"] = True
        return answer

    # --- set up ---

    def _setup(self, target_id: str, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._devices:
            raise Refused(f"previous backup for target '{self._target}' not finished")
        blocks = self._qemu.run("query-block")
        nodes = {node["node-name"]: node for node in self._qemu.run("query-named-block-nodes", flat=True)}
        chosen = [self._find(item, blocks, nodes) for item in devices]
        try:
            for device in chosen:
                self._prepare_bitmap(device, target_id, nodes)
            self._target = target_id
            paused = self._qemu.run("query-status")["status"] == "running"
            if paused:
                self._qemu.run("stop")
            try:
                for device in chosen:
                    self._insert(device, target_id)
            finally:
                if paused:
                    self._qemu.run("cont")
        except Refused:
            for device in chosen:
                self._remove(device)
                self._settle(device, target_id, success=False)
            raise
        self._devices = chosen
        self._info = [
            {"drive": device.name, "action": device.action, "size": device.size, "dirty": device.size}
            for device in chosen
        ]
        return [self._described(device, target_id) for device in chosen]

    def _described(self, device: Device, target: str) -> dict[str, Any]:
        answer = {"node-name": device.snapshot, "device": device.name, "size": device.size}
        if device.bitmap:
            answer |= {
                "bitmap-node-name": device.node,
                "bitmap-name": target,
                "bitmap-action": device.action,
            }
        return answer

    def _find(self, item: dict[str, Any], blocks: list[dict[str, Any]], nodes: dict[str, Any]) -> Device:
        name = item["device"]
        block = self._block(name, blocks)
        top = block["inserted"]["node-name"]
        node = self._child(top) if block["inserted"]["drv"] == "throttle" else top
        size = nodes[node]["image"]["virtual-size"]
        fleecing = f"{name}-fleecing"
        if fleecing not in nodes:
            fleecing = self._block(fleecing, blocks)["inserted"]["node-name"]
        if nodes[fleecing]["image"]["virtual-size"] != size:
            raise Refused(f"Size mismatch for '{name}-fleecing' - sector count differs")
        device = Device(name, node, block, fleecing, size, item.get("bitmap-mode", "none"))
        if top != node:
            device.throttle = nodes[top]
        return device

    @staticmethod
    def _block(name: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        for block in blocks:
            if name in (block.get("device"), block.get("inserted", {}).get("node-name")):
                return block
        raise Refused(f"Device '{name}' not found", "DeviceNotFound")

    def _child(self, top: str) -> str:
        graph = self._qemu.run("x-debug-query-block-graph")
        names = {node["id"]: node["name"] for node in graph["nodes"]}
        for edge in graph["edges"]:
            if names.get(edge["parent"]) == top and edge["name"] == "file":
                return str(names[edge["child"]])
        raise Refused(f"Device '{top}' not found (no file child)", "DeviceNotFound")

    def _prepare_bitmap(self, device: Device, target: str, nodes: dict[str, Any]) -> None:
        there = any(item.get("name") == target for item in nodes[device.node].get("dirty-bitmaps", []))
        if device.mode in ("none", "new") and there:
            self._qemu.run("block-dirty-bitmap-remove", node=device.node, name=target)
            there, device.action = False, "not-used-removed"
        if device.mode == "none":
            return
        if there:
            device.action = "used"
        else:
            self._qemu.run("block-dirty-bitmap-add", node=device.node, name=target, granularity=GRANULARITY)
            self._make_dirty(device, target)
            device.action = "new" if device.mode == "new" else "missing-recreated"
        device.bitmap = True

    def _make_dirty(self, device: Device, target: str) -> None:
        """No command of QEMU's own sets a whole bitmap: write to an empty disk and merge its bitmap."""
        self._qemu.run("blockdev-add", driver="null-co", node_name="rig-null", size=device.size)
        try:
            self._qemu.run("block-dirty-bitmap-add", node="rig-null", name="all", granularity=GRANULARITY)
            for offset in range(0, device.size, _WRITE_AT_ONCE):
                length = min(_WRITE_AT_ONCE, device.size - offset)
                words = f'qemu-io rig-null "write -z {offset} {length}"'
                self._qemu.run("human-monitor-command", command_line=words)
            merged = [{"node": "rig-null", "name": "all"}]
            self._qemu.run("block-dirty-bitmap-merge", node=device.node, target=target, bitmaps=merged)
        finally:
            self._qemu.run("blockdev-del", node_name="rig-null")

    def _insert(self, device: Device, target: str) -> None:
        node = device.node
        if device.bitmap:
            self._qemu.run("block-dirty-bitmap-add", node=node, name=BACKGROUND, granularity=GRANULARITY)
            self._qemu.run("block-dirty-bitmap-disable", node=node, name=target)
            device.disabled = True
        if device.throttle is None and "/" not in device.block.get("qdev", "/"):
            path = f"/machine/peripheral/{device.block['qdev']}"
        else:
            path = device.block.get("qdev", "").removesuffix("/virtio-backend")
        if device.throttle is None and not path.startswith("/machine/peripheral/"):
            self._qemu.run(
                "blockdev-backup", job_id=device.cbw, device=node, target=device.fleecing, sync="none",
                auto_dismiss=False, filter_node_name=device.cbw,
            )  # fmt: skip
            device.job = True
        else:
            options: dict[str, Any] = {"driver": "copy-before-write", "node-name": device.cbw, "file": node}
            options |= {"target": device.fleecing, "on-cbw-error": "break-snapshot", "cbw-timeout": 45}
            options |= {"discard": "unmap"}
            if device.bitmap:
                options["bitmap"] = {"node": node, "name": target}
            self._check(self._qemu.ask("blockdev-add", options))
            self._point(device, device.cbw, path)
        options = {"driver": "snapshot-access", "node-name": device.snapshot, "file": device.cbw}
        self._check(self._qemu.ask("blockdev-add", {**options, "discard": "unmap"}))

    def _point(self, device: Device, node: str, path: str = "") -> None:
        """Make the guest's device work on this node."""
        if device.throttle is not None:
            options = {
                "driver": "throttle",
                "node-name": device.throttle["node-name"],
                "throttle-group": f"throttle-{device.name}",
                "file": node,
                "read-only": device.throttle["ro"],
                "detect-zeroes": device.throttle["detect_zeroes"],
                "discard": "unmap" if device.throttle["detect_zeroes"] == "unmap" else "ignore",
            }
            self._check(self._qemu.ask("blockdev-reopen", {"options": [options]}))
            return
        path = path or (
            device.block["qdev"]
            if "/" in device.block["qdev"]
            else f"/machine/peripheral/{device.block['qdev']}"
        )
        self._qemu.run("qom-set", path=path.removesuffix("/virtio-backend"), property="drive", value=node)

    @staticmethod
    def _check(answer: dict[str, Any]) -> None:
        if "error" in answer:
            raise Refused(answer["error"]["desc"], answer["error"]["class"])

    # --- tear down ---

    def _teardown(self, target_id: str, success: bool) -> dict[str, Any]:
        if self._target is None:
            return {}
        if self._target != target_id:
            raise Refused(f"cannot teardown backup access - got target {target_id} instead of {self._target}")
        devices, self._devices = self._devices, []
        for device in devices:
            self._remove(device)
            self._settle(device, target_id, success=success)
        return {}

    def _remove(self, device: Device) -> None:
        for step in (self._remove_snapshot, self._remove_filter):
            try:
                step(device)
            except Refused as error:
                print(f"tear down of {device.name}: {error}", file=sys.stderr)

    def _remove_snapshot(self, device: Device) -> None:
        if device.snapshot in self._names():
            # Proxmox's drops its own reference, whoever else holds one.
            self._qemu.run("blockdev-del", node_name=device.snapshot)

    def _remove_filter(self, device: Device) -> None:
        if device.job:
            self._qemu.run("job-cancel", id=device.cbw)
            while True:
                job = next((i for i in self._qemu.run("query-jobs") if i["id"] == device.cbw), None)
                if job is None or job["status"] == "concluded":
                    break
            self._qemu.run("job-dismiss", id=device.cbw)
        elif device.cbw in self._names():
            self._point(device, device.node)
            self._qemu.run("blockdev-del", node_name=device.cbw)

    def _names(self) -> set[str]:
        return {node["node-name"] for node in self._qemu.run("query-named-block-nodes", flat=True)}

    def _settle(self, device: Device, target: str, *, success: bool) -> None:
        if not device.disabled:
            return
        node, name = device.node, target
        if success:
            self._qemu.run("block-dirty-bitmap-clear", node=node, name=name)
        self._qemu.run("block-dirty-bitmap-enable", node=node, name=name)
        self._qemu.run("block-dirty-bitmap-merge", node=node, target=name, bitmaps=[BACKGROUND])
        self._qemu.run("block-dirty-bitmap-remove", node=node, name=BACKGROUND)
        device.disabled = False


class Session:
    """One client from its greeting to its end."""

    def __init__(self, client: socket.socket, qemu: Upstream, proxmox: Proxmox) -> None:
        self._client = client
        self._qemu = qemu
        self._proxmox = proxmox

    def serve(self) -> None:
        while not self._qemu.events.empty():
            self._qemu.events.get_nowait()
        self._send(self._qemu.greeting)
        negotiated = False
        received, decoder = "", json.JSONDecoder()
        while data := self._receive():
            received = (received + data).lstrip()
            while received:
                try:
                    request, end = decoder.raw_decode(received)
                except ValueError:
                    break
                received = received[end:].lstrip()
                answer = self._answer(request, negotiated)
                negotiated = negotiated or request.get("execute") == "qmp_capabilities"
                if "id" in request:
                    answer["id"] = request["id"]
                self._send(answer)

    def _receive(self) -> str:
        """What the client sent; meanwhile it hears of events."""
        self._client.settimeout(0.1)
        while True:
            try:
                return self._client.recv(65536).decode()
            except TimeoutError:
                while not self._qemu.events.empty():
                    self._client.sendall(self._qemu.events.get_nowait().encode())

    def _answer(self, request: dict[str, Any], negotiated: bool) -> dict[str, Any]:
        command, arguments = request.get("execute", ""), request.get("arguments", {})
        try:
            if command == "qmp_capabilities":
                return {"return": {}}
            if not negotiated:
                raise Refused("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
            added = self._proxmox.commands.get(command)
            if added is not None:
                return {"return": added(**{key.replace("-", "_"): arguments[key] for key in arguments})}
            answer = self._qemu.ask(command, arguments)
            answer.pop("id", None)
            return answer
        except Refused as error:
            return {"error": error.document}

    def _send(self, document: dict[str, Any]) -> None:
        self._client.sendall(json.dumps(document).encode() + b"\r\n")


def main() -> None:
    path = Path(sys.argv[1])
    qemu = Upstream(Path(sys.argv[2]))
    proxmox = Proxmox(qemu, access="backup-access" in sys.argv[3:])
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    os.write(1, b"up\n")
    while True:
        client, _ = listener.accept()
        with client:
            try:
                Session(client, qemu, proxmox).serve()
            except OSError as error:
                print(f"a client vanished: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
