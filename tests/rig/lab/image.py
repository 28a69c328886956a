"""The guests' kernel and initramfs: Debian's own kernel, busybox, the real qemu-ga and labtool.

Built once per kernel, agent and recipe, and kept in a cache folder shared by all sessions
($XDG_CACHE_HOME/vmconsole-rig, otherwise /var/tmp/vmconsole-rig/cache).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RECIPE = Path(__file__).parent / "initramfs"
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_console", "virtio_balloon", "virtio_net",
)  # fmt: skip
AGENT = Path("/usr/sbin/qemu-ga")
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_KEEP = 3
"""How many builds stay in the cache."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What every guest boots. The files are in the cache: copy them before a hypervisor relabels them."""

    kernel: Path
    initrd: Path


def newest_kernel() -> Path | None:
    """Debian's cloud kernel of the highest version that has its modules here; None without one."""
    kernels = [
        path
        for path in Path("/boot").glob("vmlinuz-*-cloud-amd64")
        if Path("/lib/modules", path.name.removeprefix("vmlinuz-")).is_dir()
    ]
    return max(kernels, key=lambda path: path.stat().st_mtime, default=None)


def guest_image(cache: Path) -> GuestImage:
    """The image from the cache folder, built first if need be."""
    kernel = newest_kernel()
    if kernel is None:
        raise FileNotFoundError("no cloud kernel with its modules: apt-get install linux-image-cloud-amd64")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"guest-{_key(kernel)}"
    with _locked(cache / "lock"):
        if not folder.is_dir():
            _build(kernel, folder)
        os.utime(folder)
        _drop_old(cache)
    return GuestImage(folder / "vmlinuz", folder / "initrd")


def _key(kernel: Path) -> str:
    digest = hashlib.sha256(kernel.name.encode())
    for path in (kernel, AGENT, Path("/usr/bin/busybox")):
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode())
    for path in sorted([*RECIPE.iterdir(), Path(__file__)]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _drop_old(cache: Path) -> None:
    builds = sorted(cache.glob("guest-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in builds[_KEEP:]:
        shutil.rmtree(folder, ignore_errors=True)


def _build(kernel: Path, folder: Path) -> None:
    """Build beside the final place and move: a build that dies leaves no half image behind."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as scratch:
        tree, done = Path(scratch, "tree"), Path(scratch, "done")
        for name in ("bin", "sbin", "lib", "lib64", "usr/sbin", "modules", "etc"):
            (tree / name).mkdir(parents=True)
        done.mkdir()
        _add_modules(kernel.name.removeprefix("vmlinuz-"), tree / "modules")
        _add_programs(tree)
        (tree / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
        shutil.copyfile(kernel, done / "vmlinuz")
        _pack(tree, done / "initrd")
        done.rename(folder)


def _add_modules(version: str, target: Path) -> None:
    """Copy the drivers, and note the order in which they load."""
    order: dict[str, None] = {}
    for module in MODULES:
        lines = _output("/sbin/modprobe", "-S", version, "--show-depends", module).splitlines()
        for line in lines:
            verb, _, rest = line.partition(" ")
            if verb == "insmod":
                order[rest.split()[0]] = None
    for path in order:
        shutil.copy(path, target)
    (target / "order").write_text("".join(f"{Path(path).name}\n" for path in order))


def _add_programs(tree: Path) -> None:
    shutil.copy("/usr/bin/busybox", tree / "bin/busybox")
    shutil.copy(AGENT, tree / "usr/sbin")
    shutil.copy(LOADER, tree / "lib64")
    for line in _output("ldd", str(AGENT)).splitlines():
        words = line.split()
        if len(words) >= 3 and words[2].startswith("/"):
            shutil.copy(words[2], tree / "lib")
    _output(
        "gcc", "-O1", "-static", "-Wall", "-Wextra", "-Werror", "-s",
        "-o", str(tree / "sbin/labtool"), *map(str, sorted(RECIPE.glob("*.c"))),
    )  # fmt: skip
    for name in ("lab-agent", "lab-lockstep", "shutdown"):
        shutil.copy(RECIPE / name, tree / "sbin" / name)
        (tree / "sbin" / name).chmod(0o755)
    shutil.copy(RECIPE / "init", tree / "init")
    (tree / "init").chmod(0o755)


def _pack(tree: Path, target: Path) -> None:
    """Uncompressed: an emulated processor unpacks more slowly than QEMU copies."""
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    with target.open("wb") as out:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
            cwd=tree, input=names.encode(), stdout=out, check=True,
        )  # fmt: skip


def _output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
