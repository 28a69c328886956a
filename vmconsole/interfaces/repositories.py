"""Borg repositories: archives being written and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from vmconsole.interfaces.context import Context
from vmconsole.model.extent import Extent
from vmconsole.model.point import RestorePoint
from vmconsole.model.repository import RepositoryInfo


class DiskWriter(Protocol):
    """One disk of an archive. Ranges may come in any order but must cover the disk exactly once."""

    @property
    def bytes_stored(self) -> int:
        """Bytes new chunks added to the repository so far."""
        ...

    def reuse(self, offset: int, length: int) -> None:
        """This range equals the parent's; no data moves."""
        ...

    def zero(self, offset: int, length: int) -> None: ...

    def data(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """The caller must not change the buffer afterwards."""
        ...

    def close(self) -> None:
        """Raises when the ranges did not cover the disk exactly."""
        ...


class StreamWriter(Protocol):
    """A member of unknown length. size, bytes_stored: so far; sha256: hex, of all of it after close()."""

    @property
    def size(self) -> int: ...

    @property
    def bytes_stored(self) -> int: ...

    @property
    def sha256(self) -> str: ...

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """The caller must not change the buffer afterwards."""
        ...

    def close(self) -> None: ...


Sinks = Mapping[str, DiskWriter | StreamWriter]
"""By disk id."""


class ArchiveWriter(Protocol):
    """One archive being written; invisible until commit."""

    def disk(self, path: str, size: int, parent: tuple[str, str] | None = None) -> DiskWriter:
        """A member of exactly size bytes. parent: (archive name, member path) to reuse chunks from.

        The parent may be shorter (a grown disk); the rest must be given as data or zero.
        """
        ...

    def stream(self, path: str) -> StreamWriter:
        """A member as long as what is written to it. The point need not mention it."""
        ...

    def commit(self, point: RestorePoint, files: Mapping[str, bytes]) -> str:
        """Write guest.json (first), the files, the disks; make it durable. Returns the archive id."""
        ...

    def abort(self) -> None:
        """Leave no trace in the repository. Idempotent, never raises."""
        ...


class RepositoryWriter(Protocol):
    """An open repository, exclusively locked, that may write several archives."""

    def points(self) -> list[RestorePoint]:
        """Every restore point, newest first."""
        ...

    def archive(self, name: str) -> ArchiveWriter: ...


class DiskReader(Protocol):
    """A disk inside an archive. Thread-safe."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly length bytes, or fewer at the end of the disk."""
        ...

    def extents(self) -> Iterator[Extent]:
        """DATA and ZERO extents, in order, from the chunk list alone: nothing is read."""
        ...


class RepositoryReader(Protocol):
    """A repository opened for reading."""

    def points(self) -> list[RestorePoint]:
        """Every restore point, newest first."""
        ...

    def pins(self) -> dict[str, str]:
        """Archive name to archive id, of the points that are pinned; some may be gone.

        Raises RepositoryDamaged when that cannot be told.
        """
        ...

    def files(self, archive: str) -> dict[str, bytes]:
        """The members that are not disks, guest.json among them."""
        ...

    def open_disk(self, archive: str, path: str) -> DiskReader: ...


class Repository(Protocol):
    """One Borg repository."""

    @property
    def name(self) -> str: ...

    @property
    def chunk_size(self) -> int: ...

    def create(self) -> str:
        """Initialise it. Returns its id. Refuses when something is already there."""
        ...

    def id(self) -> str:
        """Its id, hex. Also while a writer is open. Raises RepositoryMissing."""
        ...

    def info(self) -> RepositoryInfo: ...

    def check(self, *, verify_data: bool, context: Context) -> list[str]:
        """Problems found, empty when clean."""
        ...

    def pins(self) -> dict[str, str]:
        """As RepositoryReader.pins(). Waits for the lock."""
        ...

    def set_pins(self, pins: Mapping[str, str]) -> None:
        """Replace the pins, by archive name: archive id. Waits for the lock."""
        ...

    def delete(self, archives: Sequence[str], context: Context) -> None:
        """Delete archives, by name; one that is gone already is none to miss. All or, when it fails, perhaps some.

        Their space is freed by compact(). Whether they may go is for the caller to know.
        """
        ...

    def compact(self, context: Context) -> int | None:
        """Free the space of what was deleted; what Borg says that was, about, in bytes."""
        ...

    def space(self) -> tuple[int, int] | None:
        """Bytes free and in all where the repository lies; None where that cannot be told cheaply."""
        ...

    def writer(self, context: Context) -> AbstractContextManager[RepositoryWriter]:
        """Waits for the lock, saying who holds it. Raises RepositoryLocked after the configured wait."""
        ...

    def reader(self, *, wait: float | None = None) -> AbstractContextManager[RepositoryReader]:
        """wait: seconds for the lock instead of the configured ones. Raises RepositoryLocked after them."""
        ...
