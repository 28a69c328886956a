"""The lab: scratch space, guest image and hosts of one test session."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from lab.domain import DiskSpec, GuestSpec, domain_xml
from lab.guest import Guest
from lab.host import LibvirtHost, traversable
from lab.image import GuestImage, guest_image
from lab.images import make_image

FOLDER_VARIABLE = "VMCONSOLE_RIG_DIR"
DEFAULT_FOLDER = Path("/var/tmp/vmconsole-rig")


class Lab:
    """One session's lab. Everything it makes is in `root`, and in namespaces that die with this process.

    base: where sessions have their folders; QEMU's user must be able to walk there.
    """

    def __init__(self, base: Path | None = None) -> None:
        self.base = base or Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)
        self._numbers = itertools.count(1)
        self._hosts: dict[str, LibvirtHost] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Lab:
        self.base.mkdir(parents=True, exist_ok=True)
        self.base.chmod(0o755)
        remove_dead_sessions(self.base)
        self.root = self.base / f"session-{os.urandom(6).hex()}"
        self._lock = _new_lock(self.root)
        self.root.mkdir()
        self._stack.callback(self._remove_root)
        try:
            self._prepare()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _prepare(self) -> None:
        self.root.chmod(0o755)
        if not traversable(self.root):
            raise RuntimeError(f"{self.root}: QEMU's user cannot walk there; set {FOLDER_VARIABLE}")
        self.image = self._copy_image(guest_image(_cache(self.base)))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- hosts ---

    @property
    def host(self) -> LibvirtHost:
        """The first host, started when first asked for."""
        return self.named_host("vmc-one")

    @property
    def second_host(self) -> LibvirtHost:
        """Another host, which knows nothing of the first one's guests."""
        return self.named_host("vmc-two")

    def named_host(self, name: str) -> LibvirtHost:
        """A host by name, started when first asked for."""
        if name not in self._hosts:
            host = LibvirtHost(name, self.folder(f"host-{name}"))
            self._stack.callback(host.close)
            host.start()
            self._hosts[name] = host
        return self._hosts[name]

    def last_words(self) -> list[tuple[str, str]]:
        """(host, the ends of its guests' QEMU logs)."""
        look = "tail -n 12 /var/log/libvirt/qemu/*.log 2>&1; true"
        return [(name, host.run(["sh", "-c", look]).stdout[-6000:]) for name, host in self._hosts.items()]

    # --- guests ---

    def guest(
        self, name: str = "", disks: Sequence[DiskSpec] = (DiskSpec("vda"),), *,
        host: LibvirtHost | None = None, start: bool = True, **more: Any,
    ) -> Guest:  # fmt: skip
        """A new guest, defined and (unless start is false) started and ready. `more` as in GuestSpec.

        Use it as a context manager, or the fixture `make_guest`, and it is removed at the end.
        """
        number = next(self._numbers)
        host = host or self.host
        spec = GuestSpec(name or f"guest-{number}", str(uuid.uuid4()), tuple(disks), **more)
        folder = self.folder(f"guest-{number}")
        images = {disk.id: folder / (disk.file_name or f"{disk.id}.{disk.driver}") for disk in spec.disks}
        for disk in spec.disks:
            make_image(disk, images[disk.id])
        xml = domain_xml(spec, self.image.kernel, self.image.initrd, images, folder / "console.log")
        host.virsh("define", "/dev/stdin", stdin=xml)
        guest = Guest(host, spec.uuid, spec=spec, images=images, folder=folder)
        if start:
            try:
                guest.start()
            except BaseException:
                guest.remove()
                raise
        return guest

    def adopt(self, uuid: str, host: LibvirtHost | None = None) -> Guest:
        """A guest that something else defined, such as a restore; remove() then keeps its images."""
        return Guest(host or self.host, uuid)

    def folder(self, name: str) -> Path:
        """A folder for files that hosts and QEMU shall reach; made if it is not there."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
        return path

    # --- start and end ---

    def _copy_image(self, image: GuestImage) -> GuestImage:
        """libvirt changes the owner of what guests boot, and those of the cache are everybody's."""
        return GuestImage(
            Path(shutil.copy(image.kernel, self.root)), Path(shutil.copy(image.initrd, self.root))
        )

    def _remove_root(self) -> None:
        shutil.rmtree(self.root)
        _lock_path(self.root).unlink()
        self._lock.close()


def remove_dead_sessions(base: Path) -> list[Path]:
    """Remove what sessions left that ended without their teardown; returns their folders."""
    removed = []
    for path in base.glob("session-*.lock"):
        lock = _try_lock(path)
        if lock is None:
            continue
        with lock:
            folder = path.with_suffix("")
            for pid in _processes_naming(folder):
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
            path.unlink(missing_ok=True)
            removed.append(folder)
    return removed


def _lock_path(folder: Path) -> Path:
    """Beside the session's folder: a lock inside could be made anew while the folder is being removed."""
    return folder.with_suffix(".lock")


def _new_lock(folder: Path) -> TextIO:
    """Lock first and then name it: nobody ever sees a living session's lock unlocked. The kernel lets go of
    it when the session dies."""
    path = _lock_path(folder)
    new = path.with_suffix(".new")
    file = new.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    new.rename(path)
    return file


def _try_lock(path: Path) -> TextIO | None:
    """A session's lock when the session is dead; None while it lives, or when it is just gone."""
    try:
        file = path.open("r+")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _processes_naming(folder: Path) -> Iterator[int]:
    """Host processes of a session: `unshare … host.sh FOLDER/…`, and node.sh of a cluster's."""
    done = subprocess.run(
        ["pgrep", "-f", f"^unshare .*(host|node)\\.sh {folder}/"], capture_output=True, text=True, check=False
    )
    yield from map(int, done.stdout.split())


def _cache(base: Path) -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home, "vmconsole-rig") if home else base / "cache"
