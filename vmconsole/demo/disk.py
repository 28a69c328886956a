"""Virtual disks that remember what was written since when, and can be frozen in time.

What QEMU does for a pull backup, in small: named dirty bitmaps at 64 KiB, and a snapshot that stays
as it was while the guest goes on writing (old content is copied aside before it is overwritten).
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

GRANULE = 64 * 1024
_PIECE = 1024 * 1024


class VirtualDisk:
    """A sparse file that guests write and backups read. Thread-safe. Sizes and offsets in bytes.

    format is what the host says of it ("qcow2" or "raw"); the file itself is always raw.
    allocated: one byte per 64 KiB granule, 1 when it holds data; the rest reads as zeros.
    """

    def __init__(self, path: Path, size: int, *, format: str = "qcow2") -> None:  # noqa: A002 (libvirt's word)
        self.path = path
        self.format = format
        self.size = size
        self.lock = threading.RLock()
        self.bitmaps: dict[str, bytearray] = {}
        self.allocated = bytearray(granules(size))
        self.bytes_written = 0
        self.writes = 0
        self.write_seconds = 0.0
        self._snapshots: list[Snapshot] = []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        with self.lock:
            for snapshot in list(self._snapshots):
                snapshot.close()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def write_many(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Write (offset, data) pieces so that a snapshot sees all of them or none."""
        with self.lock:
            for offset, data in pieces:
                if data:
                    self._write(offset, data, 1)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros; whole granules are given back."""
        first, end = -(-offset // GRANULE) * GRANULE, (offset + length) // GRANULE * GRANULE
        with self.lock:
            if first >= end:
                self._write(offset, bytes(length), 1)
                return
            if offset < first:
                self._write(offset, bytes(first - offset), 1)
            for start in range(first, end, _PIECE):
                self._write(start, bytes(min(_PIECE, end - start)), 0)
            if end < offset + length:
                self._write(end, bytes(offset + length - end), 1)

    def read_at(self, offset: int, length: int) -> bytes:
        with self.lock:
            return os.pread(self._fd, length, offset)

    def resize(self, size: int) -> None:
        """Grow. The new part is clean in every bitmap, as QEMU has it."""
        with self.lock:
            if size < self.size:
                raise ValueError("a disk only grows")
            os.ftruncate(self._fd, size)
            self.size = size
            for map_ in (self.allocated, *self.bitmaps.values()):
                map_.extend(bytes(granules(size) - len(map_)))

    @property
    def allocated_bytes(self) -> int:
        return self.allocated.count(1) * GRANULE

    def dirty_bytes(self, bitmap: str) -> int:
        with self.lock:
            return self.bitmaps[bitmap].count(1) * GRANULE

    def _write(self, offset: int, data: bytes, allocated: int) -> None:
        began, end = time.monotonic(), offset + len(data)
        if offset < 0 or end > self.size:
            raise ValueError("a write outside the disk")
        first, last = offset // GRANULE, (end - 1) // GRANULE
        for snapshot in self._snapshots:
            snapshot.preserve(self._fd, first, last)
        view = memoryview(data)
        while view:
            view = view[os.pwrite(self._fd, view, end - len(view)) :]
        self.allocated[first : last + 1] = bytes([allocated]) * (last - first + 1)
        for bitmap in self.bitmaps.values():
            bitmap[first : last + 1] = b"\x01" * (last - first + 1)
        self.bytes_written += len(data)
        self.writes += 1
        self.write_seconds += time.monotonic() - began

    def _attach(self, snapshot: Snapshot) -> None:
        self._snapshots.append(snapshot)

    def _detach(self, snapshot: Snapshot) -> None:
        if snapshot in self._snapshots:
            self._snapshots.remove(snapshot)


class Snapshot:
    """A disk as it was at one instant. Made by cut(). Thread-safe."""

    def __init__(self, disk: VirtualDisk, scratch: Path, base: str) -> None:
        """base: the bitmap whose dirty granules matter, or empty."""
        self.disk = disk
        self.size = disk.size
        self.scratch_path = scratch
        self.allocated = bytes(disk.allocated)
        self.dirty = bytes(disk.bitmaps[base]) if base else b""
        self._saved = bytearray(len(self.allocated))
        self._scratch = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        disk._attach(self)

    @property
    def scratch_bytes(self) -> int:
        """What had to be copied aside so far."""
        return self._saved.count(1) * GRANULE

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes as they were; fewer at the end of the disk. Raises OSError when closed."""
        end = min(offset + length, self.size)
        out = bytearray(max(end - offset, 0))
        with self.disk.lock:
            if self._scratch < 0:
                raise OSError("the snapshot is gone")
            position = offset
            while position < end:
                kind = self._where(position // GRANULE)
                stop = (position // GRANULE + 1) * GRANULE
                while stop < end and self._where(stop // GRANULE) == kind:
                    stop += GRANULE
                stop = min(stop, end)
                if kind:
                    descriptor = self._scratch if kind == 2 else self.disk._fd
                    out[position - offset : stop - offset] = os.pread(descriptor, stop - position, position)
                position = stop
        return bytes(out)

    def close(self) -> None:
        with self.disk.lock:
            self.disk._detach(self)
            if self._scratch >= 0:
                os.close(self._scratch)
                self._scratch = -1
                self.scratch_path.unlink(missing_ok=True)

    def preserve(self, descriptor: int, first: int, last: int) -> None:
        """Before the disk's granules are overwritten: copy aside what is not yet safe."""
        for granule in range(first, min(last + 1, len(self._saved))):
            if self.allocated[granule] and not self._saved[granule]:
                os.pwrite(self._scratch, os.pread(descriptor, GRANULE, granule * GRANULE), granule * GRANULE)
                self._saved[granule] = 1

    def _where(self, granule: int) -> int:
        """0: zeros, 1: still in the disk, 2: in the scratch file."""
        if not self.allocated[granule]:
            return 0
        return 2 if self._saved[granule] else 1


class Witness:
    """A full copy of a disk at the cut, for its sha256: shares nothing with the snapshot's tricks."""

    def __init__(self, disk: VirtualDisk, path: Path) -> None:
        self._path = path
        self.size = disk.size
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, disk.size)
            for start, end in runs(disk.allocated, 1):
                position, stop = start * GRANULE, min(end * GRANULE, disk.size)
                while position < stop:
                    piece = os.pread(disk._fd, min(_PIECE, stop - position), position)
                    position += os.pwrite(descriptor, piece, position)
        finally:
            os.close(descriptor)

    def sha256(self) -> str:
        """Hex digest of the whole disk; removes the copy."""
        digest = hashlib.sha256()
        with self._path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        self._path.unlink()
        return digest.hexdigest()


def cut(
    disks: Sequence[tuple[VirtualDisk, str, Path]],
    witness_folder: Path,
    *,
    new_bitmap: str = "",
    tracked: Sequence[VirtualDisk] = (),
) -> list[tuple[Snapshot, Witness]]:
    """Freeze several disks at one instant, as one backup-begin does.

    disks: each with its base bitmap, or empty, and the path of its scratch file. new_bitmap starts
    recording at this instant on the tracked disks.
    """
    with ExitStack() as locks:
        for disk in {id(disk): disk for disk in (*(item[0] for item in disks), *tracked)}.values():
            locks.enter_context(disk.lock)
        made = [
            (Snapshot(disk, scratch, base), Witness(disk, witness_folder / f"{uuid4().hex}.witness"))
            for disk, base, scratch in disks
        ]
        if new_bitmap:
            for disk in tracked:
                disk.bitmaps[new_bitmap] = bytearray(granules(disk.size))
        return made


def granules(size: int) -> int:
    return -(-size // GRANULE)


def runs(flags: bytes | bytearray, value: int) -> Iterator[tuple[int, int]]:
    """(first, end) of each stretch of granules with that value."""
    other, position = 1 - value, 0
    while (first := flags.find(value, position)) >= 0:
        end = flags.find(other, first)
        position = len(flags) if end < 0 else end
        yield first, position
