"""The index of a container's tar: one line of JSON per member, compressed, beside the tar.

With it a single file is found without reading the tar: `start` to `end` of the tar, followed by two
zero blocks, is a tar with that member alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import zstandard

from vmconsole.disks.tarstream import TarMember, TarStream
from vmconsole.errors import ProtocolError
from vmconsole.interfaces import StreamWriter

LEVEL = 3
FORMAT = {"format": "vmconsole tar index", "version": 1}
"""The first line."""
_LINES = 500


class IndexedStream:
    """A StreamWriter that passes a tar on and writes its index into another one.

    Raises ProtocolError when what it is given is no tar, or not a whole one.
    """

    def __init__(self, tar: StreamWriter, index: StreamWriter) -> None:
        self._tar = tar
        self._index = index
        self._compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._lines = [_line(FORMAT)]
        self._members = TarStream(self._add)
        self.count = 0

    @property
    def size(self) -> int:
        return self._tar.size

    @property
    def bytes_stored(self) -> int:
        """Of both."""
        return self._tar.bytes_stored + self._index.bytes_stored

    @property
    def sha256(self) -> str:
        """Of the tar."""
        return self._tar.sha256

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._members.feed(data)
        self._tar.write(data)

    def close(self) -> None:
        self._members.finish()
        self._flush()
        self._index.write(self._compressor.flush())
        self._index.close()
        self._tar.close()

    def _add(self, member: TarMember) -> None:
        self.count += 1
        self._lines.append(_line(document(member)))
        if len(self._lines) >= _LINES:
            self._flush()

    def _flush(self) -> None:
        data = self._compressor.compress(b"".join(self._lines))
        self._lines.clear()
        if data:
            self._index.write(data)


def document(member: TarMember) -> dict[str, Any]:
    """A member's line; what is not said is 0, empty or false. mtime: seconds since 1970."""
    every = {
        "path": member.path,
        "type": member.type,
        "size": member.size,
        "mode": member.mode,
        "uid": member.uid,
        "gid": member.gid,
        "mtime": member.mtime,
        "link": member.link,
        "start": member.start,
        "data": member.data,
        "stored": member.stored,
        "sparse": member.sparse,
    }
    return {key: value for key, value in every.items() if value or key in ("path", "type", "data")}


def read_index(data: bytes) -> Iterator[dict[str, Any]]:
    """The members of an index, as document() made them, in the tar's order. Raises ProtocolError."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
            lines = io.TextIOWrapper(stream, encoding="utf-8")
            head = json.loads(next(lines, "{}"))
            if head != FORMAT:
                raise ProtocolError(
                    "The index of the container's files is of another kind than this vmconsole knows.",
                    hint="Use a newer vmconsole, or restore the tar and look into it with tar -t.",
                )
            for line in lines:
                yield json.loads(line)
    except (zstandard.ZstdError, ValueError) as error:
        raise ProtocolError(
            f"The index of the container's files cannot be read: {error}.",
            hint="Restore the tar and look into it with tar -t.",
        ) from error


def clean(path: str) -> str:
    """`./etc//hosts` is `etc/hosts`. Upward steps are names like any other: nothing may be opened by them."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
