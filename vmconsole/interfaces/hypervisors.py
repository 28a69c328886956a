"""Hypervisors: hosts, their guests, and disks being read from and written to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from vmconsole.interfaces.context import Context
from vmconsole.model.cancel import Cancel
from vmconsole.model.export import Cut, DiskPlan, ExportOptions, ExportPlan, Fed, GuestRestore
from vmconsole.model.extent import Extent
from vmconsole.model.guest import Check, HostInventory, HostKind
from vmconsole.model.point import DiskPoint, RestorePoint
from vmconsole.model.run import JournalEntry
from vmconsole.model.vitals import Vitals

if TYPE_CHECKING:
    from vmconsole.interfaces.repositories import Sinks


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

    def vitals(self, uuids: Sequence[str]) -> Vitals:
        """How the host and these guests are doing right now: one quick look, never longer than some seconds.

        Raises HostError when it does not answer in time, ProtocolError.
        """
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

    def preview(
        self, point: RestorePoint, files: Mapping[str, bytes], request: GuestRestore, context: Context
    ) -> Sequence[str]:
        """The notes that create() would have, or what it would raise; changes nothing on the host."""
        ...

    def clean(self, entry: JournalEntry) -> str:
        """Undo what a dead run acquired; idempotent. Returns one sentence for the user.

        Raises HostError when it cannot be done now; the entry then stays.
        """
        ...

    def close(self) -> None: ...
