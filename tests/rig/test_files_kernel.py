"""What we read of a file system is what the kernel shows of it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from disk_images import MIB, Seen, blank, fill, loop, mounted, run, seen_by_kernel
from lab.waiting import wait_for

from vmconsole.guestfs.client import open_files
from vmconsole.interfaces import GuestFiles
from vmconsole.model.files import FileEntry, FileKind
from vmconsole.remote.local import LocalMachine

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]

LARGEST = 64 * MIB


class ImageFile:
    """A DiskReader of a file on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)


def opened(*images: Path):  # type: ignore[no-untyped-def]
    disks = {f"vd{'abcd'[number]}": ImageFile(image) for number, image in enumerate(images)}
    return open_files(LocalMachine(), disks)


def seen_by_us(
    files: GuestFiles, volume: str = "", top: str = "/", skip: Sequence[str] = ()
) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    folders = [top]
    while folders:
        folder = folders.pop()
        for entry in list(files.entries(volume, folder)):
            path = f"{folder.rstrip('/')}/{entry.name}"
            if path in skip:
                continue
            if entry.kind is FileKind.FOLDER:
                folders.append(path)
            found[path[len(top.rstrip("/")) + 1 :]] = _seen(files, volume, path, entry)
    return found


def _seen(files: GuestFiles, volume: str, path: str, entry: FileEntry) -> Seen:
    content = ""
    if entry.kind is FileKind.FILE and entry.size <= LARGEST:
        digest = hashlib.sha256()
        for piece in files.read(volume, path, 0, entry.size):
            digest.update(piece)
        content = digest.hexdigest()
    return Seen(
        entry.kind.value, entry.size, entry.changed or 0.0, entry.mode or 0, entry.owner or 0, entry.group or 0,
        entry.target, content, entry.links,
    )  # fmt: skip


UNIX = {
    "ext4": ("mkfs.ext4", "-qF"),
    "ext4 of 1 KiB blocks": ("mkfs.ext4", "-qF", "-b", "1024", "-O", "^has_journal"),
    "ext4 with data in inodes": ("mkfs.ext4", "-qF", "-O", "inline_data", "-I", "256"),
    "ext4 of old": ("mkfs.ext4", "-qF", "-O", "^metadata_csum,^64bit,^flex_bg,^dir_index", "-I", "128"),
    "ext3": ("mkfs.ext3", "-qF"),
    "ext2": ("mkfs.ext2", "-qF", "-b", "1024"),
    "xfs": ("mkfs.xfs", "-q"),
    "xfs of small blocks": ("mkfs.xfs", "-q", "-b", "size=1024", "-m", "bigtime=0,reflink=0"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "btrfs zstd": ("mkfs.btrfs", "-q"),
    "btrfs lzo": ("mkfs.btrfs", "-q"),
    "btrfs zlib": ("mkfs.btrfs", "-q"),
}


@pytest.mark.parametrize("which", UNIX)
def test_what_the_kernel_shows(which: str, tmp_path: Path) -> None:
    image = blank(tmp_path / "disk", 320 * MIB)
    run(*UNIX[which], image)
    kind, _, compression = which.partition(" ")
    options = (
        ["-o", f"loop,compress-force={compression}"] if kind == "btrfs" and compression else ["-o", "loop"]
    )
    with mounted(image, tmp_path / "m", *options) as top:
        fill(top)
    with mounted(image, tmp_path / "m", "-o", "loop,ro") as top:
        kernel = seen_by_kernel(top, LARGEST)
    with opened(image) as files:
        (volume,) = files.volumes
        assert (volume.name, volume.kind, volume.readable) == ("vda", kind, True)
        assert_alike(seen_by_us(files), kernel)


def assert_alike(ours: dict[str, Seen], kernel: dict[str, Seen], blur: float = 1e-6) -> None:
    """blur: seconds by which times may differ: that of the last digit of a float."""
    assert sorted(ours) == sorted(kernel)
    for path, theirs in kernel.items():
        mine = ours[path]
        assert abs(mine.changed - theirs.changed) <= blur, path
        # btrfs counts the names of a folder otherwise than others, and the kernel always says 1.
        links = theirs.links if theirs.kind == "file" else mine.links
        assert replace(mine, changed=theirs.changed, links=links) == replace(theirs, links=links), path


def test_a_journal_that_was_not_written_back(tmp_path: Path) -> None:
    """As in a backup of a guest that nobody froze: the kernel replays it, and so do we, in memory."""
    image = blank(tmp_path / "disk", 128 * MIB)
    run("mkfs.ext4", "-qF", image)
    copy = tmp_path / "copy"
    with mounted(image, tmp_path / "m", "-o", "loop,commit=300") as top:
        fill(top)
        (top / "before").mkdir()
        run("sync", "-f", top)
        for number in range(40):
            (top / f"before/late {number}").write_text(str(number))
        run("rm", "-r", top / "many")
        run("sync", top / "before")
        run("cp", "--sparse=always", image, copy)
    assert "needs_recovery" in run("dumpe2fs", "-h", copy)
    with opened(copy) as files:
        assert "journal" in files.volumes[0].note
        ours = seen_by_us(files)
    with mounted(copy, tmp_path / "m", "-o", "loop") as top:
        kernel = seen_by_kernel(top, LARGEST)
    assert_alike(ours, kernel)


DOS = {
    "fat12": ("mkfs.vfat", "-F", "12", "-n", "LABEL"),
    "fat16": ("mkfs.vfat", "-F", "16"),
    "fat32": ("mkfs.vfat", "-F", "32"),
    "ntfs": ("mkfs.ntfs", "-qF", "-L", "LABEL"),
    "exfat": ("mkfs.exfat",),
}
SIZES = {"fat12": 8, "fat32": 320}
"""MiB."""
DRIVERS = {"ntfs": "ntfs-3g", "exfat": "mount.exfat-fuse"}


@pytest.mark.parametrize("which", DOS)
def test_what_windows_has(which: str, tmp_path: Path) -> None:
    """FAT by mtools, because few test machines' kernels have it; the others by their FUSE drivers."""
    image = blank(tmp_path / "disk", SIZES.get(which, 64) * MIB)
    run(*DOS[which], image)
    if which in DRIVERS:
        with fuse(DRIVERS[which], image, tmp_path / "m") as top:
            fill(top, unix=False)
        with fuse(DRIVERS[which], image, tmp_path / "m") as top:
            there = seen_by_kernel(top, LARGEST)
    else:
        there = fill_fat(image, tmp_path / "source", small=which == "fat12")
    with opened(image) as files:
        (volume,) = files.volumes
        assert (volume.kind, volume.readable, volume.note) == (which, True, "")
        assert volume.label == ("LABEL" if "LABEL" in DOS[which] else "")
        # Owners and modes are the mounter's there, not the disk's.
        common = {"mode": 0, "owner": 0, "group": 0, "links": 1}
        ours = {path: replace(seen, **common) for path, seen in seen_by_us(files).items()}
        theirs = {path: replace(seen, **common) for path, seen in there.items()}
        if which == "exfat":  # Its driver shows folders with the time of their mounting.
            ours, theirs = ({path: _timeless(seen) for path, seen in side.items()} for side in (ours, theirs))
        assert_alike(ours, theirs, blur=2.0)


def _timeless(seen: Seen) -> Seen:
    return replace(seen, changed=0.0) if seen.kind == "folder" else seen


@contextmanager
def fuse(driver: str, image: Path, where: Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    with loop(image) as device:
        run(driver, device, where)
        try:
            yield where
        finally:
            run("umount", where)
            # The driver writes the last of it when it ends, which umount does not wait for.
            wait_for(lambda: not _running(f"{driver} {device} "), f"the end of {driver}")


def _running(command: str) -> bool:
    return subprocess.run(["pgrep", "-f", command], capture_output=True, check=False).returncode == 0


def fill_fat(image: Path, source: Path, *, small: bool) -> dict[str, Seen]:
    source.mkdir()
    fill(source, unix=False, small=small)
    run("env", "TZ=UTC", "LC_ALL=C.UTF-8", "mcopy", "-s", "-m", "-Q", "-i", image, *source.iterdir(), "::")
    # What comes later goes into the gaps, in pieces.
    gaps = [source / f"many/file {number}" for number in range(1, 290, 6)]
    run(
        "env", "LC_ALL=C.UTF-8", "mdel", "-i", image, *(f"::/many/{gap.name}" for gap in gaps if gap.exists())
    )
    for gap in gaps:
        gap.unlink(missing_ok=True)
    (source / "pieces").write_bytes(os.urandom(300 * 1024))
    run("env", "TZ=UTC", "mcopy", "-m", "-i", image, source / "pieces", "::")
    there = seen_by_kernel(source, LARGEST)
    # mtools gives a folder the time at which it makes it.
    with opened(image) as files:
        ours = seen_by_us(files)
    return {
        path: replace(seen, changed=ours[path].changed) if seen.kind == "folder" and path in ours else seen
        for path, seen in there.items()
    }
