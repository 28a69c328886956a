"""The server's side after the negotiation: one client's requests, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.offer import Agreement
from vmconsole.disks.nbd.protocol import Command, CommandFlag, Errno, ReplyType
from vmconsole.disks.nbd.source import ExportSource
from vmconsole.disks.nbd.wire import Wire
from vmconsole.errors import ProtocolError, VmconsoleError

_MAX_DESCRIPTORS: Final = 64 * 1024
_JOINED: Final = 16 * 1024
_KNOWN_FLAGS: Final[dict[int, int]] = {
    Command.READ: int(CommandFlag.DF),
    Command.BLOCK_STATUS: int(CommandFlag.REQ_ONE),
}
"""Plain numbers: the inverse of an IntFlag has no bits outside the flags it knows."""


@dataclass(frozen=True, slots=True)
class _Request:
    flags: int
    command: int
    cookie: int
    offset: int
    length: int


class _Refused(Exception):
    """A request gets an error for an answer."""

    def __init__(self, number: Errno, message: str) -> None:
        super().__init__(message)
        self.number = number


def converse(wire: Wire, agreement: Agreement) -> None:
    """Answer requests until the client leaves. Raises ProtocolError, HostUnreachable."""
    while wire.wait():
        request = _next(wire)
        if request.command == Command.DISC:
            return
        if request.command == Command.WRITE:
            _skip_payload(wire, request)
        try:
            _answer(wire, agreement, request)
        except _Refused as refusal:
            _send_error(wire, agreement, request, refusal)


def _next(wire: Wire) -> _Request:
    magic, *fields = protocol.REQUEST.unpack(wire.receive(protocol.REQUEST.size))
    if magic != protocol.REQUEST_MAGIC:
        raise ProtocolError("The NBD client sent something that is not a request.")
    return _Request(*fields)


def _skip_payload(wire: Wire, request: _Request) -> None:
    if request.length > protocol.MAX_REQUEST:
        raise ProtocolError(f"The NBD client wants to write {request.length} bytes at once.")
    wire.discard(request.length)


def _answer(wire: Wire, agreement: Agreement, request: _Request) -> None:
    if request.command in (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM):
        raise _Refused(Errno.EPERM, "the export is read-only")
    if request.command not in (Command.READ, Command.BLOCK_STATUS):
        raise _Refused(Errno.EINVAL, "unknown command")
    if request.flags & ~_KNOWN_FLAGS[request.command]:
        raise _Refused(Errno.EINVAL, "unknown flags")
    if request.offset + request.length > agreement.source.size:
        raise _Refused(Errno.EINVAL, "beyond the end of the disk")
    if request.command == Command.READ:
        _read(wire, agreement, request)
    else:
        _block_status(wire, agreement, request)


def _read(wire: Wire, agreement: Agreement, request: _Request) -> None:
    if request.length > protocol.MAX_REQUEST:
        raise _Refused(Errno.EINVAL, "more than 32 MiB at once")
    data = _fetch(agreement.source, request.offset, request.length) if request.length else b""
    if not agreement.structured:
        _send(wire, protocol.SIMPLE_REPLY.pack(protocol.SIMPLE_REPLY_MAGIC, 0, request.cookie), data)
    elif not data:
        _send(wire, protocol.chunk(ReplyType.NONE, request.cookie, 0))
    elif _is_zero(data):
        hole = protocol.HOLE.pack(request.offset, request.length)
        _send(wire, protocol.chunk(ReplyType.OFFSET_HOLE, request.cookie, len(hole)) + hole)
    else:
        place = protocol.U64.pack(request.offset)
        header = protocol.chunk(ReplyType.OFFSET_DATA, request.cookie, len(place) + len(data)) + place
        _send(wire, header, data)


def _fetch(source: ExportSource, offset: int, length: int) -> bytes:
    try:
        data = bytes(source.read_at(offset, length))
    except (OSError, VmconsoleError) as error:
        raise _Refused(Errno.EIO, str(error)) from error
    if len(data) != length:
        raise _Refused(Errno.EIO, f"{len(data)} bytes came instead of {length}")
    return data


def _is_zero(data: bytes) -> bool:
    """The probes spare the comparison for nearly everything that is not zero."""
    return not data[0] and not data[-1] and not data[len(data) // 2] and data == bytes(len(data))


def _block_status(wire: Wire, agreement: Agreement, request: _Request) -> None:
    if not agreement.contexts:
        raise _Refused(Errno.EINVAL, "no context was chosen")
    if not request.length:
        raise _Refused(Errno.EINVAL, "an empty range")
    limit = 1 if request.flags & CommandFlag.REQ_ONE else _MAX_DESCRIPTORS
    answer = bytearray()
    for number, context in enumerate(agreement.contexts):
        payload = protocol.U32.pack(number) + _descriptors(agreement.source, context, request, limit)
        last = number == len(agreement.contexts) - 1
        answer += protocol.chunk(ReplyType.BLOCK_STATUS, request.cookie, len(payload), done=last) + payload
    _send(wire, answer)


def _descriptors(source: ExportSource, context: str, request: _Request, limit: int) -> bytes:
    try:
        runs = list(_runs(source, context, request, limit))
    except (OSError, VmconsoleError) as error:
        raise _Refused(Errno.EIO, str(error)) from error
    if not runs:
        raise _Refused(Errno.EIO, "the map has a gap")
    return b"".join(protocol.DESCRIPTOR.pack(length, flags) for length, flags in runs)


def _runs(source: ExportSource, context: str, request: _Request, limit: int) -> Iterator[tuple[int, int]]:
    """At most limit (length, flags), clipped to the request; neighbours with equal flags are one."""
    left, count = request.length, 0
    length, flags = 0, 0
    for more, its_flags in source.extents(context, request.offset, request.length):
        part = min(more, left)
        if part <= 0:
            break
        if length and its_flags != flags:
            yield length, flags
            length, count = 0, count + 1
            if count == limit:
                return
        length, flags, left = length + part, its_flags, left - part
    if length:
        yield length, flags


def _send_error(wire: Wire, agreement: Agreement, request: _Request, refusal: _Refused) -> None:
    if not agreement.structured:
        _send(wire, protocol.SIMPLE_REPLY.pack(protocol.SIMPLE_REPLY_MAGIC, refusal.number, request.cookie))
        return
    words = str(refusal).encode()[:200]
    payload = protocol.ERROR.pack(refusal.number, len(words)) + words
    _send(wire, protocol.chunk(ReplyType.ERROR, request.cookie, len(payload)) + payload)


def _send(wire: Wire, header: bytes | bytearray, body: bytes = b"") -> None:
    if len(body) <= _JOINED:
        wire.send(header + body)
    else:
        wire.send(header)
        wire.send(body)
