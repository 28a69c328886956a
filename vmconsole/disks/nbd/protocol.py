"""The NBD protocol's numbers and fixed-size messages.

Source: doc/proto.md of https://github.com/NetworkBlockDevice/nbd, and for the `qemu:` contexts
docs/interop/nbd.txt of QEMU. Everything on the wire is big-endian.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

INIT_MAGIC: Final = 0x4E42444D41474943
OPTION_MAGIC: Final = 0x49484156454F5054
OLDSTYLE_MAGIC: Final = 0x00420281861253
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

MAX_STRING: Final = 4096
"""Bytes of a name or message; a limit of the protocol."""
MAX_REQUEST: Final = 32 * 1024 * 1024
"""Bytes of one read or write that every server takes (QEMU's limit, and nbdkit's)."""
MAX_SIZE: Final = 2**63 - 1
MAX_MIN_BLOCK: Final = 64 * 1024
MAX_STATUS_LENGTH: Final = 2**32 - MAX_MIN_BLOCK
"""Bytes one block status request may ask about: below 4 GiB and aligned to every block size."""
EXPORT_NAME_PADDING: Final = 124

GREETING: Final = Struct(">QQH")
CLIENT_FLAGS: Final = Struct(">I")
OPTION: Final = Struct(">QII")
OPTION_REPLY: Final = Struct(">QIII")
REQUEST: Final = Struct(">IHHQQI")
SIMPLE_REPLY: Final = Struct(">IIQ")
STRUCTURED_REPLY: Final = Struct(">IHHQI")
EXPORT_INFO: Final = Struct(">QH")
BLOCK_SIZES: Final = Struct(">III")
U16: Final = Struct(">H")
U32: Final = Struct(">I")
U64: Final = Struct(">Q")
HOLE: Final = Struct(">QI")
ERROR: Final = Struct(">IH")
DESCRIPTOR: Final = Struct(">II")

BASE_ALLOCATION: Final = "base:allocation"
DIRTY_BITMAP: Final = "qemu:dirty-bitmap:"
STATE_HOLE: Final = 1
STATE_ZERO: Final = 2
STATE_DIRTY: Final = 1


class HandshakeFlag(IntFlag):
    """Of the server's greeting, and what the client answers."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class ExportFlag(IntFlag):
    """What an export can do ("transmission flags")."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


OPTION_ERROR: Final = 1 << 31


class OptionReply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = OPTION_ERROR + 1
    ERR_POLICY = OPTION_ERROR + 2
    ERR_INVALID = OPTION_ERROR + 3
    ERR_PLATFORM = OPTION_ERROR + 4
    ERR_TLS_REQD = OPTION_ERROR + 5
    ERR_UNKNOWN = OPTION_ERROR + 6
    ERR_SHUTDOWN = OPTION_ERROR + 7
    ERR_BLOCK_SIZE_REQD = OPTION_ERROR + 8
    ERR_TOO_BIG = OPTION_ERROR + 9


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3


REPLY_DONE: Final = 1
REPLY_ERROR: Final = 1 << 15


class ReplyType(IntEnum):
    """Kinds of structured reply chunks; SIMPLE is ours, for a reply without structure."""

    SIMPLE = -1
    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = REPLY_ERROR + 1
    ERROR_OFFSET = REPLY_ERROR + 2


class Errno(IntEnum):
    """The protocol's own error numbers; anything else is to be read as EINVAL."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


_MEANINGS: Final = {
    Errno.EPERM: "not permitted",
    Errno.EIO: "input/output error",
    Errno.ENOMEM: "out of memory",
    Errno.EINVAL: "invalid request",
    Errno.ENOSPC: "no space left",
    Errno.EOVERFLOW: "value too large",
    Errno.ENOTSUP: "not supported",
    Errno.ESHUTDOWN: "the server is shutting down",
}


def describe_error(number: int) -> str:
    """`EIO (input/output error)`, or `error 1234` for a number outside the protocol."""
    try:
        error = Errno(number)
    except ValueError:
        return f"error {number}"
    return f"{error.name} ({_MEANINGS[error]})"


def printable(text: bytes, limit: int = 200) -> str:
    """A peer's words made safe to show: control characters replaced, cut to limit characters."""
    words = text[: limit * 4].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in words)[:limit]


def option(number: Option, data: bytes = b"") -> bytes:
    """A client's option request."""
    return OPTION.pack(OPTION_MAGIC, number, len(data)) + data


def option_reply(number: int, kind: OptionReply, data: bytes = b"") -> bytes:
    """A server's answer to an option."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, number, kind, len(data)) + data


def string(text: bytes) -> bytes:
    """A string after its 32-bit length."""
    return U32.pack(len(text)) + text


def go_request(export: bytes, wanted: Iterable[Info]) -> bytes:
    """The data of INFO and GO."""
    items = list(wanted)
    return string(export) + U16.pack(len(items)) + b"".join(U16.pack(item) for item in items)


def meta_request(export: bytes, queries: Iterable[bytes]) -> bytes:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    items = list(queries)
    return string(export) + U32.pack(len(items)) + b"".join(string(item) for item in items)


def request(command: Command, cookie: int, offset: int = 0, length: int = 0, flags: int = 0) -> bytes:
    """A request's header; a WRITE's data follows it."""
    return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


def chunk(kind: ReplyType, cookie: int, length: int, *, done: bool = True) -> bytes:
    """A structured reply chunk's header; length bytes of payload follow."""
    return STRUCTURED_REPLY.pack(STRUCTURED_REPLY_MAGIC, REPLY_DONE if done else 0, kind, cookie, length)
