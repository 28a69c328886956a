"""Where the data of incomplete chunks waits: in memory up to a limit, beyond it in a temporary file.

A host that sends a disk in small pieces out of order (Proxmox's VMA has clusters of 64 KiB) may
leave very many chunks incomplete for a long time. What waits longest goes to the file first: what
belongs together mostly comes together, so whatever is still incomplete after that may stay so.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from vmconsole.borg.engine.codec import Buffer
from vmconsole.errors import BackupFailed

IN_MEMORY = 64 * 1024 * 1024
_ROOMY = "/var/tmp"  # noqa: S108 - the file there has no name
"""Where large temporary files belong (hier(7)): `/tmp` is often memory."""


class Parked:
    """The data of one chunk so far. Belongs to its Parking; nobody else looks inside."""

    __slots__ = ("pieces", "size", "slot")

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.size = 0
        self.slot = -1


class Parking:
    """Shared by the disks of one archive. Thread-safe; takes no other lock while it holds its own.

    room: bytes of the largest chunk. The file has no name, so that nothing is left of it whatever
    happens to us; it holds the guest's data as it is.
    """

    def __init__(self, room: int, limit: int = IN_MEMORY) -> None:
        self._room = room
        self._limit = limit
        self._lock = threading.Lock()
        self._memory: OrderedDict[int, Parked] = OrderedDict()
        self._file = -1
        self._free: list[int] = []
        self._slots = 0
        self._closed = False
        self.bytes_in_memory = 0
        self.peak = 0
        """Most bytes that were in memory at once, for measurements."""

    @property
    def slots(self) -> int:
        """How many chunks the file has had room for, for measurements."""
        return self._slots

    def add(self, parked: Parked, start: int, data: Buffer) -> None:
        """Copy data, which begins at start within its chunk. Raises BackupFailed when no disk has room."""
        with self._lock:
            if self._closed:
                return
            if parked.slot >= 0:
                self._write(parked.slot, start, data)
                return
            parked.pieces.append((start, bytes(data)))
            parked.size += len(data)
            self.bytes_in_memory += len(data)
            self._memory.setdefault(id(parked), parked)
            while self.bytes_in_memory > self._limit:
                self._evict(next(iter(self._memory.values())))
            self.peak = max(self.peak, self.bytes_in_memory)

    def take(self, parked: Parked, length: int, ranges: Iterable[tuple[int, int]]) -> bytearray:
        """Give up a place. ranges: (start, end) of what was added. The rest of the buffer is zero."""
        whole = bytearray(length)
        with self._lock:
            if parked.slot < 0:
                for start, data in parked.pieces:
                    whole[start : start + len(data)] = data
            else:
                view = memoryview(whole)
                for start, end in ranges:
                    self._read(parked.slot, start, view[start:end])
            self._forget(parked)
        return whole

    def drop(self, parked: Parked) -> None:
        with self._lock:
            self._forget(parked)

    def close(self) -> None:
        """Everything is gone. Idempotent."""
        with self._lock:
            self._closed = True
            self._memory.clear()
            self.bytes_in_memory = 0
            descriptor, self._file = self._file, -1
            if descriptor >= 0:
                os.close(descriptor)

    # --- under the lock ---

    def _forget(self, parked: Parked) -> None:
        if self._memory.pop(id(parked), None) is not None:
            self.bytes_in_memory -= parked.size
        if parked.slot >= 0:
            self._free.append(parked.slot)
        parked.pieces, parked.size, parked.slot = [], 0, -1

    def _evict(self, parked: Parked) -> None:
        slot = self._free.pop() if self._free else self._slots
        for start, data in parked.pieces:
            self._write(slot, start, data)
        self._slots = max(self._slots, slot + 1)
        self._forget(parked)
        parked.slot = slot

    def _write(self, slot: int, start: int, data: Buffer) -> None:
        try:
            if self._file < 0:
                self._file = _nameless()
            view, position = memoryview(data), slot * self._room + start
            while view:
                done = os.pwrite(self._file, view, position)
                view, position = view[done:], position + done
        except OSError as error:
            raise BackupFailed(
                f"Data that came out of order could not be kept in {_folder()} meanwhile: {error.strerror}.",
                hint="Make room there, or name a folder with more of it in TMPDIR.",
                subject=_folder(),
            ) from error

    def _read(self, slot: int, start: int, view: memoryview) -> None:
        position = slot * self._room + start
        while view:
            done = os.preadv(self._file, [view], position) if self._file >= 0 else 0
            if not done:
                raise BackupFailed(f"Data that was kept in {_folder()} is gone.", subject=_folder())
            view, position = view[done:], position + done


def _folder() -> str:
    if "TMPDIR" in os.environ or not os.access(_ROOMY, os.W_OK):
        return tempfile.gettempdir()
    return _ROOMY


def _nameless() -> int:
    """A descriptor of a new file without a name, for us alone."""
    try:
        return os.open(_folder(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        descriptor, path = tempfile.mkstemp(dir=_folder())  # not every file system knows O_TMPFILE
        Path(path).unlink()
        return descriptor
