"""The cluster: two nodes, the guests on them, and which QEMU processes run."""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4, uuid5

from vmconsole.demo.backup_job import CutRecord
from vmconsole.demo.contents import NAMESPACE
from vmconsole.demo.disk import VirtualDisk, Witness
from vmconsole.demo.guests import Guest, GuestDisk
from vmconsole.demo.pve import contents
from vmconsole.demo.pve.machines import Container, Vm, Volumes, new_process
from vmconsole.demo.pve.monitor import Monitor, MonitorSocket

NAME = "demo"
VERSION = "9.1.1"
QEMU_VERSION = (10, 1, 2)


class Refused(Exception):
    """What a program of Proxmox prints before it ends with a status other than 0."""


@dataclass(frozen=True, slots=True)
class Node:
    """run: the folder that stands for its /run."""

    name: str
    run: Path
    boot_id: str

    def path(self, wanted: str) -> Path:
        """What stands for a path that a program was given: only /run is not where it says."""
        for prefix in ("/var/run/", "/run/"):
            if wanted.startswith(prefix):
                return self.run / wanted.removeprefix(prefix)
        return Path(wanted)


@dataclass(frozen=True, slots=True)
class _Running:
    monitor: Monitor
    socket: MonitorSocket


class Cluster:
    """Thread-safe: programs, NBD clients and guests come in threads of their own.

    place: for images and copies. short: for sockets; its path leaves room for long names below it.
    """

    def __init__(self, place: Path, short: Path) -> None:
        self.place = place
        self.witnesses = place / "witnesses"
        self.witnesses.mkdir(parents=True, mode=0o700)
        self.nodes = {
            name: Node(name, short / f"p{number}", str(uuid5(NAMESPACE, f"{place} {name} {time.time_ns()}")))
            for number, name in enumerate(contents.NODES, 1)
        }
        for node in self.nodes.values():
            (node.run / "qemu-server").mkdir(parents=True, mode=0o700)
        self.authority = _authority()
        self.volumes = Volumes(place / "storage")
        self.vms = contents.make_vms(self.volumes.folder)
        self.container = contents.make_container()
        self.cuts: list[CutRecord] = []
        self.lock = threading.RLock()
        self.dumping = ""
        """The node on which vzdump runs; empty when none does."""
        self.hashing = ThreadPoolExecutor(1, thread_name_prefix="demo-pve-sha256")
        self._running: dict[int, _Running] = {}
        for vm in self.vms:
            if not contents.is_off(vm):
                self.start(vm)

    def close(self) -> None:
        """End all processes, finish the checksums, close the images."""
        for vm in self.vms:
            self.stop(vm)
        self.hashing.shutdown()
        for vm in self.vms:
            for item in vm.guest.disks:
                item.disk.close()

    # --- guests ---

    @property
    def guests(self) -> list[Vm | Container]:
        return [*self.vms, self.container]

    def vm(self, vmid: int, node: str = "") -> Vm:
        """Raises Refused in Proxmox's words."""
        with self.lock:
            for vm in self.vms:
                if vm.vmid == vmid and node in ("", vm.node):
                    return vm
        path = f"nodes/{node}/qemu-server/{vmid}.conf"
        raise Refused(f"Configuration file '{path}' does not exist")

    def monitor(self, vmid: int) -> Monitor | None:
        """Of a running machine."""
        with self.lock:
            running = self._running.get(vmid)
        return running.monitor if running else None

    def start(self, vm: Vm) -> None:
        with self.lock:
            vm.process = new_process()
            vm.guest.domain_id = vm.vmid
            monitor = Monitor(vm, self._node_of(vm), self.witnesses, self.hashing, self._record)
            path = self._node_of(vm).run / "qemu-server" / f"{vm.vmid}.qmp"
            self._running[vm.vmid] = _Running(monitor, MonitorSocket(monitor, path))

    def stop(self, vm: Vm) -> None:
        """Its QEMU ends, whatever works on it."""
        with self.lock:
            running = self._running.pop(vm.vmid, None)
        if running is not None:
            running.socket.close()
            running.monitor.close()
        with self.lock:
            vm.guest.thaw()
            vm.guest.domain_id = -1
            vm.process = None
            vm.forget_bitmaps()

    def migrate(self, vm: Vm, node: str) -> None:
        """To another node, without its bitmaps: the process there is a new one."""
        self.stop(vm)
        with self.lock:
            vm.node = node
        self.start(vm)

    def night(self, number: int) -> None:
        """Let the day before night `number` (2, 3, …) happen."""
        contents.pass_day(self.vms, self.container, number)
        if number == 2:
            wiki = next(vm for vm in self.vms if vm.name == "wiki-01")
            self.migrate(wiki, contents.NODES[1])

    # --- what backups read ---

    def find_image(self, path: str) -> tuple[Guest, GuestDisk] | None:
        for vm in self.vms:
            for item in vm.guest.disks:
                if str(item.disk.path) == path:
                    return vm.guest, item
        return None

    def find_volume(self, volume: str) -> Path | None:
        """The file of a volume, `STORAGE:ID/NAME`."""
        for vm in self.vms:
            for item in vm.guest.disks:
                if vm.volume(item) == volume:
                    return item.disk.path
        return self.volumes.made.get(volume)

    def witness(self, guest: Guest, item: GuestDisk, asked: str, now: float) -> None:
        """Record a disk's checksum as it is now, for a guest that is off."""
        disk: VirtualDisk = item.disk
        copy = Witness(disk, self.witnesses / f"{uuid4().hex}.witness")
        self._record([CutRecord(guest.uuid, item.target, "", asked, now, self.hashing.submit(copy.sha256))])

    def streamed(self, container: Container, sha256: str, now: float) -> None:
        """Record what vzdump handed out. The container is known by its name."""
        known: Future[str] = Future()
        known.set_result(sha256)
        self._record([CutRecord(container.name, "rootfs", "", "", now, known)])

    def _record(self, cuts: list[CutRecord]) -> None:
        with self.lock:
            self.cuts += cuts

    def _node_of(self, vm: Vm) -> Node:
        return self.nodes[vm.node]


def _authority() -> str:
    """Stands for the cluster's CA certificate: what is in it does not matter, only that it stays the same."""
    body = base64.b64encode(b"the demo cluster's certificate authority " * 12).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
