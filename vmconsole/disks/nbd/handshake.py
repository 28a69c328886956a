"""The client's side of the negotiation: from a connected stream to an export ready for requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.protocol import ExportFlag, HandshakeFlag, Info, Option, OptionReply
from vmconsole.disks.nbd.wire import Wire
from vmconsole.errors import HostError, HostUnreachable, NotPermitted, ProtocolError, UsageError

_MAX_REPLY: Final = 4 * protocol.MAX_STRING
_MAX_REPLIES: Final = 10_000
_MAX_ANSWER: Final = 8 * 1024 * 1024
_DEFAULT_PREFERRED: Final = 4096
_LEAST_MAXIMUM: Final = 512
_UNLIMITED: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What the server said of an export. Sizes in bytes; contexts maps a context's id to its name."""

    name: str
    size: int
    flags: ExportFlag
    min_block: int
    preferred_block: int
    max_block: int
    structured: bool
    contexts: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Reply:
    kind: int
    data: bytes


def negotiate(wire: Wire, export: str, contexts: Sequence[str]) -> ExportFacts:
    """Open an export for requests.

    Contexts the server does not have are left out of the result. Raises ProtocolError, HostError
    (no such export, TLS only), NotPermitted, HostUnreachable.
    """
    name = _encoded(export)
    no_zeroes = _greet(wire)
    structured = _accepted(_ask(wire, Option.STRUCTURED_REPLY))
    chosen = _choose_contexts(wire, name, contexts) if structured and contexts else {}
    replies = _ask(wire, Option.GO, protocol.go_request(name, [Info.BLOCK_SIZE]))
    if replies[-1].kind == OptionReply.ERR_UNSUP:
        size, flags = _old_export(wire, name, no_zeroes)
        blocks = (1, _DEFAULT_PREFERRED, protocol.MAX_REQUEST)
    else:
        if not _accepted(replies):
            raise _refusal(replies[-1], export)
        size, flags, blocks = _export_info(replies)
    return ExportFacts(export, size, flags, *blocks, structured, chosen)


def export_names(wire: Wire) -> list[str]:
    """The exports a server admits to, in its order; then the session is over. Raises as negotiate()."""
    _greet(wire)
    replies = _ask(wire, Option.LIST)
    if not _accepted(replies):
        raise _refusal(replies[-1], "")
    names = [_server_name(reply.data) for reply in replies[:-1] if reply.kind == OptionReply.SERVER]
    wire.send(protocol.option(Option.ABORT))
    return names


def _encoded(name: str) -> bytes:
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > protocol.MAX_STRING or b"\0" in data:
        raise UsageError("The export's name is longer than NBD allows (4096 bytes), or has a NUL in it.")
    return data


def _greet(wire: Wire) -> bool:
    """Returns whether both sides leave the padding out."""
    magic, style, flags = protocol.GREETING.unpack(wire.receive(protocol.GREETING.size))
    if magic != protocol.INIT_MAGIC:
        raise ProtocolError(
            "What answers there is not an NBD server: its greeting is wrong.", subject=wire.subject
        )
    if style == protocol.OLDSTYLE_MAGIC or not flags & HandshakeFlag.FIXED_NEWSTYLE:
        raise ProtocolError(
            "The NBD server only speaks an old dialect (before “fixed newstyle”).",
            hint="Use QEMU's NBD server, or another one that is less than ten years old.",
            subject=wire.subject,
        )
    if style != protocol.OPTION_MAGIC:
        raise ProtocolError("The NBD server's greeting is wrong.", subject=wire.subject)
    answer = flags & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
    wire.send(protocol.CLIENT_FLAGS.pack(answer))
    return bool(answer & HandshakeFlag.NO_ZEROES)


def _ask(wire: Wire, option: Option, data: bytes = b"") -> list[_Reply]:
    """Everything the server answers to an option; the last one is an ACK or an error."""
    wire.send(protocol.option(option, data))
    return list(_answers(wire, option))


def _answers(wire: Wire, option: Option) -> Iterator[_Reply]:
    room = _MAX_ANSWER
    for _ in range(_MAX_REPLIES):
        magic, number, kind, length = protocol.OPTION_REPLY.unpack(wire.receive(protocol.OPTION_REPLY.size))
        if magic != protocol.OPTION_REPLY_MAGIC or number != option:
            raise ProtocolError("The NBD server answered something that was not asked.", subject=wire.subject)
        room -= length
        if length > _MAX_REPLY or room < 0:
            raise ProtocolError(
                f"The NBD server announced {length} bytes in answer to an option.", subject=wire.subject
            )
        yield _Reply(kind, wire.receive(length))
        if kind == OptionReply.ACK or kind & protocol.OPTION_ERROR:
            return
    raise ProtocolError("The NBD server's answer to an option does not end.", subject=wire.subject)


def _accepted(replies: Sequence[_Reply]) -> bool:
    return replies[-1].kind == OptionReply.ACK


def _choose_contexts(wire: Wire, name: bytes, contexts: Sequence[str]) -> dict[int, str]:
    """A refusal selects nothing; that an export is missing is for GO to say."""
    wanted = {_encoded(context): context for context in contexts}
    replies = _ask(wire, Option.SET_META_CONTEXT, protocol.meta_request(name, wanted))
    if not _accepted(replies):
        return {}
    chosen: dict[int, str] = {}
    for reply in replies[:-1]:
        if reply.kind != OptionReply.META_CONTEXT or len(reply.data) < protocol.U32.size:
            raise ProtocolError("The NBD server described its contexts wrongly.", subject=wire.subject)
        (number,) = protocol.U32.unpack_from(reply.data)
        context = wanted.pop(reply.data[protocol.U32.size :], None)
        if context is None or number in chosen:
            raise ProtocolError(
                "The NBD server selected a context that was not asked for, or one twice.",
                subject=wire.subject,
            )
        chosen[number] = context
    return chosen


def _export_info(replies: Sequence[_Reply]) -> tuple[int, ExportFlag, tuple[int, int, int]]:
    export: tuple[int, ExportFlag] | None = None
    blocks = (1, _DEFAULT_PREFERRED, protocol.MAX_REQUEST)
    for reply in replies[:-1]:
        if reply.kind != OptionReply.INFO or len(reply.data) < protocol.U16.size:
            raise ProtocolError("The NBD server described its export wrongly.")
        (what,) = protocol.U16.unpack_from(reply.data)
        data = reply.data[protocol.U16.size :]
        if what == Info.EXPORT:
            export = _size_and_flags(data)
        elif what == Info.BLOCK_SIZE:
            blocks = _block_sizes(data)
    if export is None:
        raise ProtocolError("The NBD server did not say how large its export is.")
    return *export, blocks


def _size_and_flags(data: bytes) -> tuple[int, ExportFlag]:
    if len(data) != protocol.EXPORT_INFO.size:
        raise ProtocolError("The NBD server described its export wrongly.")
    size, flags = protocol.EXPORT_INFO.unpack(data)
    if size > protocol.MAX_SIZE:
        raise ProtocolError(f"The NBD server announced an export of {size} bytes, which cannot be.")
    if not flags & ExportFlag.HAS_FLAGS:
        raise ProtocolError("The NBD server did not say what its export can do.")
    return size, ExportFlag(flags)


def _block_sizes(data: bytes) -> tuple[int, int, int]:
    if len(data) != protocol.BLOCK_SIZES.size:
        raise ProtocolError("The NBD server described its block sizes wrongly.")
    smallest, preferred, largest = protocol.BLOCK_SIZES.unpack(data)
    sound = (
        _power_of_two(smallest)
        and smallest <= protocol.MAX_MIN_BLOCK
        and _power_of_two(preferred)
        and preferred >= smallest
        and largest >= max(smallest, _LEAST_MAXIMUM)
        and (largest == _UNLIMITED or largest % smallest == 0)
    )
    if not sound:
        raise ProtocolError(
            f"The NBD server announced impossible block sizes: {smallest}, {preferred}, {largest}."
        )
    return smallest, preferred, largest


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _old_export(wire: Wire, name: bytes, no_zeroes: bool) -> tuple[int, ExportFlag]:
    """EXPORT_NAME, for servers without GO. An unknown export shows as a closed connection."""
    wire.send(protocol.option(Option.EXPORT_NAME, name))
    facts = _size_and_flags(wire.receive(protocol.EXPORT_INFO.size))
    if not no_zeroes:
        wire.discard(protocol.EXPORT_NAME_PADDING)
    return facts


def _server_name(data: bytes) -> str:
    if len(data) < protocol.U32.size:
        raise ProtocolError("The NBD server listed its exports wrongly.")
    (length,) = protocol.U32.unpack_from(data)
    name = data[protocol.U32.size : protocol.U32.size + length]
    if length > protocol.MAX_STRING or len(name) != length:
        raise ProtocolError("The NBD server listed its exports wrongly.")
    return name.decode("utf-8", "surrogateescape")


def _refusal(reply: _Reply, export: str) -> HostError | ProtocolError:
    said = protocol.printable(reply.data)
    tail = f" It said: {said}." if said else ""
    match reply.kind:
        case OptionReply.ERR_UNKNOWN:
            return HostError(
                f"The NBD server offers no disk “{export}”.{tail}",
                hint="The backup job may have ended, or covers other disks.",
                subject=export,
            )
        case OptionReply.ERR_TLS_REQD:
            return HostError(
                "The NBD server insists on TLS, which vmconsole does not speak: it goes through SSH.",
                hint="Export the disk on a unix socket without TLS.",
                subject=export,
            )
        case OptionReply.ERR_POLICY:
            return NotPermitted(f"The NBD server refused by its own rules.{tail}", subject=export)
        case OptionReply.ERR_SHUTDOWN:
            return HostUnreachable("The NBD server is shutting down.", subject=export)
        case _:
            number = reply.kind & ~protocol.OPTION_ERROR
            return ProtocolError(f"The NBD server refused with error {number}.{tail}", subject=export)
