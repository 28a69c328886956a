"""Disk images made on the host, and what the guest's patterns look like in them."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lab.domain import DiskSpec

_BLOCK = 4096


def make_image(disk: DiskSpec, target: Path) -> None:
    """A new image at target, with file system and content as the spec says; the ring at its end empty."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as scratch:
        raw = Path(scratch, "raw")
        with raw.open("wb") as file:
            file.truncate(disk.size)
        if disk.fs:
            _make_filesystem(disk, raw, Path(scratch, "tree"))
        if disk.format == "raw":
            shutil.move(raw, target)
            return
        version = ["-o", "compat=0.10"] if disk.format == "qcow2-v2" else []
        _run("qemu-img", "convert", "-q", "-O", "qcow2", *version, str(raw), str(target))


def _make_filesystem(disk: DiskSpec, raw: Path, tree: Path) -> None:
    tree.mkdir()
    for name, data in disk.content.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    blocks = disk.ring // _BLOCK
    _run("mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), "-d", str(tree), str(raw), str(blocks))


def read_files(raw: Path, names: list[str]) -> Mapping[str, bytes]:
    """Files of an ext4 file system that begins at the start of a raw image; missing ones are left out."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(names):
            out = Path(scratch, str(number))
            _run("debugfs", "-R", f'dump "/{name}" {out}', str(raw))
            if out.exists():
                found[name] = out.read_bytes()
    return found


def filesystem_problems(raw: Path) -> str:
    """What e2fsck finds wrong with the ext4 file system of a raw image; empty when nothing.

    A journal to replay is no problem, the image of a running guest has one: it is replayed in a copy.
    """
    with tempfile.TemporaryDirectory(dir=raw.parent) as scratch:
        copy = Path(scratch, "copy")
        _run("cp", "--sparse=always", str(raw), str(copy))
        for options, fine in ((["-p", "-E", "journal_only"], {0, 1}), (["-fn"], {0})):
            done = subprocess.run(
                ["e2fsck", *options, str(copy)], capture_output=True, text=True, check=False
            )
            if done.returncode not in fine:
                return done.stdout + done.stderr
    return ""


def pattern_bytes(offset: int, length: int, seed: int) -> bytes:
    """What `Guest.pattern` writes at offset: each block of 4 KiB names the seed and its own place."""
    blocks = (struct.pack("<QQ", seed, at) * (_BLOCK // 16) for at in range(offset, offset + length, _BLOCK))
    return b"".join(blocks)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
