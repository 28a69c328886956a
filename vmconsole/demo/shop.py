"""The small shop that ships in the package: a libvirt-like host and a Proxmox cluster with guests, over SSH and NBD.

Nothing is needed but Python and the installed package; everything runs in this process, as this user, on
loopback, inside one folder (and a short-named one for sockets, removed at the end).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vmconsole.demo import contents, qemu_tools, virsh
from vmconsole.demo.control import Answer, Call, Control, install
from vmconsole.demo.guests import Guest
from vmconsole.demo.host import Folders, Host
from vmconsole.demo.pve import servers
from vmconsole.demo.pve.cluster import Cluster
from vmconsole.demo.report import build_report
from vmconsole.demo.ssh import SshServer
from vmconsole.errors import UsageError
from vmconsole.model.point import TAR, DiskPoint, RestorePoint

HOST = "kvm1"
CLUSTER = "pve"
GROUP = "nightly"
REPOSITORY = "backup"
USER = "demo"
"""The login name; any would do, the programs run as whoever started the demo."""
_OFF = {"build-07"}
_MARK = ".vmconsole-demo"
_SOCKETS = "sockets"
_SHORT_PREFIX = "vmc-"
_MAX_SHORT = 24
"""Bytes of the socket folder's path, so that libvirt's own long names below it still fit a socket's 107."""


class Shop:
    """One demo: start(), write_config(), back up, night(2), back up again, report(), stop().

    start() builds everything anew below `folder/host`; stop() ends it and keeps the files. Restore
    points of an earlier demo in the same folder stay valid: the guests are the same ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._stack = ExitStack()
        self._host: Host | None = None
        self._ssh: SshServer | None = None
        self._cluster: Cluster | None = None
        self.nodes: dict[str, SshServer] = {}
        """The cluster's, by name."""

    @property
    def host(self) -> Host:
        assert self._host is not None, "the shop is not open"
        return self._host

    @property
    def ssh(self) -> SshServer:
        assert self._ssh is not None, "the shop is not open"
        return self._ssh

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None, "the shop is not open"
        return self._cluster

    @property
    def guests(self) -> list[Guest]:
        return self.host.guests

    def guest(self, name: str) -> Guest:
        return next(guest for guest in self.guests if guest.name == name)

    def start(self) -> None:
        """Raises UsageError when the folder cannot be used."""
        place = self.folder / "host"
        try:
            with ExitStack() as stack:
                self._build(place, stack)
                self._stack = stack.pop_all()
        except BlockingIOError as error:
            raise UsageError(
                f"A demo runs in {self.folder} already.",
                hint="Leave that one first, or name another folder with --dir.",
                subject=str(self.folder),
            ) from error
        except OSError as error:
            raise UsageError(
                f"The demo cannot use {self.folder}: {error.strerror or error}.",
                hint="Name an empty folder with --dir, with 200 MiB free.",
                subject=str(self.folder),
            ) from error

    def stop(self) -> None:
        """End every connection, program, job and thread. May be called twice."""
        self._stack.close()

    def night(self, number: int) -> None:
        """Let the day before night `number` (2, 3, …) happen in the guests."""
        contents.pass_day(self.guests, number)
        self.cluster.night(number)

    def cut_sha256(self, guest: str, disk: str, *, run: str, time: datetime) -> str:
        """Hex digest of a disk at a cut, computed from a copy made at that instant.

        guest: its uuid, of a container its name. The cut is the one that this run asked for, or, where the host
        cannot know the run (a guest that was off), the nearest in time. Raises LookupError.
        """
        cuts = [*self.host.cuts, *self.cluster.cuts]
        records = [item for item in cuts if (item.guest, item.disk) == (guest, disk)]
        asked = [item for item in records if run and run in item.asked]
        if not records:
            raise LookupError(f"disk {disk} of guest {guest} was never cut")
        nearest = min(asked or records, key=lambda item: abs(item.time - time.timestamp()))
        return nearest.sha256.result()

    def sha256(self, point: RestorePoint, disk: DiskPoint) -> str:
        """What the disk of that point was at its cut. Raises LookupError."""
        guest = point.guest if disk.format == TAR else point.uuid
        return self.cut_sha256(guest, disk.id, run=point.run, time=point.time)

    def report(self, points: Iterable[RestorePoint]) -> dict[str, Any]:
        """The document of report.json; also after stop()."""
        return build_report(points, self.sha256)

    def config_text(self) -> str:
        """The configuration that backs this shop up; paths are relative to the shop's folder."""
        address = f"{USER}@127.0.0.1:{self.ssh.port}"
        scratch = str(self.folder / "host" / "scratch")
        return f"""\
# The configuration of the demo shop. It is written anew whenever the demo starts.
state_dir = "state"

[hosts.{HOST}]
kind = "libvirt"
address = {json.dumps(address)}
identity_files = ["host/client_key"]
known_hosts = "host/known_hosts"
ssh_config = "/dev/null"
uri = "qemu:///session"
scratch = {json.dumps(scratch)}
scratch_reserve = "16 MiB"

{servers.config_text(CLUSTER, self.nodes)}
[repositories.{REPOSITORY}]
location = "repository"
passphrase = {{ file = "passphrase" }}

[groups.{GROUP}]
hosts = ["{HOST}", "{CLUSTER}"]
when = "daily 02:00"
keep = {{ daily = 14, weekly = 8 }}

[groups.databases]
guests = ["db-*"]
when = "every 4 h"
keep = {{ last = 12 }}
"""

    def write_config(self) -> Path:
        """Write `config.toml`, and `passphrase` unless it is there; returns the configuration's path."""
        passphrase = self.folder / "passphrase"
        if not passphrase.exists():
            descriptor = os.open(passphrase, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24) + "\n")
        config = self.folder / "config.toml"
        config.write_text(self.config_text(), "utf-8")
        return config

    def _build(self, place: Path, stack: ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stack.callback(os.close, _take_over(place))
        short = _short_folder()
        stack.callback(shutil.rmtree, short, ignore_errors=True)
        (place / _SOCKETS).symlink_to(short)
        stack.callback((place / _SOCKETS).unlink)
        environment = _environment(place, short)
        for folder in (place / "bin", place / "home", place / "scratch", short / "t"):
            folder.mkdir(mode=0o700)
        libvirt = Path("libvirt") / "qemu"
        host = Host(
            Folders(
                images=place / "images",
                witnesses=place / "witnesses",
                lib=short / "c" / libvirt / "lib",
                run=short / "r" / libvirt / "run",
                log=place / "cache" / libvirt / "log",
            )
        )
        stack.callback(host.close)
        host.guests += contents.make_guests(host.folders.images)
        for guest in host.guests:
            if guest.name not in _OFF:
                host.start(guest)
        control = Control(short / "ctl", lambda call: _answer(host, call))
        stack.callback(control.close)
        install(place / "bin", tuple(_TOOLS), sys.executable, control.path)
        ssh = SshServer(place, env=environment, home=place / "home", sockets=short)
        stack.callback(ssh.stop)
        ssh.start()
        cluster = Cluster(place / "pve", short)
        stack.callback(cluster.close)
        self.nodes = servers.serve(cluster, place / "pve", short, ssh.accepted_key, environment, stack)
        with ssh.known_hosts.open("a") as known:
            known.writelines(node.known_hosts.read_text() for node in self.nodes.values())
        self._host, self._ssh, self._cluster = host, ssh, cluster

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


_TOOLS = {"virsh": virsh.run, "qemu-img": qemu_tools.qemu_img, "qemu-nbd": qemu_tools.qemu_nbd}


def _answer(host: Host, call: Call) -> Answer:
    return _TOOLS[call.argv[0]](host, call)


def _environment(place: Path, short: Path) -> dict[str, str]:
    """Of programs on the host: libvirt's folders of a session daemon hang on these."""
    return {
        "PATH": f"{place / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(place / "home"),
        "USER": USER,
        "LOGNAME": USER,
        "LANG": "C.UTF-8",
        "XDG_CONFIG_HOME": str(short / "c"),
        "XDG_RUNTIME_DIR": str(short / "r"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "TMPDIR": str(short / "t"),
    }


def _short_folder() -> Path:
    """A private folder whose path leaves room for the long names of sockets below it."""
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108 (mkdtemp's)
    for place in places:
        room = len(os.fsencode(place)) + len(f"/{_SHORT_PREFIX}xxxxxxxx")
        if place and room <= _MAX_SHORT and os.access(place, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=_SHORT_PREFIX, dir=place))
    return Path(tempfile.mkdtemp(prefix=_SHORT_PREFIX))


def _take_over(place: Path) -> int:
    """Make the folder ours, alone, and empty; returns the descriptor that holds it.

    Removes what an earlier demo left, and nothing that is not a demo's. Raises BlockingIOError when
    a demo runs there.
    """
    mark = place / _MARK
    if place.exists() and any(place.iterdir()) and not mark.exists():
        raise FileExistsError(0, f"{place} is there already and is not a demo's")
    place.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left = place / _SOCKETS
        if left.is_symlink() and left.resolve().name.startswith(_SHORT_PREFIX):
            shutil.rmtree(left.resolve(), ignore_errors=True)
        for item in place.iterdir():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif item != mark:
                item.unlink()
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
