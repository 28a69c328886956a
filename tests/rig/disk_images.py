"""Images of disks as guests have them, made with the tools that guests use and filled by the kernel."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
HUGE = 15 * 1024 * 1024 * MIB // 1024  # what ext2 can hold
LONG = "n" * 250
BYTES_NAME = b"not utf-8 \xff\xfe"


def run(*argv: str | Path) -> str:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{argv}: {done.stdout}{done.stderr}")
    return done.stdout


def blank(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@contextmanager
def loop(image: Path, *options: str) -> Iterator[str]:
    device = _loop_device(image, *options)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def _loop_device(image: Path, *options: str) -> str:
    """Another test may take the one that was found free before it is ours."""
    for _ in range(9):
        try:
            return run("losetup", "--find", "--show", *options, image).strip()
        except AssertionError as error:
            lost = error
    raise lost


@contextmanager
def mounted(device: Path | str, where: Path, *options: str) -> Iterator[Path]:
    """options: of mount(8)."""
    where.mkdir(exist_ok=True)
    run("mount", *options, device, where)
    try:
        yield where
    finally:
        run("umount", where)


def fill(top: Path, *, unix: bool = True, small: bool = False) -> None:
    """Files of many kinds. unix: with links, devices, owners and names of any bytes. small: for a few MiB."""
    rng = random.Random(7)
    (top / "etc").mkdir()
    (top / "etc/hostname").write_text("guest\n")
    (top / "empty").touch()
    (top / LONG).write_text("long")
    (top / "ünïcode 目録").write_text("letters")
    deep = top
    for level in range(12):
        deep /= f"level {level}"
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("deep")
    (top / "large").write_bytes(rng.randbytes(MIB if small else 5 * MIB + 17))
    many = top / "many"
    many.mkdir()
    count = 300 if small else 1500
    for number in range(count):
        (many / f"file {number}").write_text(str(number))
    for number in range(0, count, 3):
        (many / f"file {number}").unlink()
    _in_pieces(top, rng)
    if unix:
        _fill_unix(top, rng)


def _in_pieces(top: Path, rng: random.Random) -> None:
    """Two files that grow in turns, each of them in many pieces, and a third that takes the gaps."""
    with (top / "first").open("wb") as first, (top / "second").open("wb") as second:
        for _ in range(60):
            for file in (first, second):
                file.write(rng.randbytes(8192))
                file.flush()
                os.fsync(file.fileno())
    (top / "second").unlink()
    (top / "gaps").write_bytes(rng.randbytes(400 * 1024))


def _fill_unix(top: Path, rng: random.Random) -> None:
    (top / "link").symlink_to("etc/hostname")
    (top / "absolute").symlink_to("/etc")
    (top / "long link").symlink_to("x" * 200)
    os.link(top / "etc/hostname", top / "etc/another name")
    os.mkfifo(top / "pipe", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (top / "large").chmod(0o4751)
    os.chown(top / "large", 70000, 123)
    (top / os.fsdecode(BYTES_NAME)).write_text("bytes")
    os.utime(top / "empty", ns=(0, -86400 * 10**9))
    os.utime(top / "etc", ns=(0, (2**32 + 5) * 10**9))
    with (top / "holes").open("wb") as file:
        for place in (0, 3 * MIB, 9 * MIB):
            file.seek(place)
            file.write(rng.randbytes(5000))
        file.truncate(12 * MIB)
    with (top / "reserved").open("wb") as file:
        file.write(b"written")
        os.posix_fallocate(file.fileno(), 0, 2 * MIB)
    with (top / "hole, reserved, written").open("wb") as file:
        os.posix_fallocate(file.fileno(), MIB, MIB)
        file.seek(3 * MIB)
        file.write(rng.randbytes(MIB))
    blank(top / "huge", HUGE)


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be told of a file from outside. content: its digest."""

    kind: str
    size: int
    changed: float
    mode: int
    owner: int
    group: int
    target: str
    content: str
    links: int


def seen_by_kernel(top: Path, largest: int = 64 * MIB) -> dict[str, Seen]:
    """By path below top. largest: bytes of a file up to which its content counts."""
    found: dict[str, Seen] = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(folder, name)
            facts = path.lstat()
            kind = next(word for test, word in _KINDS if test(facts.st_mode))
            content = ""
            if kind == "file" and facts.st_size <= largest:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(top))] = Seen(
                kind, facts.st_size if kind in ("file", "link") else 0, facts.st_mtime_ns / 1e9,
                stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid,
                str(path.readlink()) if kind == "link" else "", content, facts.st_nlink,
            )  # fmt: skip
    return found


_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISREG, "file"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "device"),
)
