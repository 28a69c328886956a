"""The members of a tar that streams by: where each begins and ends, what it is, nothing of its data.

The tar comes from a guest, so nothing in it is believed: sizes and names are bounded, and a stream
without the two zero blocks at its end is not whole. Formats: ustar, GNU (long names, old sparse
files) and POSIX (pax(1), "Extended Header"; sparse formats 0.0 to 1.0 of GNU tar).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmconsole.errors import ProtocolError

BLOCK: Final = 512
MAX_EXTENDED: Final = 16 * 1024 * 1024
"""Bytes of one extended header: names and extended attributes."""
MAX_SPARSE_BLOCKS: Final = 1_000_000
MAX_SIZE: Final = 2**63

_TYPES: Final = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink",
    b"3": "chardev", b"4": "blockdev", b"5": "dir", b"6": "fifo",
}  # fmt: skip
_WITHOUT_DATA: Final = frozenset(b"123456")
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL, _OLD_SPARSE = b"L", b"K", b"x", b"g", b"S"
_KEYS: Final = frozenset({"path", "linkpath", "size", "uid", "gid", "mtime"})
_SPARSE: Final = "GNU.sparse."
_SPARSE_KEYS: Final = frozenset({_SPARSE + key for key in ("name", "realsize", "size")})
_PLAIN_SUM: Final = sum(b" " * 8)


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member. Offsets in bytes from the start of the tar.

    type: file, dir, symlink, hardlink, chardev, blockdev, fifo, or `type X` for another letter.
    size: of the file once extracted. start: of the first header that belongs to it. data: where
    what is stored of it begins, stored bytes long. sparse: what is stored is not the file itself:
    a map says which parts it is. start to end is a tar of its own but for the end marker.
    """

    path: str
    type: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: float
    link: str
    start: int
    data: int
    stored: int
    sparse: bool = False

    @property
    def end(self) -> int:
        return self.data + -(-self.stored // BLOCK) * BLOCK


class TarStream:
    """Feed it a tar in pieces of any size; it calls found for each member once its headers are known.

    Memory: one extended header. Raises ProtocolError.
    """

    def __init__(self, found: Callable[[TarMember], None]) -> None:
        self._found = found
        self._position = 0
        self._held = bytearray()
        self._need = BLOCK
        self._take: Callable[[bytes], None] = self._header
        self._skip = 0
        self._start = 0
        self._zeros = 0
        self._ended = False
        self._overlay: dict[str, bytes] = {}
        self._global: dict[str, bytes] = {}
        self._pending: TarMember | None = None
        self._sparse_blocks = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        at, length = 0, len(view)
        while at < length and not self._ended:
            if self._skip:
                step = min(self._skip, length - at)
                self._skip -= step
                at += step
                self._position += step
                continue
            if not self._held and length - at >= self._need:
                taken = bytes(view[at : at + self._need])
                at += self._need
            else:
                step = min(self._need - len(self._held), length - at)
                self._held += view[at : at + step]
                at += step
                if len(self._held) < self._need:
                    return
                taken = bytes(self._held)
                self._held.clear()
            self._position += self._need
            self._take(taken)

    def finish(self) -> None:
        """The stream is at its end. Raises ProtocolError when the tar was not."""
        if not self._ended:
            raise ProtocolError(f"The tar ended too early, after {self._position + len(self._held)} bytes.")

    # --- what comes ---

    def _next(self) -> None:
        self._take, self._need = self._header, BLOCK

    def _header(self, block: bytes) -> None:
        if block.count(0) == BLOCK:
            self._zeros += 1
            self._ended = self._zeros == 2
            return
        if self._zeros:
            raise self._damaged("a member follows an end mark")
        if _checksum(block) != _number(block[148:156]):
            raise self._damaged("a header does not match its checksum")
        kind, size = block[156:157], _number(block[124:136])
        if not 0 <= size < MAX_SIZE:
            raise self._damaged(f"a member claims {size} bytes")
        if not self._overlay:
            self._start = self._position - BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL):
            self._begin_extended(kind, size)
        else:
            self._member(block, kind, size)

    def _begin_extended(self, kind: bytes, size: int) -> None:
        if size > MAX_EXTENDED:
            raise self._damaged(f"an extended header claims {size} bytes")
        # An empty one changes nothing, but what follows still belongs to it.
        self._overlay.setdefault("", b"")
        padded = -(-size // BLOCK) * BLOCK
        if not padded:
            return

        def take(content: bytes) -> None:
            self._next()
            self._extend(kind, content[:size])

        self._take, self._need = take, padded

    def _extend(self, kind: bytes, content: bytes) -> None:
        if kind == _LONG_NAME:
            self._overlay["path"] = content.split(b"\0", 1)[0]
        elif kind == _LONG_LINK:
            self._overlay["linkpath"] = content.split(b"\0", 1)[0]
        else:
            values = _pax(content)
            if values is None:
                raise self._damaged("an extended header cannot be read")
            (self._global if kind == _GLOBAL else self._overlay).update(values)

    def _member(self, block: bytes, kind: bytes, size: int) -> None:
        values = {**self._global, **self._overlay}
        self._overlay = {}
        stored = _decimal(values.get("size"), size)
        if not 0 <= stored < MAX_SIZE:
            raise self._damaged(f"a member claims {stored} bytes")
        path = values.get("GNU.sparse.name", values.get("path", _name(block)))
        size = stored
        sparse = kind == _OLD_SPARSE or _SPARSE in values
        if kind == _OLD_SPARSE:
            size = _number(block[483:495])
        elif sparse:
            size = _decimal(values.get("GNU.sparse.realsize", values.get("GNU.sparse.size")), stored)
        if kind[0] in _WITHOUT_DATA:
            # As GNU tar: a hard link may carry its target's size, but no data.
            stored = size = 0
        member = TarMember(
            path=_text(path),
            type="dir" if kind in b"0\0" and path.endswith(b"/") else _TYPES.get(kind, f"type {_text(kind)}"),
            size=size,
            mode=_number(block[100:108]) & 0o7777,
            uid=_decimal(values.get("uid"), _number(block[108:116])),
            gid=_decimal(values.get("gid"), _number(block[116:124])),
            mtime=_seconds(values.get("mtime"), _number(block[136:148])),
            link=_text(values.get("linkpath", block[157:257].split(b"\0", 1)[0])) if kind in b"12" else "",
            start=self._start,
            data=self._position,
            stored=stored,
            sparse=sparse,
        )
        if kind == _OLD_SPARSE and block[482]:
            self._pending, self._sparse_blocks = member, 0
            self._take = self._sparse_block
        else:
            self._complete(member)

    def _sparse_block(self, block: bytes) -> None:
        """More of an old sparse file's map; its data begins behind it."""
        assert self._pending is not None
        self._sparse_blocks += 1
        if self._sparse_blocks > MAX_SPARSE_BLOCKS:
            raise self._damaged("a sparse file's map does not end")
        if not block[504]:
            member, self._pending = self._pending, None
            self._next()
            self._complete(_moved(member, self._position))

    def _complete(self, member: TarMember) -> None:
        self._skip = member.end - member.data
        self._found(member)

    def _damaged(self, what: str) -> ProtocolError:
        return ProtocolError(f"The tar is damaged near byte {self._position}: {what}.")


def _moved(member: TarMember, data: int) -> TarMember:
    values = {name: getattr(member, name) for name in TarMember.__slots__}
    return TarMember(**{**values, "data": data})


def _checksum(block: bytes) -> int:
    """Of a header, its own field counted as spaces."""
    return sum(block) - sum(block[148:156]) + _PLAIN_SUM


def _number(field: bytes) -> int:
    """Octal, or GNU's base 256; -1 for what is no number."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    return int(text, 8) if text.isdigit() and not text.strip(b"01234567") else -1


def _decimal(value: bytes | None, otherwise: int) -> int:
    if value is None or not value.isdigit() or len(value) > 20:
        return otherwise
    return int(value)


def _seconds(value: bytes | None, otherwise: int) -> float:
    if value is None or len(value) > 40 or value.strip(b"-.0123456789"):
        return float(otherwise)
    try:
        return float(value)
    except ValueError:
        return float(otherwise)


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _text(value: bytes) -> str:
    """Bytes that are no text are kept as lone surrogates."""
    return value.decode("utf-8", "surrogateescape")


def _pax(content: bytes) -> dict[str, bytes] | None:
    """Of `LENGTH KEY=VALUE\\n` records what is of use here, and "GNU.sparse."; None when they are none."""
    values: dict[str, bytes] = {}
    position = 0
    while position < len(content):
        space = content.find(b" ", position, position + 20)
        digits = content[position:space] if space > 0 else b""
        if not digits.isdigit():
            return None if content[position:].strip(b"\0") else values
        end = position + int(digits)
        equals = content.find(b"=", space, end)
        if end > len(content) or equals < 0 or content[end - 1 : end] != b"\n":
            return None
        key = _text(content[space + 1 : equals])
        if key in _KEYS or key in _SPARSE_KEYS:
            values[key] = content[equals + 1 : end - 1]
        if key.startswith(_SPARSE):
            values[_SPARSE] = b""
        position = end
    return values
