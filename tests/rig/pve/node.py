"""One node of a lab cluster: namespaces of its own on this machine, with an sshd inside.

Its own are the process numbers, the host name, /run, /tmp, /var/lib/vz (storage `local`) and /srv/fast (storage
`fast`); /etc/pve and /mnt/pve/shared (storage `shared`) are the cluster's. The network is this machine's, so each
node's sshd listens on a loopback address of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lab.host import CommandError
from lab.waiting import wait_for
from rig_sshd import Sshd

from pve.qemu import qemu10
from pve.qmeventd import Qmeventd
from pve.tools import conf, pct, storage, wire

_EXPECTED = re.compile(r"^cat$|^sshd: |qemu-system-x86_64|/proxy\.py ")
SETUP = Path(__file__).parent / "node.sh"


class PveNode:
    """shared: the cluster's folder. address: of its sshd. settings: for the programs, see tools/says.py."""

    def __init__(self, name: str, root: Path, shared: Path, address: str) -> None:
        self.name = name
        self.root = root
        self.shared = shared
        self.address = address
        self.sshd: Sshd | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._stack = ExitStack()

    def start(self, settings: Mapping[str, Any]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "setup.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "-u", "-p", "-f", "--mount-proc", "--kill-child", "--",
                 "sh", str(SETUP), str(self.root), self.name, str(self.shared), *_needed()],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"up\n":
            problem = (self.root / "setup.log").read_text(errors="replace")
            self.close()
            raise CommandError(f"the node {self.name} did not start: {problem}")
        self._init = self._first_child(self._process.pid)
        self.qmeventd = self._stack.enter_context(Qmeventd(self.path("/run/qmeventd.sock")))
        self.path("/run/pve-rig.json").write_text(json.dumps({**settings, "node": self.name}))

    def start_sshd(self, keys: Path, port: int = 0) -> None:
        """port: to take, as all nodes of a cluster are reached on the same one; 0 for any."""
        folder = self.root / "home"
        folder.mkdir(exist_ok=True)
        variables = f'HOME={folder} PATH="{self.path_variable}"'
        sshd = Sshd(keys, {"SetEnv": variables}, host=self.address, launcher=self.become)
        if port:
            sshd.port = port
        sshd.folder.chmod(0o755)
        sshd.authorized_keys_path.chmod(0o644)
        self.sshd = sshd.start()

    def close(self) -> None:
        """End the node with everything that runs on it."""
        if self.sshd is not None:
            self.sshd.stop()
        self._stack.close()
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()

    # --- inside ---

    @property
    def path_variable(self) -> str:
        return f"{self.shared}/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    @property
    def enter(self) -> tuple[str, ...]:
        """Put this before a command to run it on the node."""
        return ("nsenter", "-t", str(self._init), "-m", "-u", "-p", "--")

    @property
    def become(self) -> tuple[str, ...]:
        """As `enter`, for a server that shall stay our own child."""
        return ("nsenter", "-t", str(self._init), "-m", "-u", "-p", "--no-fork", "--")

    def path(self, path: str | Path) -> Path:
        """Where a file of the node is for this process: also under its own mounts."""
        return Path(f"/proc/{self._init}/root{path}")

    def run(
        self, *argv: str, check: bool = True, timeout: float = 60.0, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program on the node, as root there. Raises CommandError (check, and a status other than 0)."""
        done = subprocess.run(
            [*self.enter, "env", "-i", "LC_ALL=C", "HOME=/root", f"PATH={self.path_variable}", *argv],
            capture_output=True, timeout=timeout, input=stdin, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise CommandError(
                f"{' '.join(argv)}: status {done.returncode}: {done.stderr.decode(errors='replace').strip()}"
            )
        return done

    def ask(self, *argv: str, check: bool = True, timeout: float = 60.0) -> str:
        """Output of a program on the node."""
        return self.run(*argv, check=check, timeout=timeout).stdout.decode()

    def pvesh(self, path: str, **values: str) -> Any:
        """What `pvesh get PATH` answers."""
        options = [word for key, value in values.items() for word in (f"--{key}", value)]
        text = self.ask("pvesh", "get", path, *options, "--output-format", "json")
        return json.loads(text) if text else None

    def conf(self, vmid: int, kind: str = "qemu") -> conf.Conf:
        return conf.read(vmid, kind, self.name, self.shared / "pve")

    def pid(self, vmid: int) -> int:
        """QEMU's process number on the node; 0 when it is off."""
        return wire.pid(vmid, self.path("/run/qemu-server"), self.path("/proc"))

    def running(self, vmid: int, kind: str = "qemu") -> bool:
        return bool(self.pid(vmid)) if kind == "qemu" else pct.running(vmid, self.path("/"))

    def kill_qemu(self, vmid: int) -> None:
        """kill -9, as a loss of power would."""
        self.run("kill", "-KILL", str(self.pid(vmid)))
        wait_for(lambda: not self.pid(vmid), f"QEMU of {vmid} to be gone", 10)

    def processes(self) -> dict[int, str]:
        """Process number on the node → command line, of everything that runs there but the first."""
        found = {}
        for line in self.ask("ps", "-e", "-o", "pid=,args=").splitlines():
            number, _, command = line.strip().partition(" ")
            if number != "1" and not command.startswith(("ps -e", "[")) and command != "cat":
                found[int(number)] = command.strip()
        return found

    def signal(self, pid: int, number: signal.Signals) -> None:
        self.run("kill", f"-{number.name.removeprefix('SIG')}", str(pid))

    def leftovers(self) -> list[str]:
        """What backups may have left on the node itself: processes that nobody waits for any more, activated
        volumes, handles at qmeventd. Processes below a live SSH session are not counted: close the machine first."""
        rows = [
            line.split(None, 3) for line in self.ask("ps", "-e", "-o", "pid=,ppid=,stat=,args=").splitlines()
        ]
        found = [
            f"process {args}" for _, parent, stat, args in rows
            if parent == "1" and not stat.startswith("Z") and not _EXPECTED.search(args)
        ]  # fmt: skip
        volumes: dict[str, int] = {}
        noted = self.path("/run/pve-rig.volumes")
        for line in noted.read_text().splitlines() if noted.exists() else ():
            what, _, volume = line.partition(" ")
            volumes[volume] = volumes.get(volume, 0) + (1 if what == "activate" else -1)
        found += [
            f"activated {volume}" for volume, count in volumes.items() if count > 0 and self._exists(volume)
        ]
        return found + [f"handle of {vmid}" for vmid in sorted(self.qmeventd.held())]

    def _exists(self, volid: str) -> bool:
        """A volume that was freed is not left activated."""
        name, volume = storage.split_volid(volid)
        folder = storage.storages(self.shared / "pve")[name].folder
        return storage.within(self.path("/"), folder / "images" / volume).exists()

    # --- faults ---

    @contextmanager
    def vzdump_lock(self) -> Iterator[None]:
        """Another backup of Proxmox's own holds the node's lock."""
        yield from self._holding("/run/vzdump.lock")

    @contextmanager
    def config_flock(self, vmid: int) -> Iterator[None]:
        """Another program is changing the guest's configuration, for longer than anybody waits."""
        yield from self._holding(f"/run/lock/qemu-server/lock-{vmid}.conf")

    def _holding(self, path: str) -> Iterator[None]:
        with subprocess.Popen(
            [*self.enter, "flock", path, "sh", "-c", "echo held; cat >/dev/null"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as holder:  # fmt: skip
            assert holder.stdout is not None
            assert holder.stdin is not None
            assert holder.stdout.readline() == b"held\n"
            try:
                yield
            finally:
                holder.stdin.close()
                holder.wait(10)

    @contextmanager
    def fault(
        self, match: str, message: str = "", *, delay: float = 0.0, status: int = 255
    ) -> Iterator[None]:
        """Commands that the pattern is found in, `^qm unlock 100`, take so many seconds longer, and fail with the
        message if there is one. Faults add up."""
        path = self.path("/run/pve-rig.faults")
        old = json.loads(path.read_text()) if path.exists() else []
        new = {"match": match, "message": message, "delay": delay, "status": status}
        path.write_text(json.dumps([*old, new]))
        try:
            yield
        finally:
            path.write_text(json.dumps(old))

    @contextmanager
    def small(self, folder: str, mib: int) -> Iterator[None]:
        """A small file system over a storage's folder (`/srv/fast`): it fills. Machines that are started
        before do not see it."""
        self.run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "lab", folder)
        try:
            yield
        finally:
            self.run("umount", "-l", folder)

    def read_only(self, on: bool) -> None:
        """Whether /etc/pve takes changes."""
        self.run("mount", "-o", f"remount,bind,{'ro' if on else 'rw'}", "/etc/pve")

    def _first_child(self, parent: int) -> int:
        def look() -> int:
            done = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
            return int(done.stdout.split()[0]) if done.stdout.split() else 0

        return wait_for(look, "the node's first process", 5)


def _needed() -> set[str]:
    """The tests' Python, these files, and the second QEMU."""
    return {sys.prefix, sys.base_prefix, str(SETUP.parents[3]), str(Path(qemu10()).parent)}


def loopback() -> str:
    """A loopback network of three numbers that hardly anybody else has; the fourth is the node's."""
    return f"127.{os.urandom(1)[0] % 250 + 2}.{os.urandom(1)[0]}"
