"""The NBD client: maps, reads and writes of one exported disk over any connected stream."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from vmconsole.disks.nbd import reading, status
from vmconsole.disks.nbd.handshake import ExportFacts, export_names, negotiate
from vmconsole.disks.nbd.link import Link
from vmconsole.disks.nbd.protocol import BASE_ALLOCATION, ExportFlag
from vmconsole.disks.nbd.reading import Piece
from vmconsole.disks.nbd.status import StatusMap
from vmconsole.disks.nbd.wire import Stop, Wire
from vmconsole.disks.nbd.writing import Writer
from vmconsole.errors import HostError
from vmconsole.interfaces import UNHURRIED, Pace
from vmconsole.remote.machine import DEFAULT_TIMEOUT, Stream

REQUEST_SIZE: Final = 1024 * 1024
IN_FLIGHT: Final = 16


class NbdClient:
    """One connection to one export. Not thread-safe; a connection carries one activity at a time.

    Every method raises HostUnreachable when the connection ends or the peer is silent, HostError
    (NotPermitted) when the host reports an error, ProtocolError when the peer lies. After the
    first and the last of these, and after a read that was given up, only close() is of use.
    """

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._writer = Writer(link, timeout)

    @classmethod
    def connect(
        cls,
        stream: Stream,
        export: str,
        contexts: Sequence[str] = (BASE_ALLOCATION,),
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> NbdClient:
        """Negotiate over a connected stream, which belongs to the client from now on.

        timeout, in seconds: for the negotiation as a whole, then for each message. Contexts that
        the server does not offer are missing from `contexts`; whether that matters is for the
        caller to say (see require_context).
        """
        wire = Wire(stream, timeout, export)
        try:
            wire.limit(timeout)
            facts = negotiate(wire, export, contexts)
            wire.limit(None)
        except BaseException:
            wire.close()
            raise
        return cls(Link(wire, facts), timeout)

    @property
    def facts(self) -> ExportFacts:
        return self._link.facts

    @property
    def size(self) -> int:
        return self.facts.size

    @property
    def flags(self) -> ExportFlag:
        return self.facts.flags

    @property
    def read_only(self) -> bool:
        return bool(self.flags & ExportFlag.READ_ONLY)

    @property
    def can_multi_conn(self) -> bool:
        """Several connections see the same disk."""
        return bool(self.flags & ExportFlag.CAN_MULTI_CONN)

    @property
    def min_block(self) -> int:
        return self.facts.min_block

    @property
    def preferred_block(self) -> int:
        return self.facts.preferred_block

    @property
    def max_block(self) -> int:
        return self.facts.max_block

    @property
    def contexts(self) -> tuple[str, ...]:
        """Those that were asked for and are offered."""
        return tuple(self.facts.contexts.values())

    def require_context(self, context: str) -> None:
        """Raises ProtocolError unless the context is offered."""
        status.require_context(self.contexts, context, self.facts.name)

    def block_status(
        self, offset: int = 0, length: int | None = None, *, cancel: Stop | None = None
    ) -> Mapping[str, StatusMap]:
        """(offset, length, flags) of the whole range, in order, per negotiated context.

        The flags of `base:allocation`: 1 hole, 2 reads as zeros; of a dirty bitmap: 1 dirty.
        """
        self._writer.drain(cancel)
        return status.collect(self._link, offset, self.size - offset if length is None else length, cancel)

    def read(
        self,
        ranges: Iterable[tuple[int, int]],
        *,
        request_size: int = REQUEST_SIZE,
        in_flight: int = IN_FLIGHT,
        cancel: Stop | None = None,
        pace: Pace = UNHURRIED,
    ) -> Generator[Piece, None, None]:
        """The bytes of (offset, length) ranges as (offset, buffer) pieces, each byte once, any order.

        Ranges are taken from the iterable as there is room. Requests are cut at multiples of
        request_size, and at most in_flight x request_size bytes are under way; the pace may make
        both less. Buffers are the
        caller's; those of holes are views of shared zeros. An error means that pieces of the same
        request that were already yielded are not to be trusted either.
        """
        self._writer.drain(cancel)
        if request_size < 1 or in_flight < 1:
            raise ValueError("request_size and in_flight start at 1")
        yield from reading.read(self._link, ranges, request_size, in_flight, cancel, pace)

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, cancel: Stop | None = None) -> None:
        """Send data; returns before the host has it. Failures come from a later call, at the latest close().

        The buffer may be changed as soon as this returns. Writes to the same place need a flush()
        between them: a server may carry out what is under way in any order.
        """
        self._writer.write(offset, data, cancel)

    def write_zeroes(self, offset: int, length: int, *, cancel: Stop | None = None) -> None:
        """Make a range read as zeros, freeing its space where the host can. As write() otherwise."""
        self._writer.write_zeroes(offset, length, cancel)

    def flush(self, *, cancel: Stop | None = None) -> None:
        """Everything written so far is on the host's storage; raises when something was lost."""
        self._writer.flush(cancel)

    def close(self) -> None:
        """Wait for writes, say goodbye, close. Raises when a write was lost. Idempotent."""
        try:
            self._writer.finish()
        finally:
            self._link.disconnect()

    def swallow(self) -> None:
        """Before a job on the host is ended in the middle of a read, with the connection left open.

        QEMU first wants to be rid of every answer it owes, and lets neither the job end nor the
        guest run until then: so they are taken, and forgotten. Then only abandon() is of use.
        """
        if self._link.broken:
            self._link.wire.swallow()

    def abandon(self) -> None:
        """Close without waiting for anything. Never raises."""
        self._link.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def list_exports(stream: Stream, *, timeout: float = DEFAULT_TIMEOUT) -> list[str]:
    """The names of a server's exports. Takes the stream and closes it. Raises as NbdClient."""
    wire = Wire(stream, timeout, "")
    try:
        wire.limit(timeout)
        return export_names(wire)
    except HostError as error:
        if not error.subject:
            error.subject = "NBD"
        raise
    finally:
        wire.close()
