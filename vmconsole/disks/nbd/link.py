"""A negotiated connection: requests out, reply headers in, and whether it can still be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.handshake import ExportFacts
from vmconsole.disks.nbd.protocol import Command, ReplyType
from vmconsole.disks.nbd.wire import Stop, Wire
from vmconsole.errors import HostError, HostUnreachable, NotPermitted, ProtocolError

_MAX_ERROR: Final = 3 * protocol.MAX_STRING
_COOKIES: Final = 2**63


class Reply(NamedTuple):
    """A reply's header. length: bytes of payload that follow; error: of a simple reply, 0 for none."""

    cookie: int
    kind: int
    done: bool
    length: int
    error: int


class Link:
    """One connection to one export. Not thread-safe.

    When anything went wrong inside a reply, the rest of the stream cannot be read any more: the
    link is then broken, and every further use says so.
    """

    def __init__(self, wire: Wire, facts: ExportFacts) -> None:
        self.wire = wire
        self.facts = facts
        self.max_request = largest_request(facts)
        self._last_cookie = 0
        self._broken = ""
        self._busy = False

    @property
    def broken(self) -> bool:
        return bool(self._broken)

    @contextmanager
    def use(self, stop: Stop | None = None) -> Iterator[None]:
        """Guards everything that is sent or received."""
        if self._broken:
            raise HostUnreachable(
                f"The connection to the disk “{self.facts.name}” cannot be used any more: {self._broken}",
                hint="Connect again.",
                subject=self.facts.name,
            )
        if self._busy:
            raise RuntimeError("an NBD connection carries one read, map or write at a time")
        self._busy, self.wire.stop = True, stop
        try:
            yield
        except BaseException as error:
            self._broken = str(error) or "it was given up in the middle of a reply."
            raise
        finally:
            self._busy, self.wire.stop = False, None

    def cookie(self) -> int:
        """A number for a request, never used before on this connection."""
        self._last_cookie = (self._last_cookie + 1) % _COOKIES
        return self._last_cookie

    def reply(self) -> Reply:
        """The next reply's header."""
        head = self.wire.receive(protocol.SIMPLE_REPLY.size)
        magic, first, cookie = protocol.SIMPLE_REPLY.unpack(head)
        if magic == protocol.STRUCTURED_REPLY_MAGIC and self.facts.structured:
            (length,) = protocol.U32.unpack(self.wire.receive(protocol.U32.size))
            done = bool((first >> 16) & protocol.REPLY_DONE)
            return Reply(cookie, first & 0xFFFF, done, length, 0)
        if magic == protocol.SIMPLE_REPLY_MAGIC:
            return Reply(cookie, ReplyType.SIMPLE, True, 0, first)
        raise self.lie("a reply does not begin as a reply must")

    def check_finished(self, reply: Reply, what: str) -> HostError | None:
        """The outcome of a request that returns no data. Raises ProtocolError."""
        if reply.kind == ReplyType.SIMPLE:
            return self.failure(reply.error, what) if reply.error else None
        if reply.kind & protocol.REPLY_ERROR:
            return self.read_error(reply, what)
        if reply.kind == ReplyType.NONE and reply.length == 0 and reply.done:
            return None
        raise self.lie(f"an answer of kind {reply.kind} to a request that returns no data")

    def read_error(self, reply: Reply, what: str) -> HostError:
        """Take an error chunk's payload."""
        if not protocol.ERROR.size <= reply.length <= _MAX_ERROR:
            raise self.lie(f"an error message of {reply.length} bytes")
        data = self.wire.receive(reply.length)
        number, length = protocol.ERROR.unpack_from(data)
        if length > reply.length - protocol.ERROR.size or number == 0:
            raise self.lie("an error that does not fit its message")
        return self.failure(number, what, data[protocol.ERROR.size : protocol.ERROR.size + length])

    def failure(self, number: int, what: str, said: bytes = b"") -> HostError:
        """An error of the host, not of the protocol."""
        words = f": {protocol.printable(said)}" if said else ""
        kind: type[HostError] = NotPermitted if number == protocol.Errno.EPERM else HostError
        return kind(
            f"The host could not {what} of the disk “{self.facts.name}”:"
            f" {protocol.describe_error(number)}{words}.",
            hint=_HINTS.get(number, "Look at the host's logs (journalctl, dmesg) and at its storage."),
            subject=self.facts.name,
        )

    def lie(self, what: str) -> ProtocolError:
        """The peer broke the protocol."""
        return ProtocolError(
            f"The NBD server of the disk “{self.facts.name}” broke the protocol: {what}.",
            hint="Nothing it said is used. If it happens again, report it with the version of QEMU.",
            subject=self.facts.name,
        )

    def disconnect(self) -> None:
        """Say goodbye where that is still possible, and close. Never raises."""
        if not self._broken:
            self._broken = "it was closed."
            try:
                self.wire.allow(_GOODBYE)
                self.wire.send(protocol.request(Command.DISC, self.cookie()))
            except HostError:
                pass
        self.wire.close()


_GOODBYE: Final = 5.0
_HINTS: Final[dict[int, str]] = {
    protocol.Errno.ENOSPC: "Free space where the host keeps the disk or the backup's scratch file.",
    protocol.Errno.ESHUTDOWN: "The guest or the backup job ended. Check the guest and try again.",
    protocol.Errno.EPERM: "The export is read-only, or the host's user may not do this.",
}


def largest_request(facts: ExportFacts) -> int:
    """Bytes one read or write may carry, a multiple of the smallest block."""
    most = min(facts.max_block, protocol.MAX_REQUEST)
    return max(most - most % facts.min_block, facts.min_block)
