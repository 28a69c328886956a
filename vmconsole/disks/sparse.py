"""Writing a disk into a new sparse file of this machine."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vmconsole.errors import GuestExists, RestoreFailed

BLOCK: Final = 4096
_ZERO_BLOCK: Final = bytes(BLOCK)


class SparseFile:
    """A new file of exactly size bytes that reads as zeros until written. Not thread-safe.

    Never opens a file that exists. Zeros are left out where nothing was written before, in blocks
    of 4 KiB. close() makes it durable; abort(), or leaving the `with` block by an error, removes it.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Raises GuestExists, RestoreFailed."""
        if size < 0:
            raise ValueError("a disk has no negative size")
        self.path = path
        self.size = size
        self.bytes_written = 0
        self._highest = 0
        self._fd = _create(path)
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            self.abort()
            raise _failure(path, error) from error

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store data. Raises RestoreFailed."""
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError(f"range {offset}+{len(view)} is outside the file of {self.size} bytes")
        try:
            for start, end, is_zero in _runs(offset, view):
                if is_zero and not self._holds_data(offset + start, offset + end):
                    continue
                self._write_all(offset + start, view[start:end])
        except OSError as error:
            raise _failure(self.path, error) from error

    def close(self) -> None:
        """Make it durable. Raises RestoreFailed; the file is then gone. Idempotent."""
        if self._fd < 0:
            return
        try:
            os.fsync(self._fd)
            _sync_folder(self.path.parent)
        except OSError as error:
            self.abort()
            raise _failure(self.path, error) from error
        fd, self._fd = self._fd, -1
        os.close(fd)

    def abort(self) -> None:
        """Remove the file, unless another one took its place. Idempotent, never raises."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            ours, there = os.fstat(fd), self.path.lstat()
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                self.path.unlink()
        with suppress(OSError):
            os.close(fd)

    def _write_all(self, offset: int, view: memoryview) -> None:
        end = offset + len(view)
        while len(view):
            done = os.pwrite(self._fd, view, offset)
            offset, view = offset + done, view[done:]
            self.bytes_written += done
        self._highest = max(self._highest, end)

    def _holds_data(self, start: int, end: int) -> bool:
        """Whether something may have been written there. Above the highest write that needs no question."""
        if start >= self._highest:
            return False
        try:
            return os.lseek(self._fd, start, os.SEEK_DATA) < end
        except OSError as error:
            # ENXIO: no data from there to the end; anything else: the file system cannot say.
            return error.errno != errno.ENXIO

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def zero_runs(offset: int, data: bytes | bytearray | memoryview) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, is zero) of the longest stretches of all-zero blocks and of others in a buffer.

    Blocks are 4 KiB, aligned on the disk, where offset is the buffer's place.
    """
    for start, end, is_zero in _runs(offset, memoryview(data).cast("B")):
        yield offset + start, end - start, is_zero


def _runs(offset: int, view: memoryview) -> Iterator[tuple[int, int, bool]]:
    begin, size, last = 0, len(view), False
    start = 0
    while start < size:
        end = min(size, start + BLOCK - (offset + start) % BLOCK)
        block = bytes(view[start:end])
        is_zero = block == (_ZERO_BLOCK if end - start == BLOCK else _ZERO_BLOCK[: end - start])
        if is_zero is not last:
            if start > begin:
                yield begin, start, last
            begin, last = start, is_zero
        start = end
    if size > begin:
        yield begin, size, last


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise GuestExists(
            f"“{path}” is already there; a restore never overwrites.",
            hint="Choose another name, or move the file away first.",
            subject=str(path),
        ) from None
    except OSError as error:
        raise _failure(path, error) from error


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failure(path: Path, error: OSError) -> RestoreFailed:
    reason = error.strerror or "input/output error"
    hint = _HINTS.get(error.errno or 0, "Check the storage under that folder (dmesg, journalctl).")
    return RestoreFailed(
        f"“{path}” cannot be written: {reason}.",
        hint=hint.format(folder=shlex.quote(str(path.parent))),
        subject=str(path),
    )


_SPACE: Final = "Free space there, or restore into another folder: df -h {folder}"
_HINTS: Final = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "The file system there cannot hold a file that large; use ext4, XFS, Btrfs or ZFS.",
    errno.ENOENT: "Make the folder first: mkdir -p {folder}",
    errno.ENOTDIR: "A part of that path is not a folder.",
    errno.EACCES: "Choose a folder this user may write to.",
    errno.EPERM: "Choose a folder this user may write to.",
    errno.EROFS: "The file system there is read-only.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "The path contains a loop of symbolic links.",
}
