"""One disk of an archive being written: ranges in, chunks out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from copy import copy

from vmconsole.borg.engine.checkpoints import Draft
from vmconsole.borg.engine.chunks import ID, ChunkList
from vmconsole.borg.engine.codec import Buffer, is_zero
from vmconsole.borg.engine.parking import Parking
from vmconsole.borg.engine.partial import Overlap, Partial, Source
from vmconsole.borg.engine.session import Session
from vmconsole.errors import BackupFailed

_NONE, _WHOLE, _PART = 0, 1, 2
_COPY = 1024 * 1024
"""Bytes of ids copied at once: the interpreter makes a temporary of as much."""
Complete = tuple[int, Partial]


class EngineDiskWriter:
    """Implements DiskWriter. Thread-safe.

    The chunk list grows as one array of ids. Whole chunks go straight to the workers; chunks given
    in parts are parked until the last part is there, so the caller does well to give what belongs
    together at about the same time. What a part reuses is read from the parent only when
    the chunk is complete, and only if the chunk also holds something else.
    """

    def __init__(
        self,
        session: Session,
        draft: Draft,
        path: str,
        size: int,
        parent: ChunkList | None,
        parking: Parking,
    ) -> None:
        self.path = path
        self.size = size
        self._session = session
        self._draft = draft
        self._parent = parent
        self._parking = parking
        self._chunk = session.settings.chunk_size
        self._count = -(-size // self._chunk)
        self._ids = bytearray(self._count * ID)
        self._state = bytearray(self._count)
        self._parts: dict[int, Partial] = {}
        self._zeros: dict[int, bytes] = {}
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._pending = 0
        self._stored = 0
        self._error: Exception | None = None
        self._closed = False

    @property
    def bytes_stored(self) -> int:
        return self._stored

    def reuse(self, offset: int, length: int) -> None:
        """Raises BackupFailed when the parent does not reach that far."""
        if self._parent is None or offset + length > self._parent.size:
            size = self._parent.size if self._parent else 0
            raise BackupFailed(
                f"{self.path}: bytes {offset} to {offset + length} cannot be reused, the parent has {size}.",
                hint="Back the guest up in full.",
            )
        parent = self._parent
        with self._lock:
            self._begin(offset, length)
            done = [self._part(*edge, Source.PARENT) for edge in self._edges(offset, length)]
            first, last = self._whole(offset, length)
            if last == self._count and last > first and not self._same_length(last - 1):
                last -= 1
                done.append(self._part(last, 0, self._length_at(last), Source.PARENT))
            self._claim(first, last)
            source = memoryview(parent.ids)
            for start in range(first * ID, last * ID, _COPY):
                end = min(start + _COPY, last * ID)
                self._ids[start:end] = source[start:end]
        self._complete_all(done)

    def zero(self, offset: int, length: int) -> None:
        with self._lock:
            self._begin(offset, length)
            done = [self._part(*edge, Source.ZERO) for edge in self._edges(offset, length)]
            first, last = self._whole(offset, length)
            self._claim(first, last)
        self._zero_chunks(first, last)
        self._complete_all(done)

    def data(self, offset: int, buffer: Buffer) -> None:
        """Blocks while too much waits for the workers. Raises what they ran into."""
        view = memoryview(buffer).cast("B")
        done = []
        with self._lock:
            self._begin(offset, len(view))
            for index, start, end in self._edges(offset, len(view)):
                at = index * self._chunk + start - offset
                done.append(self._part(index, start, end, Source.DATA, view[at : at + end - start]))
            first, last = self._whole(offset, len(view))
            self._claim(first, last)
        for index in range(first, last):
            at = index * self._chunk - offset
            self._give(index, view[at : at + self._length_at(index)])
        self._complete_all(done)

    def close(self) -> None:
        """Wait for the workers. Raises what they ran into, and BackupFailed for bytes never given."""
        with self._lock:
            self._idle.wait_for(lambda: not self._pending)
            self._closed = True
            self._parent = None
            if self._error is not None:
                raise copy(self._error)
            self._session.check()
            gap = self._state.find(_NONE) if not self._parts else min(self._parts)
            if self._parts or gap >= 0:
                raise BackupFailed(
                    f"{self.path}: the chunk at byte {gap * self._chunk} was not given completely.",
                    hint="This is a bug in what reads the disk; nothing was committed.",
                )

    def chunks(self) -> ChunkList:
        """The finished list. After close()."""
        if not self._closed:
            self.close()
        return ChunkList(self._ids, self.size, self._chunk)

    def drop(self) -> None:
        """Give up: wait until no worker touches the disk any more."""
        with self._lock:
            self._closed = True
            self._error = self._error or BackupFailed(f"{self.path}: the archive was given up.")
            self._idle.wait_for(lambda: not self._pending)
            self._parts.clear()

    # --- ranges ---

    def _begin(self, offset: int, length: int) -> None:
        if self._error is not None:
            raise copy(self._error)
        self._session.check()
        if self._closed or offset < 0 or length < 0 or offset + length > self.size:
            raise BackupFailed(
                f"{self.path}: bytes {offset} to {offset + length} of a disk of {self.size} bytes."
                if not self._closed
                else f"{self.path} was written after it was closed.",
                hint="This is a bug in what reads the disk; nothing was committed.",
            )

    def _length_at(self, index: int) -> int:
        return min(self._chunk, self.size - index * self._chunk)

    def _whole(self, offset: int, length: int) -> tuple[int, int]:
        """The chunks that lie wholly within a range: first, and one past the last."""
        end = offset + length
        first = -(-offset // self._chunk)
        last = self._count if end == self.size else end // self._chunk
        return first, max(first, last)

    def _edges(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(chunk, start, end) of the chunks that a range covers only in part; at most two."""
        end = offset + length
        if not length:
            return
        first, last = self._whole(offset, length)
        before = offset // self._chunk
        if before < first:
            base = before * self._chunk
            yield before, offset - base, min(end, base + self._chunk) - base
        if last * self._chunk < end and last < self._count:
            yield last, 0, end - last * self._chunk

    def _claim(self, first: int, last: int) -> None:
        if self._state.count(_NONE, first, last) != last - first:
            taken = next(index for index in range(first, last) if self._state[index] != _NONE)
            raise self._twice(taken)
        self._state[first:last] = bytes([_WHOLE]) * (last - first)

    def _twice(self, index: int) -> BackupFailed:
        return BackupFailed(
            f"{self.path}: bytes of the chunk at {index * self._chunk} were given twice.",
            hint="This is a bug in what reads the disk; nothing was committed.",
        )

    def _same_length(self, index: int) -> bool:
        """Whether the parent's chunk is as long as ours: not where the disk grew or shrank."""
        return self._parent is not None and self._parent.length_at(index) == self._length_at(index)

    # --- chunks ---

    def _zero_chunks(self, first: int, last: int) -> None:
        if first == last:
            return
        short = last == self._count and self._length_at(last - 1) != self._chunk
        full = last - short
        if full > first:
            self._ids[first * ID : full * ID] = self._zero(self._chunk) * (full - first)
        if short:
            self._set(full, self._zero(self._length_at(full)))

    def _zero(self, length: int) -> bytes:
        known = self._zeros.get(length)
        if known is None:
            known = self._zeros[length] = self._session.store_zero(self._draft, length)
        return known

    def _part(self, index: int, start: int, end: int, source: Source, data: Buffer = b"") -> Complete | None:
        """Add a part of a chunk; gives the chunk when that was the last."""
        part = self._parts.get(index)
        if part is None:
            if self._state[index] != _NONE:
                raise self._twice(index)
            part = self._parts[index] = Partial(self._length_at(index), self._parking)
            self._state[index] = _PART
        try:
            part.add(start, end, source, data)
        except Overlap as error:
            raise self._twice(index) from error
        if not part.complete:
            return None
        del self._parts[index]
        self._state[index] = _WHOLE
        return index, part

    def _complete_all(self, done: list[Complete | None]) -> None:
        for complete in done:
            if complete is not None:
                self._complete(*complete)

    def _complete(self, index: int, part: Partial) -> None:
        parent = self._parent.id_at(index) if part.needs_parent and self._parent is not None else b""
        if parent and part.only_parent and self._same_length(index):
            self._set(index, parent)
            return
        if parent and parent == self._session.access.codec.zero_id(self._parent_length(index)):
            parent = b""  # What is reused is zero, as an untouched buffer is.
        if not parent and not part.has_data:
            self._set(index, self._zero(self._length_at(index)))
            return
        self._submit(index, lambda: part.filled(self._session.access.fetch([parent])[0] if parent else b""))

    def _parent_length(self, index: int) -> int:
        return self._parent.length_at(index) if self._parent is not None else 0

    def _give(self, index: int, piece: memoryview) -> None:
        if is_zero(piece):
            self._set(index, self._zero(len(piece)))
        else:
            self._submit(index, lambda: piece)

    def _set(self, index: int, id_: bytes) -> None:
        self._ids[index * ID : index * ID + ID] = id_

    def _submit(self, index: int, content: Callable[[], Buffer]) -> None:
        """Let a worker store a chunk. Never called under the lock: it blocks until a worker is free."""
        with self._lock:
            self._pending += 1
        try:
            self._session.workers.submit(lambda: self._work(index, content))
        except BaseException:
            self._done(None)
            raise

    def _work(self, index: int, content: Callable[[], Buffer]) -> None:
        error: Exception | None = None
        try:
            if self._error is None:
                self._session.check()
                data = content()
                if is_zero(data):
                    self._set(index, self._zero(len(data)))
                else:
                    id_, stored = self._session.store(self._draft, data)
                    self._set(index, id_)
                    with self._lock:
                        self._stored += stored
        except Exception as caught:  # noqa: BLE001 - handed to whoever calls next
            error = caught
        self._done(error)

    def _done(self, error: Exception | None) -> None:
        with self._idle:
            self._error = self._error or error
            self._pending -= 1
            if not self._pending:
                self._idle.notify_all()
