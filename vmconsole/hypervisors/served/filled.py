"""One new disk that is filled through a qemu-nbd of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import HostError, RestoreFailed
from vmconsole.interfaces import Cancel


class NbdDiskTarget:
    """See DiskTarget. Writes are pipelined; a lost one is reported at the latest by close()."""

    def __init__(self, client: NbdClient, disk: str, path: str, host: str, cancel: Cancel) -> None:
        self._client = client
        self._disk = disk
        self._path = path
        self._host = host
        self._cancel = cancel
        self.closed = False

    def write(self, offset: int, data: bytes | memoryview) -> None:
        with self._explained():
            self._client.write(offset, data, cancel=self._cancel)

    def wipe(self, size: int) -> None:
        """Zeros all over, where the host's disk may hold old contents."""
        with self._explained():
            self._client.write_zeroes(0, size, cancel=self._cancel)

    def close(self) -> None:
        """Flush; raises when a write was lost. Only then is the disk filled."""
        with self._explained():
            self._client.flush(cancel=self._cancel)
            self._client.close()
        self.closed = True

    def abandon(self) -> None:
        self._client.abandon()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except HostError as error:
            raise RestoreFailed(
                f"Disk {self._disk} cannot be written to {self._path} on {self._host}: {error.message}",
                hint=error.hint or "Is the storage there full?",
                subject=self._host,
            ) from error
