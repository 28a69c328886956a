"""Guests of a lab cluster: a VM with the inside of lab.guest.Guest, and a container."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.control import Control
from lab.domain import GuestSpec
from lab.guest import Guest
from lab.host import CommandError
from lab.waiting import wait_for

from pve.node import PveNode
from pve.tools import conf, storage, wire
from pve.tools.says import Died

if TYPE_CHECKING:
    from pve.cluster import PveCluster, PveDiskSpec


class PveGuest(Guest):
    """A VM. Disks are named by their keys, scsi0; `sh`, `pattern`, `zero`, `write_file`, `lockstep_start`, `frozen`
    and the agent's faults are as in lab.guest. It follows the VM from node to node."""

    def __init__(
        self, cluster: PveCluster, vmid: int, disks: Sequence[PveDiskSpec], agent_program: str = "real"
    ) -> None:
        self.cluster = cluster
        self.vmid = vmid
        self.disks = {disk.key: disk for disk in disks}
        uuid = conf.properties(self.conf.values.get("smbios1", "")).get("uuid", "")
        agent = self.conf.values.get("agent", "0") != "0"
        spec = GuestSpec(
            self.conf.values.get("name", ""), uuid, tuple(disk.lab for disk in disks), agent, agent_program
        )
        super().__init__(None, uuid, spec=spec)  # type: ignore[arg-type]  # no libvirt host
        self._devices: dict[str, str] = {}

    @property
    def node(self) -> PveNode:
        """Where it is now."""
        return self.cluster.node_of(self.vmid)

    @property
    def conf(self) -> conf.Conf:
        return self.node.conf(self.vmid)

    @property
    def lock(self) -> str:
        return self.conf.values.get("lock", "")

    def qm(self, verb: str, *args: str, check: bool = True, timeout: float = 60.0) -> str:
        """Output of `qm VERB THIS-GUEST ARGS` on its node."""
        return self.node.ask("qm", verb, str(self.vmid), *args, check=check, timeout=timeout)

    def virsh(self, command: str, *args: str, **more: Any) -> str:
        raise AssertionError(f"{command}: this is no libvirt host")

    # --- life ---

    def start(self, *, paused: bool = False, wait: bool = True) -> None:
        self._devices = {}
        self.qm("start")
        if wait:
            self.wait_until_ready()

    def state(self) -> str:
        """running, paused, …, as QMP says; stopped; empty when it is not defined."""
        if conf.find(self.vmid, self.cluster.etc) is None:
            return ""
        if not self.node.pid(self.vmid):
            return "stopped"
        try:
            with self.monitor() as qmp:
                return str(qmp("query-status")["status"])
        except Died:
            if self.node.pid(self.vmid):
                raise
            return "stopped"

    def destroy(self) -> None:
        """Pull the plug, whatever lock there is."""
        self.hang_up()
        self.qm("stop", "--skiplock", check=False)

    def poweroff(self) -> None:
        self.sh("(sleep 0.1; shutdown) >/dev/null 2>&1 &")
        self.wait_for_state("stopped")
        self.hang_up()

    def kill_qemu(self) -> None:
        self.hang_up()
        self.node.kill_qemu(self.vmid)

    def remove(self) -> None:
        if conf.find(self.vmid, self.cluster.etc) is None:
            return
        self.destroy()
        self.qm("destroy", "--skiplock")
        self.cluster.write_members()

    def hang_up(self) -> None:
        self._hang_up()

    def qemu_pid(self) -> int:
        return self.node.pid(self.vmid)

    # --- QEMU ---

    def monitor(self, node: PveNode | None = None) -> wire.Qmp:
        """A monitor of the test's own, always free; call it: `qmp("query-jobs")`. Use it with `with`."""
        return wire.Qmp((node or self.node).path(f"/run/qemu-server/{self.vmid}.test"), self.vmid, timeout=30)

    def block_nodes(self) -> dict[str, dict[str, Any]]:
        with self.monitor() as qmp:
            return {item["node-name"]: item for item in qmp("query-named-block-nodes", flat=True)}

    def below_throttle(self, key: str) -> str:
        """The name of a disk's block node, as backups name it, while none is going on."""
        path = str(Path("/", *self.path(key).parts[-3:]))
        for name, item in self.block_nodes().items():
            if item["drv"] in {"raw", "qcow2"} and item["image"]["filename"].endswith(path):
                return name
        raise KeyError(key)

    def top(self, key: str) -> str:
        """The name of a disk's uppermost block node, which is what a guest's device works on."""
        with self.monitor() as qmp:
            for block in qmp("query-block"):
                if key in {block["device"].removeprefix("drive-"), *block.get("qdev", "").split("/")}:
                    return str(block["inserted"]["node-name"])
        raise KeyError(key)

    def bitmaps(self) -> set[str]:
        found = [item for node in self.block_nodes().values() for item in node.get("dirty-bitmaps", [])]
        return {str(item["name"]) for item in found if item.get("name")}

    def leftovers(self) -> list[str]:
        """What a backup may have left: lock, nodes, exports, jobs, strange volumes and files, a freeze, a pause."""
        found = [f"lock {self.lock}"] if self.lock else []
        if self.node.pid(self.vmid):
            if (state := self.state()) != "running":
                found.append(f"state {state}")
            with self.monitor() as qmp:
                found += [f"export {item['id']}" for item in qmp("query-block-exports")]
                found += [f"job {item['id']}" for item in qmp("query-jobs")]
            found += [
                f"block node {name}" for name, item in self.block_nodes().items()
                if name.startswith("vmc-") or "fleec" in name or item["drv"] in {"copy-before-write", "snapshot-access"}
            ]  # fmt: skip
            if self.frozen():
                found.append("frozen file systems")
        known = {item["file"] for item in conf.drives(self.conf).values()}
        etc, root = self.cluster.etc, self.node.path("/")
        for one in storage.storages(etc).values():
            if one.active(root):
                volumes = storage.volumes(one, root)
                found += [
                    f"volume {item.volid}"
                    for item in volumes
                    if item.vmid == self.vmid and item.volid not in known
                ]
        words = [
            "find",
            "/run/qemu-server",
            "/tmp",
            "-maxdepth",
            "2",
            "-xdev",
            "-name",
            "vmc*",
            "-o",
            "-name",
            "*.vmc*",
        ]
        return found + [f"file {path}" for path in self.node.ask(*words, check=False).splitlines()]

    def agent(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = 10
    ) -> Any:
        """One command to the guest agent, without arguments."""
        assert not arguments, "the lab's line to a Proxmox guest's agent has none"
        try:
            return wire.agent(
                self.node.path(f"/run/qemu-server/{self.vmid}.qga"), self.vmid, command, timeout
            )
        except Died as death:
            raise CommandError(str(death)) from None

    # --- disks ---

    def path(self, key: str) -> Path:
        """A disk's image as this process sees it."""
        item = conf.properties(self.conf.values[key])
        name, _, volume = item["file"].partition(":")
        return self.cluster.storage_folder(name, self.node.name) / "images" / volume

    def device(self, key: str) -> str:
        """What the guest calls a disk: sda. SCSI disks may be found in any order, so it is asked.

        Its kernel has no driver for SATA.
        """
        if not self._devices:
            listing = self.sh("cd /sys/block; for d in sd* vd*; do [ -e $d ] && readlink -f $d; done; true")
            paths = sorted(listing.split())
            for prefix, kinds in (("vd", ("virtio",)), ("sd", ("scsi",))):
                names = [
                    path.rpartition("/")[2] for path in paths if path.rpartition("/")[2].startswith(prefix)
                ]
                # QEMU gives the devices to the PCI bus in this order.
                keys = sorted((key for key in self.conf_drives() if key.startswith(kinds)), key=_natural)
                self._devices |= dict(zip(keys, names, strict=True))
        return self._devices.get(key, key)

    def conf_drives(self) -> list[str]:
        return list(conf.drives(self.conf))

    def pattern(self, disk: str, offset: int, length: int, seed: int) -> None:
        super().pattern(self.device(disk), offset, length, seed)

    def zero(self, disk: str, offset: int, length: int, how: str = "write") -> None:
        super().zero(self.device(disk), offset, length, how)

    def write_file(self, disk: str, name: str, data: bytes) -> None:
        super().write_file(self.device(disk), name, data)

    def frozen(self, disk: str = "") -> bool:
        return super().frozen(self.device(disk) if disk else "")

    def lockstep_start(self, *disks: str) -> None:
        rings = " ".join(f"/dev/{self.device(disk)}:{self.disk(disk).ring}" for disk in disks)
        self.sh(f"lab-lockstep start {rings}")
        first = wait_for(self.lockstep_step, "the lockstep writer to begin", 10)
        wait_for(lambda: self.lockstep_step() >= first + 64, "a round of the lockstep writer", 30)

    def raw_copy(self, disk: str, target: Path) -> Path:
        """The disk's present content as a raw image. A running guest should not write meanwhile."""
        if self.node.pid(self.vmid):
            with suppress(AssertionError):
                self.sync()
        path = self.path(disk)
        subprocess.run(
            ["qemu-img", "convert", "-U", "-f", storage.volume_format(path.name), "-O", "raw", str(path), str(target)],
            check=True, capture_output=True,
        )  # fmt: skip
        return target

    def _line(self) -> Control:
        if self._control is None or self._control.ended:
            self._hang_up()
            self._control = Control(self.node.path(self._serial_path()))
        return self._control

    def _serial_path(self) -> str:
        with self.monitor() as qmp:
            ports = [item["filename"] for item in qmp("query-chardev") if item["filename"].startswith("pty:")]
        if not ports:
            raise CommandError(f"{self.name} has no control line")
        return str(ports[0].removeprefix("pty:"))


class PveContainer:
    """A container: files, and nothing that runs."""

    def __init__(self, cluster: PveCluster, vmid: int) -> None:
        self.cluster = cluster
        self.vmid = vmid

    @property
    def node(self) -> PveNode:
        return self.cluster.node_of(self.vmid)

    @property
    def conf(self) -> conf.Conf:
        return self.node.conf(self.vmid, "lxc")

    def folder(self, key: str = "rootfs") -> Path:
        """Where its files are, as this process sees them."""
        name, _, volume = conf.mounts(self.conf)[key]["volume"].partition(":")
        return self.cluster.storage_folder(name, self.node.name) / "images" / volume

    def files(self, key: str = "rootfs") -> dict[str, bytes]:
        folder = self.folder(key)
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    def remove(self) -> None:
        if conf.find(self.vmid, self.cluster.etc):
            self.node.run("pct", "unlock", str(self.vmid))
            self.node.run("pct", "destroy", str(self.vmid), "--force", "1")
            self.cluster.write_members()

    def __enter__(self) -> PveContainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _natural(key: str) -> tuple[str, int]:
    letters = key.rstrip("0123456789")
    return letters, int(key[len(letters) :])
