"""A libvirt host of its own, on this machine.

It has its own mount, process and host-name namespaces: own /etc/libvirt, /var/lib/libvirt, /run/libvirt,
/var/log/libvirt and /var/cache/libvirt, own libvirtd, virtlogd and QEMU processes, own host name. So it
never meets the machine's own libvirt or another session's, and when its first process ends, however the
session ended, the kernel ends all the others and drops all its mounts. Of the rest, /tmp, /run and the
accounts are its own too; the network and all other folders are shared with this machine.

Everything that the host does must be started inside: `run` and `virsh` do so, and an sshd started with
`enter` in front gives logins that see this host and no other.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from lab.accounts import write_accounts
from lab.waiting import wait_for

SETUP = Path(__file__).parent / "host.sh"
_START_TIMEOUT = 30.0


class CommandError(AssertionError):
    """A program on the lab's host failed; shown as a failed assertion with its words."""


class LibvirtHost:
    """One libvirt host. root: a scratch folder of its own that libvirt-qemu can traverse."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def start(self) -> None:
        """Create the namespaces and start virtlogd and libvirtd in them; returns once virsh answers."""
        self._write_configuration()
        with (self.root / "setup.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "-u", "-p", "-f", "--mount-proc", "--kill-child", "--",
                 "sh", str(SETUP), str(self.root), self.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"up\n":
            problem = (self.root / "setup.log").read_text(errors="replace")
            self.close()
            raise CommandError(f"the lab's host {self.name} did not start: {problem}")
        self._init = self._first_child(self._process.pid)
        self.wait_for_libvirtd()

    def close(self) -> None:
        """End the host with everything that runs on it."""
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

    @property
    def running(self) -> bool:
        return self._process is not None

    # --- inside ---

    @property
    def enter(self) -> tuple[str, ...]:
        """Put this before a command to run it on the host."""
        return ("nsenter", "-t", str(self._init), "-m", "-u", "-p", "--")

    @property
    def become(self) -> tuple[str, ...]:
        """As `enter`, for a server that shall stay our own child: only what it starts has the host's process
        numbers."""
        return ("nsenter", "-t", str(self._init), "-m", "-u", "-p", "--no-fork", "--")

    def path(self, path: str | Path) -> Path:
        """Where a file of the host is for this process: also under its own mounts."""
        return Path(f"/proc/{self._init}/root{path}")

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host. Raises CommandError (check, and a status other than 0)."""
        done = subprocess.run(
            [*self.enter, "env", "LC_ALL=C", *argv],
            capture_output=True, text=True, errors="replace", timeout=timeout, input=stdin, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise CommandError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
        return done

    def virsh(self, *args: str, check: bool = True, timeout: float = 60.0, stdin: str = "") -> str:
        """Output of `virsh ARGS` on this host, without the empty lines around it."""
        argv = ["virsh", "-q", "-c", "qemu:///system", *args]
        return self.run(argv, check=check, timeout=timeout, stdin=stdin).stdout.strip("\n")

    def domains(self) -> dict[str, str]:
        """UUID -> name of all guests of the host."""
        uuids = self.virsh("list", "--all", "--uuid").split()
        return {one: self.virsh("domname", one) for one in uuids}

    def processes(self) -> dict[int, str]:
        """Process number on the host -> command line, of everything that runs there but the first."""
        found = {}
        for line in self.run(["ps", "-e", "-o", "pid=,args="]).stdout.splitlines():
            number, _, command = line.strip().partition(" ")
            if number != "1" and not command.startswith(("ps -e", "[")) and command != "cat":
                found[int(number)] = command.strip()
        return found

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process, by its number on the host."""
        self.run(["kill", f"-{number.name.removeprefix('SIG')}", str(pid)])

    # --- its mounts and daemons ---

    def tmpfs(self, folder: Path, mib: int) -> None:
        """Mount a small file system over a folder, before the VM starts: QEMU does not see later mounts."""
        self.run(["mkdir", "-p", str(folder)])
        self.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0711", "lab", str(folder)])

    def libvirtd_pid(self) -> int:
        """libvirtd's process number on the host; 0 when it does not run."""
        done = self.run(["pgrep", "-x", "libvirtd"], check=False)
        return int(done.stdout.split()[0]) if done.stdout.split() else 0

    def kill_libvirtd(self) -> None:
        """kill -9. Guests run on; nothing answers until start_libvirtd."""
        pid = self.libvirtd_pid()
        self.signal(pid, signal.SIGKILL)
        wait_for(lambda: not self.libvirtd_pid(), "libvirtd to be gone", 10)

    def stop_libvirtd(self) -> None:
        """End libvirtd in good order."""
        pid = self.libvirtd_pid()
        self.signal(pid, signal.SIGTERM)
        wait_for(lambda: not self.libvirtd_pid(), "libvirtd to end", 20)

    def start_libvirtd(self) -> None:
        self.run(["libvirtd", "-d", "-p", f"{self.root}/libvirtd.pid"])
        self.wait_for_libvirtd()

    def wait_for_libvirtd(self) -> None:
        wait_for(
            lambda: self.virsh("version", check=False), f"libvirtd of {self.name} to answer", _START_TIMEOUT
        )

    # --- start ---

    def _write_configuration(self) -> None:
        for name in ("etc", "varlib", "run", "varlog", "varcache"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        write_accounts(self.root / "accounts")
        shutil.copytree("/etc/libvirt", self.root / "etc", dirs_exist_ok=True, ignore=_machines_own)
        (self.root / "etc/libvirtd.conf").write_text(
            f'host_uuid = "{uuid.uuid4()}"\n'
            'unix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\nauth_unix_rw = "none"\n'
        )
        # Control groups are the one thing that namespaces do not part: two hosts may have equal guests.
        (self.root / "etc/qemu.conf").write_text('cgroup_controllers = []\nsecurity_driver = "none"\n')

    def _first_child(self, parent: int) -> int:
        def look() -> int:
            done = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
            return int(done.stdout.split()[0]) if done.stdout.split() else 0

        return wait_for(look, "the host's first process", 5)


def _machines_own(folder: str, names: list[str]) -> set[str]:
    """Guests, networks and pools that the machine itself has, and its secrets, stay behind."""
    return {"qemu", "storage", "secrets", "autostart"} & set(names) if folder == "/etc/libvirt" else set()


def traversable(folder: Path) -> bool:
    """Whether every user may walk to the folder, as QEMU's user must."""
    return all(part.stat().st_mode & 0o001 for part in [folder, *folder.parents])
