"""A guest being made on a Proxmox node: its disks go through one stream into qmrestore, or pct.

Nothing is on the node before the first disk is opened. The journal comes first, then the program that
takes a VMID; what happens to it when we fail or die is in making.py and receive.pl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from vmconsole.errors import RestoreFailed, VmconsoleError
from vmconsole.hypervisors.proxmox.making import JOURNAL_KIND, Making, run, settle, unmake
from vmconsole.hypervisors.proxmox.place import Place
from vmconsole.hypervisors.proxmox.receive import Receiver
from vmconsole.hypervisors.vma.writer import Writer
from vmconsole.interfaces import Context, DiskTarget, GuestRestore
from vmconsole.model.point import DiskPoint


class Stream(Protocol):
    """What the restoring program reads."""

    def open_disk(self, disk: DiskPoint) -> DiskTarget: ...

    def finish(self) -> None:
        """Write what is left. Raises RestoreFailed, ProtocolError when something is missing."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What is done, decided before anything is. host: the configured name.

    argv: the restoring program and its arguments for a VMID. start: makes the stream on a write
    function. later, remove: settings to set and to delete when the restore is through.
    """

    host: str
    place: Place
    program: str
    token: str
    description: str
    disks: tuple[str, ...]
    argv: Callable[[str], Sequence[str]]
    start: Callable[[Callable[[bytes], object]], Stream]
    new_vmid: Callable[[], str]
    later: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ProxmoxTarget:
    """See GuestTarget."""

    def __init__(self, job: Job, request: GuestRestore, context: Context) -> None:
        self._job = job
        self._request = request
        self._context = context
        self._making: Making | None = None
        self._entry: int | None = None
        self._receiver: Receiver | None = None
        self._stream: Stream | None = None
        self._opened: dict[str, _Watched] = {}
        self._whole = False

    @property
    def notes(self) -> Sequence[str]:
        return (*self._job.place.notes, *self._job.notes)

    @property
    def vmid(self) -> str:
        """Of the guest that is being made; empty before the first disk was opened."""
        return self._making.vmid if self._making else ""

    def open_disk(self, disk: DiskPoint) -> DiskTarget:
        """Raises RestoreFailed for a disk that the guest does not have, or that was opened before."""
        if disk.id not in self._job.disks or disk.id in self._opened:
            raise RestoreFailed(f"Disk {disk.id} is not one that is being restored.", subject=disk.id)
        target = _Watched(self._begin().open_disk(disk))
        self._opened[disk.id] = target
        return target

    def finish(self) -> None:
        """End the stream, wait for the guest, settle it, and start it when asked to.

        Raises RestoreFailed when a disk was not filled or the restoring program failed. When only what
        comes after it fails, the guest stays.
        """
        for name in self._job.disks:
            if name not in self._opened or not self._opened[name].closed:
                raise RestoreFailed(f"Disk {name} was not filled; there is no guest yet.", subject=name)
        self._begin().finish()
        assert self._receiver is not None
        assert self._making is not None
        self._receiver.finish(self._context.cancel)
        self._whole = True
        self._settle(self._making)
        if self._request.start:
            self._after(self._making, "does not start", "start", self._making.vmid)

    def rollback(self) -> None:
        """Break the stream off and remove what was made; nothing once the guest is whole."""
        if self._receiver is not None and not self._whole:
            self._receiver.abort()
        if self._making is None or self._entry is None or self._whole:
            return
        # What cannot be removed now stays in the journal, for the next start or doctor --clean.
        with suppress(VmconsoleError):
            unmake(self._job.place.machine, self._making, undo=True)
            self._release()

    def _begin(self) -> Stream:
        if self._stream is None:
            job, context = self._job, self._context
            making = Making(
                job.place.node, job.new_vmid(), job.program, job.token, self._request.name, job.description
            )
            argv = job.argv(making.vmid)
            self._entry = context.journal.acquire(job.host, JOURNAL_KIND, making.payload())
            self._making = making
            self._receiver = Receiver(job.place.machine, argv, argv[0])
            self._stream = job.start(self._receiver.write)
            self._receiver.flush()
        return self._stream

    def _settle(self, making: Making) -> None:
        machine = self._job.place.machine
        try:
            settle(machine, making)
        except VmconsoleError as error:
            # The mark stays in its description, and the entry with it: doctor --clean tries again.
            raise self._but(making, "its description could not be set", error) from error
        self._release()
        words = [word for key, value in self._job.later.items() for word in (f"--{key}", value)]
        if self._job.remove:
            words += ["--delete", ",".join(self._job.remove)]
        if words:
            self._after(making, "not all of its settings could be made", "set", making.vmid, *words)

    def _after(self, making: Making, what: str, command: str, *words: str) -> None:
        try:
            run(self._job.place.machine, making, command, *words)
        except VmconsoleError as error:
            raise self._but(making, what, error) from error

    def _but(self, making: Making, what: str, error: VmconsoleError) -> RestoreFailed:
        return RestoreFailed(
            f"{making.name} is restored, as {making.vmid} on {making.node}, but {what}: {error.message}",
            hint=error.hint or f"Look at it on {making.node}: {making.program} config {making.vmid}",
            subject=making.name,
        )

    def _release(self) -> None:
        if self._entry is not None:
            self._context.journal.release(self._entry)
            self._entry = None


class _Watched:
    """Knows whether its disk was filled."""

    def __init__(self, target: DiskTarget) -> None:
        self._target = target
        self.closed = False

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._target.write(offset, data)

    def close(self) -> None:
        self._target.close()
        self.closed = True


@dataclass(frozen=True, slots=True)
class VmaPlan:
    """configs: files of the archive. devices: disk id → (name in the archive, size).

    ready: devices whose content is known already, such as UEFI variables that came as a file.
    """

    configs: Mapping[str, bytes]
    devices: Mapping[str, tuple[str, int]]
    uuid: UUID
    ctime: int
    ready: Mapping[str, bytes] = field(default_factory=dict)


class VmaStream:
    """See Stream: a VMA archive. Disks may be open at the same time; each is written in order."""

    def __init__(self, write: Callable[[bytes], object], plan: VmaPlan) -> None:
        ready = [(name, len(content)) for name, content in plan.ready.items()]
        self._numbers = {disk: number for number, disk in enumerate(plan.devices, len(ready) + 1)}
        self._sizes = {disk: size for disk, (_, size) in plan.devices.items()}
        self._writer = Writer(
            write,
            uuid=plan.uuid,
            ctime=plan.ctime,
            configs=plan.configs,
            devices=[*ready, *plan.devices.values()],
        )
        for number, content in enumerate(plan.ready.values(), 1):
            self._writer.data(number, 0, content)

    def open_disk(self, disk: DiskPoint) -> DiskTarget:
        return _VmaDisk(self._writer, self._numbers[disk.id], self._sizes[disk.id], disk.id)

    def finish(self) -> None:
        self._writer.finish()


class _VmaDisk:
    """Ascending writes; what is skipped is zeros."""

    def __init__(self, writer: Writer, number: int, size: int, name: str) -> None:
        self._writer = writer
        self._number = number
        self._size = size
        self._name = name
        self._position = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._skip_to(offset)
        self._writer.data(self._number, offset, data)
        self._position += len(data)

    def close(self) -> None:
        self._skip_to(self._size)

    def _skip_to(self, offset: int) -> None:
        if offset < self._position:
            raise RestoreFailed(
                f"Disk {self._name} came out of order: {offset} after {self._position}.", subject=self._name
            )
        if offset > self._position:
            self._writer.zero(self._number, self._position, offset - self._position)
            self._position = offset


class TarStream:
    """See Stream: one tar as it is."""

    def __init__(self, write: Callable[[bytes], object], size: int) -> None:
        self._write = write
        self._size = size

    def open_disk(self, disk: DiskPoint) -> DiskTarget:
        return _Tar(self._write, self._size)

    def finish(self) -> None:
        """It ends where it ends."""


class _Tar:
    def __init__(self, write: Callable[[bytes], object], size: int) -> None:
        self._write = write
        self._size = size
        self._position = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._skip_to(offset)
        self._write(bytes(data))
        self._position += len(data)

    def close(self) -> None:
        """The end of a tar is zeros, which are not written by who copies."""
        self._skip_to(self._size)

    def _skip_to(self, offset: int) -> None:
        if offset < self._position:
            raise RestoreFailed(f"The container's tar came out of order at {offset}.")
        while self._position < offset:
            count = min(offset - self._position, 1 << 20)
            self._write(bytes(count))
            self._position += count
