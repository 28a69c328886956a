"""Disks of a cut that the guest's own QEMU exports over NBD: what access.py and transaction.py share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vmconsole.disks import extents as maps
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.parallel import connections_for, read_many
from vmconsole.errors import HostError, HostUnreachable, ProtocolError
from vmconsole.hypervisors.proxmox.hold import Hold
from vmconsole.interfaces import Context, Cut, DiskPlan, Feed
from vmconsole.model.extent import Content, Extent
from vmconsole.remote.machine import Machine

ALLOCATION = "base:allocation"
_READ_ERRORS = (HostError, ProtocolError)
_MAX_QUESTIONS = 20_000
"""Dirty ranges that are asked one by one whether they are zeros; of the rest everything is read."""


def bitmap_context(bitmap: str) -> str:
    return f"qemu:dirty-bitmap:{bitmap}"


@dataclass(frozen=True, slots=True)
class Facet:
    """How a disk is to be read. bitmap, process: see DiskExport. old_size: at the parent, in bytes.

    changes: bitmap with what changed since the parent, empty for a full read. whole: also what did
    not change can be read; where it cannot, not even its map can be asked for.
    """

    plan: DiskPlan
    bitmap: str = ""
    process: str = ""
    changes: str = ""
    old_size: int = 0
    whole: bool = True


@dataclass(eq=False)
class NbdDisk:
    """One NBD export; see DiskExport. Not thread-safe, but for abandon()."""

    facet: Facet
    connect: Callable[[Sequence[str]], NbdClient]
    hold: Hold
    context: Context
    connections: int
    clients: list[NbdClient] = field(default_factory=list)
    bytes_dirty: int = 0
    _first: NbdClient | None = None

    @property
    def plan(self) -> DiskPlan:
        return self.facet.plan

    @property
    def bitmap(self) -> str:
        return self.facet.bitmap

    @property
    def process(self) -> str:
        return self.facet.process

    def open(self) -> None:
        """Connect, and learn the disk's true size. Raises HostError, ProtocolError."""
        wanted: tuple[str, ...] = (ALLOCATION,)
        if self.facet.changes:
            changes = bitmap_context(self.facet.changes)
            wanted = (ALLOCATION, changes) if self.facet.whole else (changes,)
        client = self._connected(wanted)
        if self.facet.changes:
            client.require_context(bitmap_context(self.facet.changes))
        # Resized between plan and cut: the export knows.
        self.facet = replace(self.facet, plan=replace(self.facet.plan, size=client.size))
        self._first = client

    def extents(self) -> Sequence[Extent]:
        """Raises what the reason for a failure is: GuestStopped, OutOfSpace, HostError."""
        try:
            extents = self._look()
        except _READ_ERRORS as error:
            self._explain(error)
            raise
        if self.facet.changes:
            self.bytes_dirty = maps.dirty_bytes(extents)
        else:
            self.bytes_dirty = maps.bytes_of(extents, Content.DATA)
        return extents

    def read(self, extents: Iterable[Extent]) -> Iterator[tuple[int, bytes | bytearray | memoryview]]:
        wanted = ((extent.offset, extent.length) for extent in extents)
        try:
            first = self._client()
            readers = [first]
            wished = connections_for(self.bytes_dirty, self.connections)
            while len(readers) < wished and first.can_multi_conn:
                readers.append(self._connected(()))
            yield from read_many(readers, wanted, cancel=self.context.cancel, pace=self.context.pace)
        except _READ_ERRORS as error:
            self._explain(error)
            raise

    def abandon(self) -> None:
        for client in self.clients:
            client.abandon()

    def _look(self) -> list[Extent]:
        size, old_size, cancel = self.plan.size, self.facet.old_size, self.context.cancel
        first = self._client()
        found = first.block_status(cancel=cancel)
        if not self.facet.changes:
            return maps.full_extents(found.get(ALLOCATION), size)
        dirty = found[bitmap_context(self.facet.changes)]
        if self.facet.whole:
            return maps.incremental_extents(found.get(ALLOCATION), dirty, size, old_size)
        return maps.incremental_extents(self._allocation(dirty), dirty, size, size)

    def _allocation(self, dirty: Sequence[maps.Run]) -> Iterator[maps.Run]:
        """A map of the whole disk, in which only what is dirty was asked for."""
        client = self._connected((ALLOCATION,))
        known = ALLOCATION in client.contexts
        questions = 0
        for offset, length, flags in dirty:
            questions += flags & 1
            if flags & 1 and known and questions <= _MAX_QUESTIONS:
                answer = client.block_status(offset, length, cancel=self.context.cancel)
                yield from answer[ALLOCATION]
            else:
                yield offset, length, 0

    def _client(self) -> NbdClient:
        if self._first is None:
            self.open()
        assert self._first is not None
        return self._first

    def _connected(self, contexts: Sequence[str]) -> NbdClient:
        client = self.connect(contexts)
        self.clients.append(client)
        return client

    def _explain(self, error: Exception) -> None:
        """A connection that broke says nothing about the snapshot; an answer that is an error does."""
        if isinstance(error, HostUnreachable):
            self.hold.explain()
        elif isinstance(error, HostError):
            self.hold.explain_read()


def open_disks(
    machine: Machine, hold: Hold, facets: Iterable[Facet], context: Context, connections: int
) -> list[NbdDisk]:
    """Connect to every disk's export. Raises HostError, ProtocolError; none stays open then."""
    disks: list[NbdDisk] = []
    try:
        for facet in facets:
            connect = _connector(machine, hold.socket, facet.plan.id)
            disks.append(NbdDisk(facet, connect, hold, context, max(1, connections)))
            disks[-1].open()
    except BaseException:
        for disk in disks:
            disk.abandon()
        raise
    return disks


def _connector(machine: Machine, socket: str, export: str) -> Callable[[Sequence[str]], NbdClient]:
    return lambda contexts: NbdClient.connect(machine.open_unix(socket), export, contexts)


class NbdExport:
    """A running guest's disks at one cut; see Export. release: ends what the method need not keep."""

    feed: Feed | None = None

    def __init__(
        self,
        *,
        cut: Cut,
        disks: Sequence[NbdDisk],
        files: Mapping[str, bytes],
        hold: Hold,
        release: Callable[[], None],
    ) -> None:
        self.cut = cut
        self.disks = disks
        self.files = files
        self._hold = hold
        self._release = release

    def check(self) -> None:
        self._hold.check()

    def release(self) -> None:
        self._hold.explain()
        self._abandon()
        self._release()
        self._hold.settle_freeze()

    def advance(self) -> None:
        self._hold.advance()

    def rollback(self) -> None:
        self._abandon()
        self._hold.rollback()

    def _abandon(self) -> None:
        for disk in self.disks:
            disk.abandon()
