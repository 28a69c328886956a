"""Disks and pieces of them as the streams that the parsers read."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

BLOCK = 64 * 1024
_BLOCKS_KEPT = 1024
_LARGE = 1024 * 1024
"""Bytes from which on a read passes the blocks that are kept."""


class Stream(io.RawIOBase):
    """Read-only, of a known size. Beyond the end there is nothing; a negative place is an error."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._at = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """At most length bytes: fewer only at the end."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._at = base + offset
        return self._at

    def read(self, length: int | None = -1) -> bytes:
        left = max(0, self.size - self._at)
        wanted = left if length is None or length < 0 else min(length, left)
        found = self.read_at(self._at, wanted) if wanted else b""
        self._at += len(found)
        return found

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # read() of a RawIOBase needs it
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class Device(Stream):
    """A disk: small reads are made of blocks that are kept. ask: (offset, length) to that many bytes."""

    def __init__(self, size: int, ask: Callable[[int, int], bytes]) -> None:
        super().__init__(size)
        self._ask = ask
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if length >= _LARGE:
            pieces = range(offset, offset + length, _LARGE)
            return b"".join(self._ask(at, min(_LARGE, offset + length - at)) for at in pieces)
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK
        if first == last:
            start = offset - first * BLOCK
            return self._block(first)[start : start + length]
        joined = b"".join(self._block(number) for number in range(first, last + 1))
        return joined[offset - first * BLOCK :][:length]

    def _block(self, number: int) -> bytes:
        found = self._kept.get(number)
        if found is not None:
            self._kept.move_to_end(number)
            return found
        found = self._ask(number * BLOCK, min(BLOCK, self.size - number * BLOCK))
        self._kept[number] = found
        if len(self._kept) > _BLOCKS_KEPT:
            self._kept.popitem(last=False)
        return found


class Part(Stream):
    """size bytes of another stream, from start on; cut where that one ends."""

    def __init__(self, whole: Stream, start: int, size: int) -> None:
        super().__init__(max(0, min(size, whole.size - start)))
        self._whole, self._start = whole, start

    def read_at(self, offset: int, length: int) -> bytes:
        return self._whole.read_at(self._start + offset, min(length, self.size - offset))


@dataclass(frozen=True, slots=True)
class Run:
    """length bytes of a stream: from place on in source, or zeros where source is None."""

    length: int
    place: int = 0
    source: Stream | None = None


class Runs(Stream):
    """Pieces of other streams in a row. size: where it ends; beyond the pieces there are zeros."""

    def __init__(self, runs: Sequence[Run], size: int | None = None) -> None:
        self._runs = [run for run in runs if run.length > 0]
        self._starts: list[int] = []
        at = 0
        for run in self._runs:
            self._starts.append(at)
            at += run.length
        super().__init__(at if size is None else size)

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        pieces: list[bytes] = []
        number = max(0, bisect_right(self._starts, offset) - 1)
        while length > 0:
            piece = self._piece(number, offset, length)
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
            number += 1
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, number: int, offset: int, length: int) -> bytes:
        if number >= len(self._runs):
            return bytes(length)
        run = self._runs[number]
        inside = offset - self._starts[number]
        if inside >= run.length:
            return bytes(length)  # Behind the last of them.
        length = min(length, run.length - inside)
        if run.source is None:
            return bytes(length)
        found = run.source.read_at(run.place + inside, length)
        # A piece that points beyond its source: what is not there is told, not invented.
        if len(found) < length:
            raise EOFError("a piece lies beyond the end")
        return found


class Memory(Stream):
    """Bytes that are there already."""

    def __init__(self, content: bytes) -> None:
        super().__init__(len(content))
        self._content = content

    def read_at(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]


class Patched(Stream):
    """Another stream, with blocks of it replaced. block: bytes of each; blocks: by number."""

    def __init__(self, below: Stream, block: int, blocks: dict[int, bytes]) -> None:
        super().__init__(below.size)
        self._below, self._block, self._blocks = below, block, blocks

    def read_at(self, offset: int, length: int) -> bytes:
        found = bytearray(self._below.read_at(offset, length))
        if not found:
            return b""
        for number in range(offset // self._block, (offset + len(found) - 1) // self._block + 1):
            new = self._blocks.get(number)
            if new is None:
                continue
            start = number * self._block - offset
            low, high = max(0, start), min(len(found), start + self._block)
            found[low:high] = new[low - start : high - start]
        return bytes(found)


class Whole(Stream):
    """A stream of dissect's as one of ours."""

    def __init__(self, content: Any, size: int) -> None:
        super().__init__(size)
        self._content = content

    def read_at(self, offset: int, length: int) -> bytes:
        self._content.seek(offset)
        found: bytes = self._content.read(min(length, self.size - offset))
        return found
