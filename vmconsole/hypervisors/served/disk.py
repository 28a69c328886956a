"""One disk of a cut that is read through a qemu-nbd of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vmconsole.disks import extents as maps
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.parallel import connections_for, read_many
from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.served.qemunbd import NbdServers
from vmconsole.interfaces import Context, DiskPlan
from vmconsole.model.extent import Content, Extent

ALLOCATION = "base:allocation"
DEPTH = "qemu:allocation-depth"


def bitmap_context(bitmap: str) -> str:
    return f"qemu:dirty-bitmap:{bitmap}"


@dataclass(frozen=True, slots=True)
class DiskFacet:
    """How a disk is to be read. bitmap, process: see DiskExport.

    changes: the context that tells what changed, empty for a full read: a dirty bitmap's, or DEPTH
    for an image that holds nothing but the changes. old_size: of the parent's disk, in bytes;
    what lies beyond has changed, whatever the map says.
    """

    plan: DiskPlan
    bitmap: str = ""
    process: str = ""
    changes: str = ""
    old_size: int = 0


class ServedDisk:
    """See DiskExport. Not thread-safe, but for close()."""

    def __init__(self, facet: DiskFacet, servers: NbdServers, connections: int, context: Context) -> None:
        self._facet = facet
        self._servers = servers
        self._connections = max(1, connections)
        self._cancel = context.cancel
        self._pace = context.pace
        self._clients: list[NbdClient] = []
        self._extents: list[Extent] | None = None

    @property
    def plan(self) -> DiskPlan:
        return self._facet.plan

    @property
    def bitmap(self) -> str:
        return self._facet.bitmap

    @property
    def process(self) -> str:
        return self._facet.process

    @property
    def bytes_dirty(self) -> int:
        found = self._extents or ()
        if self._facet.changes:
            return maps.dirty_bytes(found)
        return maps.bytes_of(found, Content.DATA)

    def extents(self) -> Sequence[Extent]:
        if self._extents is None:
            self._extents = self._look()
        return self._extents

    def read(self, extents: Iterable[Extent]) -> Iterator[tuple[int, bytes | bytearray | memoryview]]:
        wished = connections_for(self.bytes_dirty, self._connections)
        while len(self._clients) < wished:
            self._connect((ALLOCATION,))
        wanted = ((extent.offset, extent.length) for extent in extents)
        yield from read_many(self._clients, wanted, cancel=self._cancel, pace=self._pace)

    def close(self) -> None:
        for client in self._clients:
            client.abandon()
        self._clients.clear()

    def _look(self) -> list[Extent]:
        changes = self._facet.changes
        client = self._connect((ALLOCATION, changes) if changes else (ALLOCATION,))
        for context in (ALLOCATION, changes):
            if context:
                client.require_context(context)
        found = client.block_status(cancel=self._cancel)
        size = self.plan.size
        if not changes:
            return maps.full_extents(found[ALLOCATION], size)
        dirty: Iterable[maps.Run] = found[changes]
        if changes == DEPTH:
            # 0: not in this image. Anything else is a change, also one to zero.
            dirty = ((offset, length, min(depth, 1)) for offset, length, depth in dirty)
        return maps.incremental_extents(found[ALLOCATION], dirty, size, self._facet.old_size)

    def _connect(self, contexts: Sequence[str]) -> NbdClient:
        client = NbdClient.connect(self._servers.connect(self.plan.id), self.plan.id, contexts)
        self._clients.append(client)
        if client.size != self.plan.size:
            raise ProtocolError(
                f"Disk {self.plan.id} has {client.size} bytes, and had {self.plan.size} when it was planned.",
                hint="Was it resized in this moment? Try again.",
                subject=self.plan.id,
            )
        return client
