"""A real OpenSSH sshd on loopback, with keys and configuration of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

_START_TIMEOUT = 10.0


class Sshd:
    """One sshd for one client key; the user is whoever runs the test.

    options: lines of sshd_config that come before ours, so they win (`{"AllowStreamLocalForwarding": "no"}`).
    path_prefix: a folder put in front of our own PATH, which everything run over SSH gets. HOME is an
    empty folder, unless options name a SetEnv.
    host_key_types: as for `ssh-keygen -t`; the first is the one that host_key_fingerprint names.
    launcher: words in front of the server's command; they must end by becoming that command.
    """

    def __init__(
        self,
        tmp_path: Path,
        options: Mapping[str, str] | None = None,
        path_prefix: Path | str | None = None,
        *,
        host_key_types: tuple[str, ...] = ("ed25519",),
        host: str = "127.0.0.1",
        launcher: Sequence[str] = (),
    ) -> None:
        self.folder = tmp_path / f"sshd-{os.urandom(4).hex()}"
        self.folder.mkdir(parents=True, mode=0o700)
        self.home = self.folder / "home"
        self.home.mkdir()
        self.host = host
        self.user = getpass.getuser()
        self.port = _free_port(host)
        self._options = dict(options or {})
        self._path_prefix = path_prefix
        self._launcher = tuple(launcher)
        self._server: subprocess.Popen[bytes] | None = None
        self.log_path = self.folder / "sshd.log"
        self.client_key_path = self._key("client", "ed25519")
        self._host_keys = [self._key(f"host_{kind}", kind) for kind in host_key_types]
        self.authorized_keys_path = self.folder / "authorized_keys"
        self.authorize(self.client_key_path)

    @property
    def address(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    @property
    def host_key_fingerprint(self) -> str:
        """`SHA256:…` of the first host key, as ssh-keygen -lf says."""
        return self.fingerprint(self._host_keys[0])

    @property
    def known_hosts_line(self) -> str:
        """The first host key as a line of known_hosts."""
        return self.known_hosts_lines[0]

    @property
    def known_hosts_lines(self) -> list[str]:
        lines = []
        for key in self._host_keys:
            kind, blob = key.with_suffix(".pub").read_text().split()[:2]
            lines.append(f"[{self.host}]:{self.port} {kind} {blob}")
        return lines

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @staticmethod
    def fingerprint(key: Path) -> str:
        listing = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True)
        return listing.stdout.split()[1]

    def authorize(self, key: Path) -> None:
        """Let another client key in."""
        with self.authorized_keys_path.open("a") as file:
            file.write(key.with_suffix(".pub").read_text())
        self.authorized_keys_path.chmod(0o600)

    def renew_host_key(self, kind: str = "ed25519") -> None:
        """Replace the host keys by a new one; takes effect at the next start()."""
        for key in self._host_keys:
            key.unlink()
            key.with_suffix(".pub").unlink()
        self._host_keys = [self._key(f"host_{kind}", kind)]

    def write_known_hosts(self, path: Path) -> Path:
        path.write_text("\n".join(self.known_hosts_lines) + "\n")
        return path

    def start(self) -> Sshd:
        if os.geteuid() == 0:
            # sshd's privilege separation directory; its path is compiled in.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(self._config())
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            raise RuntimeError("sshd is not installed")
        with self.log_path.open("ab") as log:
            self._server = subprocess.Popen(
                [*self._launcher, program, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._await_port()
        return self

    def stop(self) -> None:
        """End the server and every session it serves."""
        if self._server is None:
            return
        self.cut()
        self._server.terminate()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def cut(self) -> int:
        """Kill the processes that serve sessions, as a crash of the host would; returns how many."""
        sessions = self.sessions()
        for pid in sessions:
            _signal(pid, signal.SIGKILL)
        return len(sessions)

    def freeze(self) -> list[int]:
        """Stop the processes that serve sessions: connections stay open, nothing answers."""
        sessions = self.sessions()
        for pid in sessions:
            _signal(pid, signal.SIGSTOP)
        return sessions

    def thaw(self) -> None:
        for pid in self.sessions():
            _signal(pid, signal.SIGCONT)

    def sessions(self) -> list[int]:
        """Processes named sshd below our server."""
        assert self._server is not None
        return [pid for pid in _descendants(self._server.pid) if _name(pid).startswith("sshd")]

    def __enter__(self) -> Sshd:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _key(self, name: str, kind: str) -> Path:
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path), "-C", name], check=True)
        return path

    def _config(self) -> str:
        lines = [f"{name} {value}" for name, value in self._options.items()]
        if "SetEnv" not in self._options:
            # A home of its own: bash run by sshd reads ~/.bashrc, which may change PATH.
            path = os.environ.get("PATH", os.defpath)
            path = path if self._path_prefix is None else f"{self._path_prefix}:{path}"
            lines.append(f'SetEnv HOME={self.home} PATH="{path}"')
        lines += [f"HostKey {key}" for key in self._host_keys]
        lines += [
            f"ListenAddress {self.host}",
            f"Port {self.port}",
            f"AuthorizedKeysFile {self.authorized_keys_path}",
            f"PidFile {self.folder / 'sshd.pid'}",
            "PermitRootLogin yes",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitUserEnvironment no",
            "PrintMotd no",
            "MaxStartups 100",
            "LogLevel VERBOSE",
        ]
        return "\n".join(lines) + "\n"

    def _await_port(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if self._server.poll() is not None:
                raise RuntimeError(f"sshd ended at once:\n{self.log}")
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"sshd does not answer:\n{self.log}")


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = list(parents.get(pid, []))
    while queue:
        child = queue.pop()
        found.append(child)
        queue += parents.get(child, [])
    return found
