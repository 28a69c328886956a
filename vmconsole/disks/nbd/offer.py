"""The server's side of the negotiation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.protocol import ExportFlag, HandshakeFlag, Info, Option, OptionReply
from vmconsole.disks.nbd.source import ExportSource
from vmconsole.disks.nbd.wire import Wire
from vmconsole.errors import ProtocolError

_MAX_OPTION: Final = 64 * 1024
_MAX_SKIPPED: Final = 1024 * 1024
_MAX_OPTIONS: Final = 1000
_PREFERRED: Final = 4096
_FLAGS: Final = ExportFlag.HAS_FLAGS | ExportFlag.READ_ONLY | ExportFlag.CAN_MULTI_CONN


@dataclass(slots=True)
class Agreement:
    """What one client chose. contexts: their ids are the positions in it."""

    source: ExportSource
    structured: bool
    contexts: tuple[str, ...]


@dataclass(slots=True)
class _Talk:
    """A negotiation under way."""

    wire: Wire
    exports: Mapping[str, ExportSource]
    no_zeroes: bool
    structured: bool = False
    contexts_of: bytes = b""
    contexts: tuple[str, ...] = ()
    answers: bytearray = field(default_factory=bytearray)

    def answer(self, number: int, kind: OptionReply, data: bytes = b"") -> None:
        self.answers += protocol.option_reply(number, kind, data)


class _Invalid(Exception):
    """An option's data does not have the form it must have."""


def offer(wire: Wire, exports: Mapping[str, ExportSource]) -> Agreement | None:
    """Negotiate with a client; None when it only looked around. Raises ProtocolError, HostUnreachable."""
    offered = int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
    wire.send(protocol.GREETING.pack(protocol.INIT_MAGIC, protocol.OPTION_MAGIC, offered))
    (flags,) = protocol.CLIENT_FLAGS.unpack(wire.receive(protocol.CLIENT_FLAGS.size))
    if flags & ~offered:
        raise ProtocolError(f"The NBD client wants flags {flags:#x}, which nobody offered.")
    talk = _Talk(wire, exports, bool(flags & HandshakeFlag.NO_ZEROES))
    for number, data in _options(talk):
        if number == Option.EXPORT_NAME:
            return _export_name(talk, data)
        agreement = _handle(talk, number, data)
        wire.send(talk.answers)
        talk.answers.clear()
        if number == Option.ABORT or agreement is not None:
            return agreement
    raise ProtocolError("The NBD client negotiates without end.")


def _options(talk: _Talk) -> Iterator[tuple[int, bytes]]:
    for _ in range(_MAX_OPTIONS):
        magic, number, length = protocol.OPTION.unpack(talk.wire.receive(protocol.OPTION.size))
        if magic != protocol.OPTION_MAGIC or length > _MAX_SKIPPED:
            raise ProtocolError("The NBD client sent something that is not an option.")
        if length > _MAX_OPTION:
            talk.wire.discard(length)
            talk.wire.send(protocol.option_reply(number, OptionReply.ERR_TOO_BIG))
        else:
            yield number, talk.wire.receive(length)


def _handle(talk: _Talk, number: int, data: bytes) -> Agreement | None:
    """Collect the answers to one option; an agreement ends the negotiation."""
    try:
        match number:
            case Option.GO | Option.INFO:
                return _go(talk, number, data)
            case Option.SET_META_CONTEXT | Option.LIST_META_CONTEXT:
                _meta_contexts(talk, number, data)
            case Option.LIST:
                _list(talk, data)
            case Option.STRUCTURED_REPLY:
                _require(not data)
                talk.structured = True
                talk.answer(number, OptionReply.ACK)
            case Option.ABORT:
                talk.answer(number, OptionReply.ACK)
            case _:
                talk.answer(number, OptionReply.ERR_UNSUP)
    except _Invalid:
        talk.answers.clear()
        talk.answer(number, OptionReply.ERR_INVALID)
    return None


def _export_name(talk: _Talk, data: bytes) -> Agreement | None:
    """The old way in: an unknown export can only be answered by hanging up."""
    source = _find(talk.exports, data)
    if source is None:
        return None
    padding = b"" if talk.no_zeroes else bytes(protocol.EXPORT_NAME_PADDING)
    talk.wire.send(protocol.EXPORT_INFO.pack(source.size, _flags(talk)) + padding)
    return _agreement(talk, source, data)


def _go(talk: _Talk, number: int, data: bytes) -> Agreement | None:
    name, rest = _string(data)
    (count,) = _unpack_u16(rest)
    _require(len(rest) == protocol.U16.size * (count + 1))
    wanted = {protocol.U16.unpack_from(rest, protocol.U16.size * (at + 1))[0] for at in range(count)}
    source = _find(talk.exports, name)
    if source is None:
        talk.answer(number, OptionReply.ERR_UNKNOWN, b"there is no such export")
        return None
    info = protocol.U16.pack(Info.EXPORT) + protocol.EXPORT_INFO.pack(source.size, _flags(talk))
    talk.answer(number, OptionReply.INFO, info)
    if Info.NAME in wanted:
        talk.answer(number, OptionReply.INFO, protocol.U16.pack(Info.NAME) + name)
    if Info.BLOCK_SIZE in wanted:
        sizes = protocol.BLOCK_SIZES.pack(1, _PREFERRED, protocol.MAX_REQUEST)
        talk.answer(number, OptionReply.INFO, protocol.U16.pack(Info.BLOCK_SIZE) + sizes)
    talk.answer(number, OptionReply.ACK)
    return _agreement(talk, source, name) if number == Option.GO else None


def _meta_contexts(talk: _Talk, number: int, data: bytes) -> None:
    setting = number == Option.SET_META_CONTEXT
    if setting:
        talk.contexts = ()
    _require(talk.structured)
    name, queries = _queries(data)
    source = _find(talk.exports, name)
    if source is None:
        talk.answer(number, OptionReply.ERR_UNKNOWN, b"there is no such export")
        return
    offered = source.contexts
    if setting:
        chosen = tuple(context for context in offered if context.encode() in queries)
        talk.contexts, talk.contexts_of = chosen, name
    else:
        chosen = tuple(context for context in offered if not queries or _matches(context, queries))
    for at, context in enumerate(chosen):
        talk.answer(
            number, OptionReply.META_CONTEXT, protocol.U32.pack(at if setting else 0) + context.encode()
        )
    talk.answer(number, OptionReply.ACK)


def _matches(context: str, queries: Sequence[bytes]) -> bool:
    """A query for a listing may end with its namespace's colon: everything below it."""
    name = context.encode()
    return any(name == query or (query.endswith(b":") and name.startswith(query)) for query in queries)


def _queries(data: bytes) -> tuple[bytes, list[bytes]]:
    name, rest = _string(data)
    _require(len(rest) >= protocol.U32.size)
    (count,) = protocol.U32.unpack_from(rest)
    rest = rest[protocol.U32.size :]
    _require(count * protocol.U32.size <= len(rest))
    queries = []
    for _ in range(count):
        query, rest = _string(rest)
        queries.append(query)
    _require(not rest)
    return name, queries


def _list(talk: _Talk, data: bytes) -> None:
    _require(not data)
    for name in list(talk.exports):
        talk.answer(Option.LIST, OptionReply.SERVER, protocol.string(name.encode()))
    talk.answer(Option.LIST, OptionReply.ACK)


def _find(exports: Mapping[str, ExportSource], name: bytes) -> ExportSource | None:
    """The empty name means the only export there is."""
    source = exports.get(name.decode("utf-8", "replace"))
    if source is None and not name and len(exports) == 1:
        return next(iter(exports.values()))
    return source


def _agreement(talk: _Talk, source: ExportSource, name: bytes) -> Agreement:
    """Contexts count only when they were chosen for this export."""
    contexts = talk.contexts if talk.contexts_of == name else ()
    return Agreement(source, talk.structured, contexts)


def _flags(talk: _Talk) -> int:
    return _FLAGS | (ExportFlag.SEND_DF if talk.structured else 0)


def _string(data: bytes) -> tuple[bytes, bytes]:
    _require(len(data) >= protocol.U32.size)
    (length,) = protocol.U32.unpack_from(data)
    text = data[protocol.U32.size : protocol.U32.size + length]
    _require(len(text) == length and length <= protocol.MAX_STRING)
    return text, data[protocol.U32.size + length :]


def _unpack_u16(data: bytes) -> tuple[int]:
    _require(len(data) >= protocol.U16.size)
    (number,) = protocol.U16.unpack_from(data)
    return (number,)


def _require(sound: bool) -> None:
    if not sound:
        raise _Invalid
