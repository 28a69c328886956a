"""What the core needs from outside, in one place.

`runs` works on these alone; adapters implement them; `wiring` puts the two together. All calls
block; everything long takes a Context, whose cancel token they poll and to whose sink they speak.
Errors are those of errors.py, whatever the library underneath raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from vmconsole.events import EventSink
from vmconsole.model.cancel import Cancel as Cancel
from vmconsole.model.clock import Clock as Clock
from vmconsole.model.export import Cut as Cut
from vmconsole.model.export import DiskPlan as DiskPlan
from vmconsole.model.export import ExportOptions as ExportOptions
from vmconsole.model.export import ExportPlan as ExportPlan
from vmconsole.model.export import Fed as Fed
from vmconsole.model.export import GuestRestore as GuestRestore
from vmconsole.model.extent import Extent
from vmconsole.model.guest import Check, HostInventory, HostKind
from vmconsole.model.host_key import HostKey as HostKey
from vmconsole.model.point import DiskPoint, RestorePoint
from vmconsole.model.repository import RepositoryInfo as RepositoryInfo
from vmconsole.model.run import Journal as Journal
from vmconsole.model.run import JournalEntry, Run, RunState


@dataclass(frozen=True, slots=True)
class Context:
    """What every long call gets."""

    run: str
    events: EventSink
    cancel: Cancel
    journal: Journal
    clock: Clock


# --- hypervisors -------------------------------------------------------------------------------


class DiskExport(Protocol):
    """One disk of a cut, read-only and unchanging."""

    @property
    def plan(self) -> DiskPlan: ...

    @property
    def bitmap(self) -> str:
        """Bitmap that records from this cut (or before it) on; empty when none does."""
        ...

    @property
    def process(self) -> str:
        """QEMU process identity `PID:START` at the cut; empty when off."""
        ...

    @property
    def bytes_dirty(self) -> int:
        """What the hypervisor called dirty; for a full read the bytes it calls data. After extents()."""
        ...

    def extents(self) -> Sequence[Extent]:
        """The whole disk, in order, without gap or overlap. A full read has no CLEAN extent."""
        ...

    def read(self, extents: Iterable[Extent]) -> Iterator[tuple[int, bytes | bytearray | memoryview]]:
        """The bytes of the given ranges as (offset, buffer) pieces, each byte once, any order."""
        ...


class Feed(Protocol):
    """All disks of a cut in one stream, in the host's order. A disk in format tar goes to a StreamWriter."""

    def run(self, sinks: Sinks, report: Callable[[str, int], None], cancel: Cancel) -> Mapping[str, Fed]:
        """Write it all, once; the caller closes the sinks. report(disk id, bytes so far).

        Raises BackupFailed when the stream is not whole.
        """
        ...


class Export(Protocol):
    """A guest's disks at one cut.

    After the read: `release()`, then commit the archive, then `advance()`. On any failure before
    the commit: `rollback()`, which may be called at any time, also twice.
    """

    @property
    def cut(self) -> Cut: ...

    @property
    def disks(self) -> Sequence[DiskExport]: ...

    @property
    def feed(self) -> Feed | None:
        """Where all disks come from at once; extents() and read() of the disks are not called then."""
        ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """Archive members besides the disks: `config/…`, `firmware/…`. Complete after the read."""
        ...

    def check(self) -> None:
        """Raise GuestStopped, OutOfSpace or HostError when the cut is no longer whole. Cheap."""
        ...

    def release(self) -> None:
        """End the job on the host and free everything but the new bitmap. Raises as check()."""
        ...

    def advance(self) -> None:
        """The archive is committed: drop the bitmap of the parent, the new one takes over."""
        ...

    def rollback(self) -> None:
        """Leave the host as it was before the cut; later increments still work. Never raises."""
        ...


class DiskTarget(Protocol):
    """A new, all-zero disk on a host, being filled."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def close(self) -> None:
        """Flush; raises when a write was lost."""
        ...


class GuestTarget(Protocol):
    """A guest being made. finish() defines it; rollback() removes every trace, never raises."""

    @property
    def notes(self) -> Sequence[str]:
        """What could not be carried over, for the user, known before any data is written."""
        ...

    def open_disk(self, disk: DiskPoint) -> DiskTarget: ...

    def finish(self) -> None: ...

    def rollback(self) -> None: ...


class Hypervisor(Protocol):
    """One host. Thread-safe; connects on first use."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> HostKind: ...

    def inventory(self) -> HostInventory:
        """Look at the host. Raises HostError; never returns reachable=False itself."""
        ...

    def check(self) -> Sequence[Check]:
        """What is missing for backups, each with the command that fixes it."""
        ...

    def plan(
        self, uuid: str, repository: str, points: Sequence[RestorePoint], options: ExportOptions
    ) -> ExportPlan:
        """Decide how to export a guest, changing nothing on the host.

        repository: id (hex) of the repository; bitmaps are kept per repository. points: the
        guest's restore points there, newest first. Raises GuestNotFound, GuestBusy, OutOfSpace.
        """
        ...

    def export(self, plan: ExportPlan, context: Context) -> Export:
        """Freeze, cut, thaw; steps `lock`, `freeze`, `cut`, `thaw` are said through context."""
        ...

    def create(
        self, point: RestorePoint, files: Mapping[str, bytes], request: GuestRestore, context: Context
    ) -> GuestTarget:
        """Begin to make a guest from a point; files are its `config/…` and `firmware/…` members.

        Raises GuestExists before anything was changed.
        """
        ...

    def clean(self, entry: JournalEntry) -> str:
        """Undo what a dead run acquired; idempotent. Returns one sentence for the user.

        Raises HostError when it cannot be done now; the entry then stays.
        """
        ...

    def close(self) -> None: ...


# --- repositories ------------------------------------------------------------------------------


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

    def points(self) -> list[RestorePoint]: ...

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

    def writer(self, context: Context) -> AbstractContextManager[RepositoryWriter]:
        """Waits for the lock, saying who holds it. Raises RepositoryLocked after the configured wait."""
        ...

    def reader(self, *, wait: float | None = None) -> AbstractContextManager[RepositoryReader]:
        """wait: seconds for the lock instead of the configured ones. Raises RepositoryLocked after them."""
        ...


# --- our own memory ----------------------------------------------------------------------------


class RunStore(Protocol):
    """Runs, events, the journal, and caches of what was last seen. Thread-safe, multi-process-safe."""

    def start_run(self, kind: str, subject: str) -> Run: ...

    def finish_run(self, run: str, state: RunState, error: str, exit_code: int) -> None: ...

    def runs(self, limit: int = 50) -> list[Run]:
        """Newest first; runs whose process died are reported as DIED."""
        ...

    def run(self, id_or_prefix: str) -> Run:
        """Raises UsageError when there is none, or more than one."""
        ...

    def add_event(self, run: str, document: Mapping[str, Any]) -> None: ...

    def events(self, run: str, after: int = 0) -> list[tuple[int, datetime, dict[str, Any]]]:
        """(sequence, time, document) with sequence > after, in order."""
        ...

    def journal(self, run: str) -> Journal: ...

    def open_entries(self) -> list[JournalEntry]:
        """Journal entries not yet released, oldest first."""
        ...

    def process_is_dead(self, process: str) -> bool:
        """True only when the process `HOSTNAME:PID:START` is proven not to run any more."""
        ...

    def claim(self, key: str, run: str) -> str:
        """Take a name (such as `guest/UUID`) for a run; returns the holder's run id, ours if we got it."""
        ...

    def release_claims(self, run: str) -> None: ...

    def save_inventory(self, inventory: HostInventory, when: datetime) -> None: ...

    def inventories(self) -> dict[str, tuple[HostInventory, datetime]]: ...

    def save_points(self, repository: str, points: Sequence[RestorePoint]) -> None:
        """Replace what is remembered of a repository's points."""
        ...

    def points(self, repository: str) -> list[RestorePoint]:
        """As last seen, newest first; possibly stale, possibly empty."""
        ...
