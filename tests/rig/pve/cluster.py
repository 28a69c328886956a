"""A Proxmox cluster on this machine: nodes, one API, guests that really run, and faults on demand.

with PveCluster(folder, image) as cluster:
    vm = cluster.vm(disks=[PveDiskSpec("scsi0", fs="ext4")])
    cluster.one.ask("qm", "guest", "cmd", str(vm.vmid), "ping")
    cluster.migrate(vm, "pve2")
    with cluster.offline("pve2"): ...
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lab.domain import MIB, DiskSpec
from lab.image import GuestImage
from lab.images import make_image

from pve.faults import Faults
from pve.guest import PveContainer, PveGuest
from pve.node import PveNode, loopback
from pve.plane import Plane, RigPve
from pve.qemu import QEMU7, qemu10
from pve.tools import conf
from pve.tools.says import print_size

HERE = Path(__file__).parent
TOOLS = ("pvesh", "qm", "pvesm", "vzdump", "qmrestore", "pct")
_STORAGES = """dir: local
\tpath /var/lib/vz
\tcontent backup,images,iso,rootdir,snippets,vztmpl

dir: fast
\tpath /srv/fast
\tcontent images,rootdir

dir: shared
\tpath /mnt/pve/shared
\tcontent images,rootdir
\tshared 1

"""
MACHINES = {"drive": "pc-i440fx-9.2+pve1", "blockdev": ""}


@dataclass(frozen=True, slots=True)
class PveDiskSpec:
    """One disk. key: scsi0, virtio1, sata0, efidisk0. options: more of the property string, `backup=0`.

    size, fs, content: as in lab's DiskSpec. format: raw or qcow2.
    """

    key: str = "scsi0"
    size: int = 64 * MIB
    format: str = "qcow2"
    storage: str = "local"
    fs: str | None = None
    content: Mapping[str, bytes] = field(default_factory=dict)
    iothread: bool = False
    options: str = "discard=on"

    @property
    def lab(self) -> DiskSpec:
        return DiskSpec(self.key, self.size, self.format, self.fs, self.content)


class PveCluster(Faults):
    """folder: for everything of it. image: what guests boot. version: what the API says it is."""

    def __init__(
        self,
        folder: Path,
        image: GuestImage,
        nodes: Sequence[str] = ("pve1", "pve2"),
        *,
        version: str = "9.1.1",
    ) -> None:
        self.folder = folder
        self.image = image
        self.etc = folder / "pve"
        network = loopback()
        self.nodes = {
            name: PveNode(name, folder / name, folder, f"{network}.{number}")
            for number, name in enumerate(nodes, 1)
        }
        self._version = version
        self._stack = ExitStack()
        self._next = 100

    def __enter__(self) -> PveCluster:
        try:
            self._write_tree()
            self.api = RigPve(self.etc, self.nodes, self._version)
            self.plane = self._stack.enter_context(Plane(self.api, self.folder))
            shutil.copy(self.plane.cafile, self.etc / "pve-root-ca.pem")
            settings = {
                **self.plane.root_ticket(), "url": self.plane.url, "ca": self.plane.cafile, "qemu": qemu10(),
                "machines": str(self.folder / "machines.json"),
            }  # fmt: skip
            port = 0
            for node in self.nodes.values():
                self._stack.callback(node.close)
                node.start(settings)
                node.start_sshd(self.folder, port)
                assert node.sshd is not None
                port = node.sshd.port
                self.one.sshd and node.sshd.authorize(self.one.sshd.client_key_path)
            self.write_members()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def one(self) -> PveNode:
        """The first node."""
        return next(iter(self.nodes.values()))

    @property
    def two(self) -> PveNode:
        return list(self.nodes.values())[1]

    def node_of(self, vmid: int) -> PveNode:
        found = conf.find(vmid, self.etc)
        assert found, f"no guest {vmid}"
        return self.nodes[found[1]]

    def guests(self) -> set[int]:
        return {vmid for vmid, _, _ in conf.all_guests(self.etc)}

    def known_hosts(self, path: Path) -> Path:
        """The host keys of all nodes."""
        lines = [line for node in self.nodes.values() if node.sshd for line in node.sshd.known_hosts_lines]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    # --- guests ---

    def vm(
        self, disks: Sequence[PveDiskSpec] = (PveDiskSpec(),), *, name: str = "", node: str = "",
        qemu: str = "10.0", layout: str = "blockdev", backup_access: bool = True, agent: bool = True,
        agent_program: str = "real", start: bool = True, memory: int = 192, more: Mapping[str, str] | None = None,
        vmid: int = 0,
    ) -> PveGuest:  # fmt: skip
        """A new virtual machine, defined and (unless start is false) started and ready.

        qemu: 10.0 or 7.2. layout: drive or blockdev. backup_access: whether QEMU seems to have Proxmox's commands.
        more: lines of its configuration. memory: MiB.
        """
        vmid = vmid or self._vmid()
        where = self.nodes[node or self.one.name]
        values = {
            "agent": str(int(agent)), "boot": "order=" + ";".join(disk.key for disk in disks[:1]), "cores": "1",
            "memory": str(memory), "name": name or f"guest-{vmid}", "ostype": "l26", "scsihw": "virtio-scsi-single",
            "smbios1": f"uuid={uuid.uuid4()}", "vmgenid": str(uuid.uuid4()), "machine": MACHINES[layout],
            "net0": f"virtio=BC:24:11:{secrets.token_hex(3).upper()[:2]}:00:01,bridge=vmbr0",
            "meta": f"creation-qemu=10.1.2,ctime={int(time.time())}", "args": self._args(agent_program),
            **dict(more or {}),
        }  # fmt: skip
        for number, disk in enumerate(disks):
            volume = f"{vmid}/vm-{vmid}-disk-{number}.{disk.format}"
            path = self.storage_folder(disk.storage, where.name) / "images" / volume
            path.parent.mkdir(parents=True, exist_ok=True)
            make_image(disk.lab, path)
            words = [f"{disk.storage}:{volume}", f"size={print_size(disk.size)}"]
            words += [*(["iothread=1"] if disk.iothread else []), *([disk.options] if disk.options else [])]
            values[disk.key] = ",".join(words)
        self._choose(vmid, qemu10() if qemu.startswith("10") else QEMU7, backup_access)
        conf.path_of(vmid, "qemu", where.name, self.etc).write_text(
            conf.Conf({key: value for key, value in values.items() if value}).text
        )
        self.write_members()
        guest = PveGuest(self, vmid, tuple(disks), agent_program)
        if start:
            try:
                guest.start()
            except BaseException:
                guest.remove()
                raise
        return guest

    def adopt(self, vmid: int, disks: Sequence[PveDiskSpec] = ()) -> PveGuest:
        """A guest that something else made, such as a restore."""
        return PveGuest(self, vmid, tuple(disks))

    def container(
        self, files: Mapping[str, bytes] | None = None, *, name: str = "", node: str = "", storage: str = "local",
        running: bool = True, more: Mapping[str, str] | None = None,
        mounts: Mapping[str, Mapping[str, bytes]] | None = None,
    ) -> PveContainer:  # fmt: skip
        """A new container. files: relative path → content of its root file system. mounts: `/data` → files of a
        mount point with backup=1."""
        vmid = self._vmid()
        where = self.nodes[node or self.one.name]
        values = {
            "arch": "amd64", "cores": "1", "hostname": name or f"ct-{vmid}", "memory": "512", "ostype": "debian",
            "swap": "512", "unprivileged": "1", **dict(more or {}),
        }  # fmt: skip
        wanted = [("rootfs", "", files or {"etc/hostname": f"ct-{vmid}\n".encode()})]
        wanted += [
            (f"mp{number}", place, content) for number, (place, content) in enumerate((mounts or {}).items())
        ]
        for number, (key, place, content) in enumerate(wanted):
            volume = f"{vmid}/subvol-{vmid}-disk-{number}.subvol"
            folder = self.storage_folder(storage, where.name) / "images" / volume
            folder.mkdir(parents=True)
            for path, data in content.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
            values[key] = f"{storage}:{volume}" + (f",mp={place},backup=1" if place else "") + ",size=8G"
        conf.path_of(vmid, "lxc", where.name, self.etc).write_text(conf.Conf(values).text)
        self.write_members()
        container = PveContainer(self, vmid)
        if running:
            where.run("pct", "start", str(vmid))
        return container

    def storage_folder(self, name: str, node: str) -> Path:
        """A storage's folder as this process sees it."""
        known = {"local": self.folder / node / "vz", "fast": self.folder / node / "fast"}
        return known.get(name, self.folder / "storage")

    def migrate(self, guest: PveGuest, node: str, *, live: bool = False) -> None:
        """Move a VM. live: on storage `shared` only, bitmaps go with it; else it is stopped and started again."""
        source, target = self.node_of(guest.vmid), self.nodes[node]
        source.run("qm", "set", str(guest.vmid), "--lock", "migrate")
        running = source.running(guest.vmid)
        if live and running:
            self._move_live(guest, source, target)
        elif running:
            source.run("qm", "stop", str(guest.vmid), "--skiplock")
        self._move_disks(guest.vmid, source, target)
        conf.path_of(guest.vmid, "qemu", source.name, self.etc).rename(
            conf.path_of(guest.vmid, "qemu", target.name, self.etc)
        )
        target.run("qm", "unlock", str(guest.vmid))
        guest.hang_up()
        self.write_members()
        if running and not live:
            guest.start()

    def _move_live(self, guest: PveGuest, source: PveNode, target: PveNode) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        uri = f"tcp:127.0.0.1:{port}"
        target.run("qm", "start", str(guest.vmid), "--migratedfrom", source.name, "--stateuri", uri)
        with guest.monitor(source) as old, guest.monitor(target) as new:
            for end in (old, new):
                end("migrate-set-capabilities", capabilities=[{"capability": "dirty-bitmaps", "state": True}])
            old("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
            old("migrate", uri=uri)
            while (info := old("query-migrate")).get("status") != "completed":
                if info.get("status") in {"failed", "cancelled"}:
                    raise AssertionError(f"the migration failed: {info}")
                time.sleep(0.05)
            while new("query-status")["status"] == "inmigrate":
                time.sleep(0.05)
        source.run("qm", "stop", str(guest.vmid), "--skiplock")

    def _move_disks(self, vmid: int, source: PveNode, target: PveNode) -> None:
        for item in conf.drives(source.conf(vmid)).values():
            name, _, volume = item["file"].partition(":")
            if name in {"local", "fast"}:
                old = self.storage_folder(name, source.name) / "images" / volume
                new = self.storage_folder(name, target.name) / "images" / volume
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(old, new)

    def _vmid(self) -> int:
        while self._next in self.guests():
            self._next += 1
        self._next += 1
        return self._next - 1

    def _args(self, agent_program: str) -> str:
        words = f"console=ttyS0 quiet rdinit=/init panic=-1 lab.agent={agent_program}"
        return f"-kernel {self.image.kernel} -initrd {self.image.initrd} -append '{words}'"

    def _choose(self, vmid: int, program: str, backup_access: bool) -> None:
        path = self.folder / "machines.json"
        known = json.loads(path.read_text())
        known[str(vmid)] = {"program": program, "proxmox": backup_access}
        path.write_text(json.dumps(known))

    # --- the tree ---

    def _write_tree(self) -> None:
        for name in ("pve", "storage", "bin"):
            (self.folder / name).mkdir(parents=True)
        shutil.copytree("/etc/perl", self.folder / "perl") if Path("/etc/perl").is_dir() else None
        shutil.copytree(HERE / "perl", self.folder / "perl", dirs_exist_ok=True)
        for tool in TOOLS:
            path = self.folder / "bin" / tool
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -E -s {HERE}/tools/run.py {tool} "$@"\n')
            path.chmod(0o755)
        (self.folder / "machines.json").write_text("{}")
        for node in self.nodes.values():
            for part in ("qemu-server", "lxc", "priv"):
                (self.etc / "nodes" / node.name / part).mkdir(parents=True)
            for part in ("vz", "fast"):
                (node.root / part).mkdir(parents=True)
        for part in ("firewall", "priv"):
            (self.etc / part).mkdir()
        # Each node has its own /run/pve-rig/local.
        (self.etc / "local").symlink_to("/run/pve-rig/local")
        (self.etc / "qemu-server").symlink_to("local/qemu-server")
        (self.etc / "lxc").symlink_to("local/lxc")
        (self.etc / "storage.cfg").write_text(_STORAGES)
        if len(self.nodes) > 1:
            (self.etc / "corosync.conf").write_text("totem {\n  cluster_name: lab\n  version: 2\n}\n")

    def write_members(self) -> None:
        """The files that pmxcfs makes up."""
        members = {
            "nodename": self.one.name, "version": 5,
            "cluster": {"name": "lab", "version": 5, "nodes": len(self.nodes), "quorate": int(self.api.quorate)},
            "nodelist": {
                name: {"id": number, "online": int(self.api.nodes[name]["online"]), "ip": node.address}
                for number, (name, node) in enumerate(self.nodes.items(), 1)
            },
        }  # fmt: skip
        guests = {
            str(vmid): {"node": node, "type": kind, "version": 1}
            for vmid, kind, node in conf.all_guests(self.etc)
        }
        (self.etc / ".members").write_text(json.dumps(members, indent=1))
        (self.etc / ".vmlist").write_text(json.dumps({"version": 1, "ids": guests}, indent=1))
        (self.etc / ".version").write_text(json.dumps({"starttime": 1, "clinfo": 5, "vmlist": 1}))
