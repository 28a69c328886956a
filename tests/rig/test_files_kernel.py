"""What we read of a file system is what the kernel shows of it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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


# --- partitions and volume managers ----------------------------------------------------------------

DISKS_WITH_TABLES = {
    "gpt": "label: gpt\nsize=64MiB, name=boot\nsize=96MiB, type=S\nsize=64MiB\n",
    "mbr": "label: dos\nsize=64MiB\nsize=32MiB, type=82\nsize=140MiB, type=5\nd5: size=32MiB\nd6: size=64MiB\n",
}


@pytest.mark.parametrize("table", DISKS_WITH_TABLES)
def test_partitions_are_named_as_the_kernel_does(table: str, tmp_path: Path) -> None:
    image = blank(tmp_path / "disk", 300 * MIB)
    subprocess.run(["sfdisk", "-q", image], input=DISKS_WITH_TABLES[table].encode(), check=True)
    rows = [line.split() for line in run("sfdisk", "-l", "-o", "Device,Start,Sectors", image).splitlines()]
    places = {
        row[0].removeprefix(str(image)): (int(row[1]), int(row[2]))
        for row in rows
        if row[:1] and str(image) in row[0]
    }
    last = max(places, key=lambda number: places[number][0])
    for number, tool in {
        "1": ("mkfs.ext4", "-qF", "-L", "one"),
        "2": ("mkswap", "-q"),
        last: ("mkfs.ext2", "-qF"),
    }.items():
        start, sectors = places[number]
        part = blank(tmp_path / "part", sectors * 512)
        run(*tool, part)
        if number == "1":
            with mounted(part, tmp_path / "m", "-o", "loop") as top:
                (top / "etc").mkdir()
                device = f"/dev/vda{last}"
                (top / "etc/fstab").write_text(
                    f"# a comment\nLABEL=one / ext4 defaults 0 1\n{device} /with\\040space ext2 ro\n"
                )
                (top / "with space").mkdir()
                (top / "with space/hidden").write_text("under the mount")
        run(
            "dd", f"if={part}", f"of={image}", "bs=512", f"seek={start}", "conv=notrunc,sparse", "status=none"
        )
    with opened(image) as files:
        kinds = {volume.name: (volume.kind, volume.mounted) for volume in files.volumes}
        assert kinds["vda1"] == ("ext4", "/")
        assert kinds["vda2"] == ("swap", "")
        assert kinds[f"vda{last}"] == ("ext2", "/with space")
        assert [entry.name for entry in files.entries("", "/with space")] == ["lost+found"]


@pytest.mark.parametrize("layout", ["linear", "striped"])
def test_logical_volumes(layout: str, tmp_path: Path) -> None:
    """LVM's own tools lay the volume out; not every kernel maps it, so its bytes are put in their places here."""
    images = [blank(tmp_path / f"disk{number}", 200 * MIB) for number in range(2)]
    with ExitStack() as stack:
        devices = [stack.enter_context(loop(image)) for image in images]
        only = ",".join(f'"a|^{device}$|"' for device in devices)
        config = f'devices {{ filter=[{only},"r|.*|"] use_devicesfile=0 }} activation {{ udev_sync=0 udev_rules=0 }}'
        quiet = ("--config", config, "--driverloaded", "n")
        run("pvcreate", "-q", *quiet, *devices)
        run("vgcreate", "-q", *quiet, "vg-0", *devices)
        stripes = ("-i", "2", "-I", "64k") if layout == "striped" else ()
        how = ("-L", "300m" if stripes else "240m", "-n", "root", *stripes)
        run("lvcreate", "-q", "-an", "-Zn", "-Wn", *quiet, *how, "vg-0")
        start = int(
            run("pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", *quiet, devices[0])
        )
        ranges = run("lvs", "--noheadings", "--segments", "-o", "seg_pe_ranges", *quiet, "vg-0/root").split()
    content = blank(tmp_path / "content", (300 if stripes else 240) * MIB)
    run("mkfs.ext4", "-qF", content)
    with mounted(content, tmp_path / "m", "-o", "loop") as top:
        fill(top)
    with mounted(content, tmp_path / "m", "-o", "loop,ro") as top:
        kernel = seen_by_kernel(top, LARGEST)
    lay_out(content, images, devices, ranges, start, striped=bool(stripes))
    with opened(*images) as files:
        names = {volume.name: volume for volume in files.volumes}
        assert (names["vda"].kind, names["vdb"].kind) == ("lvm", "lvm")
        assert names["vg-0-root"].readable, names["vg-0-root"].note
        assert_alike(seen_by_us(files, "vg-0-root"), kernel)
    with opened(images[0]) as files:
        (lost,) = [volume for volume in files.volumes if volume.name == "vg-0-root"]
        assert "not among the disks" in lost.note


def lay_out(
    content: Path, images: list[Path], devices: list[str], ranges: list[str], start: int, *, striped: bool
) -> None:
    """ranges: `/dev/loop0:0-59`, the extents of 4 MiB in the order in which they come."""
    pieces = []
    for text in ranges:
        device, _, extents = text.rpartition(":")
        low, high = map(int, extents.split("-"))
        pieces.append((images[devices.index(device)], start + low * 4 * MIB, (high - low + 1) * 4 * MIB))
    with content.open("rb") as source:
        if striped:
            each, at = 64 * 1024, 0
            while block := source.read(each):
                image, place, _ = pieces[at % 2]
                put(image, place + at // 2 * each, block)
                at += 1
            return
        for image, place, length in pieces:
            for offset in range(0, length, MIB):
                put(image, place + offset, source.read(MIB))


def put(image: Path, place: int, content: bytes) -> None:
    if content.count(0) == len(content):
        return
    with image.open("r+b") as file:
        file.seek(place)
        file.write(content)


def test_what_is_encrypted_or_unknown_is_named(tmp_path: Path) -> None:
    luks = blank(tmp_path / "luks", 32 * MIB)
    put(luks, 0, b"LUKS\xba\xbe\0\2")
    noise = blank(tmp_path / "noise", 8 * MIB)
    put(noise, 0, os.urandom(MIB))
    with opened(luks, noise) as files:
        told = [(volume.kind, volume.readable, volume.note) for volume in files.volumes]
    assert told[0][:2] == ("encrypted", False)
    assert told[0][2].startswith("LUKS. It is encrypted")
    assert told[1] == ("unknown", False, "")


def test_subvolumes_are_folders_and_the_root_is_found_in_one(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk", 200 * MIB)
    run("mkfs.btrfs", "-q", image)
    with mounted(image, tmp_path / "m", "-o", "loop") as top:
        for name in ("@", "@home"):
            run("btrfs", "subvolume", "create", top / name)
        (top / "@/etc").mkdir()
        (top / "@/home").mkdir()
        label = run("blkid", "-s", "UUID", "-o", "value", image).strip()
        (top / "@/etc/fstab").write_text(
            f"UUID={label} / btrfs subvol=@\nUUID={label} /home btrfs subvol=/@home\n"
        )
        (top / "@home/mine").write_text("here")
    with opened(image) as files:
        assert b"".join(files.read("", "/home/mine", 0, 100)) == b"here"
        assert sorted(entry.name for entry in files.entries("vda", "/")) == ["@", "@home"]
