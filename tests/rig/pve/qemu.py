"""A real QEMU process in the layout Proxmox VE gives it. Nothing of Proxmox is needed.

    machine = Qemu(100, [Drive("scsi0", path, "qcow2")], layout="blockdev", program=qemu10())
    machine.start()
    machine.io("scsi0", "write -P 7 0 1M")      # the guest's place: below it is everything a backup adds
    machine.monitor("query-block")              # a monitor of the test's own, always free
    machine.stop()

Files, in `run` (default /run/qemu-server) as on a node: ID.qmp (the proxy's, or QEMU's own without
one), ID.pid, ID.qga. `layout`: "drive" (Proxmox 7 and 8, and machines pinned to an older version) or
"blockdev" (machine version 10.0 and later, throttle groups).
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lab.waiting import wait_for

HERE = Path(__file__).parent
RUN = Path("/run/qemu-server")
QEMU7 = "/usr/bin/qemu-system-x86_64"


def qemu10() -> str:
    """The second QEMU, unpacked when it is not yet. Raises RuntimeError with the reason."""
    named = os.environ.get("VMCONSOLE_QEMU10", "")
    if named:
        return named
    done = subprocess.run(["sh", str(HERE / "qemu10.sh")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no second QEMU: {done.stderr.strip()[-500:]}")
    return done.stdout.strip().splitlines()[-1]


@dataclass(frozen=True, slots=True)
class Drive:
    """key: scsiN, virtioN, sataN or efidisk0. iothread: a thread of its own (scsi and virtio)."""

    key: str
    path: Path
    format: str = "raw"
    iothread: bool = False
    discard: bool = True


@dataclass
class Qemu:
    """One machine. extra: more arguments for QEMU, e.g. -kernel. paused: do not run the guest (-S).

    proxmox: the proxy says that QEMU has the backup-access commands; without a proxy QEMU's own
    monitor is ID.qmp.
    """

    vmid: int
    drives: Sequence[Drive]
    layout: str = "drive"
    program: str = QEMU7
    run: Path = RUN
    proxy: bool = True
    proxmox: bool = True
    paused: bool = True
    memory: int = 128
    extra: Sequence[str] = ()
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    proxy_process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.layout not in ("drive", "blockdev"):
            raise ValueError(f"layout {self.layout}?")

    # --- life ---

    def start(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        for path in (self.qmp, self.inner, self.own, self.qga):
            path.unlink(missing_ok=True)
        with (self.log or Path(os.devnull)).open("ab") as out:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            self.pid.write_text(f"{self.process.pid}\n")
            wait_for(lambda: self._up(self.own), f"QEMU of {self.vmid}", 30)
            if self.proxy:
                self._start_proxy(out)

    def _start_proxy(self, out: IO[bytes]) -> None:
        words = [sys.executable, str(HERE / "proxy.py"), str(self.qmp), str(self.inner)]
        self.proxy_process = subprocess.Popen(
            [*words, *(["backup-access"] if self.proxmox else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out,
        )  # fmt: skip
        assert self.proxy_process.stdout is not None
        if self.proxy_process.stdout.readline() != b"up\n":
            raise RuntimeError("the proxy did not start")

    def stop(self) -> None:
        """End the process at once, as a power cut, or `qm stop`, would."""
        for process in (self.process, self.proxy_process):
            if process is not None:
                process.kill()
                process.wait(10)
                if process.stdout is not None:
                    process.stdout.close()
        self.process = self.proxy_process = None
        for path in (self.qmp, self.inner, self.own, self.qga, self.pid):
            path.unlink(missing_ok=True)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Qemu:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def identity(self) -> str:
        """`BOOTID:PID:START`, as PveGuest.process."""
        assert self.process is not None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return f"{boot}:{self.process.pid}:{stat[19]}"

    # --- inside ---

    def monitor(self, command: str, **arguments: Any) -> Any:
        """Execute on a monitor of the test's own. Underscores in names of arguments become hyphens."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(self.own))
            with client.makefile("rw", encoding="utf-8") as stream:
                stream.readline()
                for name, given in (("qmp_capabilities", {}), (command, arguments)):
                    request = {
                        "execute": name,
                        "arguments": {key.replace("_", "-"): value for key, value in given.items()},
                        "id": name,
                    }
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    while (answer := json.loads(stream.readline())).get("id") != name:
                        pass
                    if "error" in answer:
                        raise RuntimeError(f"{name}: {answer['error'].get('desc')}")
        return answer["return"]

    def io(self, key: str, command: str) -> None:
        """A qemu-io command in the guest's place. Its output goes to `log`. Raises RuntimeError when refused.

        A failed write is only seen there: "write failed: No space left on device".
        """
        where = f"-d {key}"
        if key.startswith("virtio"):
            where = f"-d /machine/peripheral/{key}/virtio-backend"
        elif key == "efidisk0":
            where = f"drive-{key}"
        said = self.monitor("human-monitor-command", command_line=f'qemu-io {where} "{command}"')
        if said.strip():
            raise RuntimeError(f"{command}: {said.strip()}")

    def node(self, key: str) -> str:
        """The node below the throttle, as PveDisk.node, while no backup is going on."""
        if self.layout == "blockdev":
            return node_name("f", self._drive(key))
        for block in self.monitor("query-block"):
            if block["device"] == f"drive-{key}":
                return str(block["inserted"]["node-name"])
        raise KeyError(key)

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["node-name"]: node for node in self.monitor("query-named-block-nodes", flat=True)}

    def bitmaps(self, key: str) -> dict[str, dict[str, Any]]:
        """By name, of the disk's node."""
        found = self.nodes()[self.node(key)].get("dirty-bitmaps", [])
        return {item["name"]: item for item in found if item.get("name")}

    def _drive(self, key: str) -> Drive:
        return next(drive for drive in self.drives if drive.key == key)

    # --- files ---

    @property
    def qmp(self) -> Path:
        return self.run / f"{self.vmid}.qmp"

    @property
    def inner(self) -> Path:
        """QEMU's own monitor behind the proxy."""
        return self.run / f"{self.vmid}.inner"

    @property
    def own(self) -> Path:
        """The monitor that `monitor()` uses."""
        return self.run / f"{self.vmid}.test"

    @property
    def qga(self) -> Path:
        return self.run / f"{self.vmid}.qga"

    @property
    def pid(self) -> Path:
        return self.run / f"{self.vmid}.pid"

    # --- command line ---

    def command(self) -> list[str]:
        version = "7.2" if self.layout == "drive" else "10.0" if "10" in self.program else "7.2"
        words = [self.program, "-name", f"vm{self.vmid},debug-threads=on", "-no-user-config", "-nodefaults"]
        words += ["-display", "none", "-no-shutdown", "-m", str(self.memory), "-accel", "tcg"]
        words += [
            "-chardev",
            f"socket,id=qmp,path={self.inner if self.proxy else self.qmp},server=on,wait=off",
        ]
        words += ["-mon", "chardev=qmp,mode=control"]
        words += ["-chardev", f"socket,id=own,path={self.own},server=on,wait=off"]
        words += ["-mon", "chardev=own,mode=control"]
        words += ["-chardev", f"socket,path={self.qga},server=on,wait=off,id=qga0"]
        words += [
            "-device",
            "virtio-serial,id=qga0",
            "-device",
            "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0",
        ]
        machine = f"pc-i440fx-{version}"
        for drive in self.drives:
            words += self._drive_words(drive)
            if drive.key == "efidisk0" and self.layout == "blockdev":
                machine += ",pflash1=drive-efidisk0"
        if any(drive.key == "efidisk0" for drive in self.drives):
            words += self._firmware()
            if self.layout == "blockdev":
                machine += ",pflash0=pflash0"
        words += ["-machine", machine]
        return [*words, *(["-S"] if self.paused else []), *self.extra]

    def _firmware(self) -> list[str]:
        """A first flash of zeros: nothing boots from it in a paused machine."""
        code = self.drives[0].path.parent / f"{self.vmid}-code.fd"
        code.write_bytes(bytes(256 << 10))
        if self.layout == "drive":
            return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        document = {"driver": "raw", "node-name": "pflash0", "read-only": True,
                    "file": {"driver": "file", "filename": str(code)}}  # fmt: skip
        return ["-blockdev", json.dumps(document)]

    def _drive_words(self, drive: Drive) -> list[str]:
        name = f"drive-{drive.key}"
        bus, number = drive.key.rstrip("0123456789"), drive.key.lstrip("abcdefghijklmnopqrstuvwxyz")
        discard = "unmap" if drive.discard else "ignore"
        zeroes = "unmap" if drive.discard else "on"
        words: list[str] = []
        thread = ""
        if drive.iothread:
            words += [
                "-object",
                f"iothread,id=iothread-{'virtioscsi' + number if bus == 'scsi' else drive.key}",
            ]
            thread = f",iothread=iothread-{'virtioscsi' + number if bus == 'scsi' else drive.key}"
        if self.layout == "drive":
            options = f"file={drive.path},id={name},format={drive.format}"
            if drive.key == "efidisk0":
                return ["-drive", f"if=pflash,unit=1,{options},size={drive.path.stat().st_size}"]
            words += [
                "-drive",
                f"{options},if=none,discard={discard},detect-zeroes={zeroes},cache=none,aio=threads",
            ]
        else:
            words += [
                "-object",
                json.dumps({"id": f"throttle-{name}", "limits": {}, "qom-type": "throttle-group"}),
            ]
            words += ["-blockdev", json.dumps(blockdev(drive))]
        if bus == "scsi":
            controller = f"virtioscsi{number}"
            words += ["-device", f"virtio-scsi-pci,id={controller}{thread}"]
            words += [
                "-device",
                f"scsi-hd,bus={controller}.0,channel=0,scsi-id=0,lun=0,drive={name},id={drive.key}",
            ]
        elif bus == "virtio":
            words += ["-device", f"virtio-blk-pci,drive={name},id={drive.key}{thread}"]
        elif bus == "sata":
            words += ["-device", f"ahci,id=ahci-{drive.key}"]
            words += ["-device", f"ide-hd,bus=ahci-{drive.key}.0,drive={name},id={drive.key}"]
        return words

    def _up(self, path: Path) -> bool:
        if not self.alive():
            raise RuntimeError(
                f"QEMU of {self.vmid} ended: {self.log.read_text()[-1000:] if self.log else ''}"
            )
        return path.exists()


def node_name(layer: str, drive: Drive) -> str:
    """As Proxmox makes them: 31 characters that depend on the drive and its volume. layer: f or e."""
    digest = hashlib.sha256(f"drive={drive.key},volid={drive.path}".encode()).hexdigest()
    return layer + digest[:30]


def blockdev(drive: Drive) -> dict[str, Any]:
    """The document of -blockdev, as Proxmox VE 9 prints it."""
    common = {
        "cache": {"direct": True, "no-flush": False},
        "detect-zeroes": "unmap" if drive.discard else "on",
        "discard": "unmap" if drive.discard else "ignore",
        "read-only": False,
    }
    file = {
        "driver": "file",
        "filename": str(drive.path),
        "aio": "threads",
        "node-name": node_name("e", drive),
        **common,
    }
    form = {"driver": drive.format, "file": file, "node-name": node_name("f", drive), **common}
    return {
        "driver": "throttle",
        "detect-zeroes": common["detect-zeroes"],
        "discard": common["discard"],
        "read-only": False,
        "node-name": f"drive-{drive.key}",
        "throttle-group": f"throttle-drive-{drive.key}",
        "file": form,
    }
