"""The sha256 of a whole disk, computed while it is copied."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from vmconsole.errors import ProtocolError
from vmconsole.model.extent import Content, Extent

Buffer = bytes | bytearray | memoryview

FREE_ZEROS = 1024**3
"""So many zeros are hashed in any case; it takes half a second."""
MAX_AHEAD = 64 * 1024 * 1024
"""Bytes held for a gap before them to be filled. One slow connection must not cost memory without end."""
_QUEUED = 16
_ZEROS = memoryview(bytes(4 * 1024 * 1024))


def worth_hashing(extents: Sequence[Extent]) -> bool:
    """Everything is known, and hashing zeros does not keep the guest waiting longer than hashing its data."""
    zeros = sum(extent.length for extent in extents if extent.content is Content.ZERO)
    data = sum(extent.length for extent in extents if extent.content is Content.DATA)
    clean = any(extent.content is Content.CLEAN for extent in extents)
    return not clean and zeros <= max(FREE_ZEROS, data)


class DiskDigest:
    """Hashes in a thread of its own, which lives as long as the `with` block.

    The data may arrive out of order. Buffers must not be changed afterwards.
    """

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._pieces: queue.Queue[tuple[int, Buffer] | None] = queue.Queue(_QUEUED)
        self._order = _Order(extents)
        self._thread = threading.Thread(target=self._work, name="vmconsole-digest", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._end()

    def feed(self, offset: int, buffer: Buffer) -> None:
        """Blocks while too much waits to be hashed."""
        self._pieces.put((offset, buffer))

    def finish(self) -> str:
        """Hex; empty when the data came in too much disorder. Raises ProtocolError when some is missing."""
        self._end()
        return self._order.finish()

    def _end(self) -> None:
        self._pieces.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._order.add(*piece)


class _Order:
    """Puts pieces in order, with the zeros between them."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._zeros = [extent for extent in extents if extent.content is Content.ZERO]
        self._zeros.reverse()
        self._early: dict[int, Buffer] = {}
        self._ahead = 0
        self._position = 0
        self._sha = hashlib.sha256()
        self._given_up = False

    def add(self, offset: int, buffer: Buffer) -> None:
        if self._given_up:
            return
        self._early[offset] = buffer
        self._ahead += len(buffer)
        for ready in self._ready():
            self._sha.update(ready)
        if self._ahead > MAX_AHEAD:
            self._given_up = True
            self._early.clear()

    def finish(self) -> str:
        if self._given_up:
            return ""
        for ready in self._ready():
            self._sha.update(ready)
        if self._early or self._zeros:
            raise ProtocolError("The host's answers left a gap in the disk.")
        return self._sha.hexdigest()

    def _ready(self) -> Iterator[Buffer]:
        while True:
            if self._zeros and self._zeros[-1].offset == self._position:
                length = self._zeros.pop().length
                self._position += length
                while length:
                    piece = _ZEROS[: min(length, len(_ZEROS))]
                    yield piece
                    length -= len(piece)
            elif (buffer := self._early.pop(self._position, None)) is not None:
                self._position += len(buffer)
                self._ahead -= len(buffer)
                yield buffer
            else:
                return
