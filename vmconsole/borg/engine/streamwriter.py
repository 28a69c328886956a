"""A member of unknown length: bytes in, chunks out, cut by content as `borg create` does.

Chunks end where the content says, so that what moved within the stream since an earlier archive is
found there again. Borg's chunker pulls from a file; a thread of its own lets it, from a short queue.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from array import array
from collections.abc import Callable
from copy import copy

from borg.chunker import Chunker
from borg.constants import CHUNKER_PARAMS

from vmconsole.borg.engine.checkpoints import Draft
from vmconsole.borg.engine.chunks import ID, ChunkList
from vmconsole.borg.engine.codec import Buffer
from vmconsole.borg.engine.session import Session
from vmconsole.errors import BackupFailed

PIECE = 1024 * 1024
QUEUED = 8
"""Pieces that wait for the chunker."""
WITH_WORKERS = 32 * 1024 * 1024
"""Bytes of chunks that may be with the workers; one chunk is up to 8 MiB."""


class EngineStreamWriter:
    """Implements StreamWriter. write() and close() for one thread at a time; drop() from any."""

    def __init__(self, session: Session, draft: Draft, path: str) -> None:
        self.path = path
        self._session = session
        self._draft = draft
        self._chunker = Chunker(session.access.key.chunk_seed or 0, *CHUNKER_PARAMS[1:])
        self._sha = hashlib.sha256()
        self._size = 0
        self._stored = 0
        self._pieces: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self._held = bytearray()
        self._ids = bytearray()
        self._ends: array[int] = array("Q")
        self._idle = threading.Condition()
        self._pending = 0
        self._error: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._cut, name="borg-stream", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        return self._size

    @property
    def bytes_stored(self) -> int:
        return self._stored

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    def write(self, data: Buffer) -> None:
        """Blocks while too much waits. Raises what the workers ran into."""
        self._raise_again()
        self._session.check()
        if self._closed:
            raise BackupFailed(f"{self.path} was written after it was closed.", hint="This is a bug.")
        view = memoryview(data).cast("B")
        self._sha.update(view)
        self._size += len(view)
        while view:
            room = PIECE - len(self._held)
            self._held += view[:room]
            view = view[room:]
            if len(self._held) == PIECE:
                self._pass_on()

    def close(self) -> None:
        """Cut the rest and wait for the workers. Raises what they ran into."""
        if not self._closed:
            self._pass_on()
            self._end()
        self._raise_again()
        self._session.check()

    def chunks(self) -> ChunkList:
        """The finished list. After close()."""
        if not self._closed:
            self.close()
        if len(self._ends) < 2:
            return ChunkList(self._ids, self._size, self._size)
        return ChunkList(self._ids, self._size, 0, self._ends)

    def drop(self) -> None:
        """Give up: wait until no worker touches the stream any more."""
        with self._idle:
            self._error = self._error or BackupFailed(f"{self.path}: the archive was given up.")
        if not self._closed:
            self._end()

    def _pass_on(self) -> None:
        if self._held:
            self._pieces.put(bytes(self._held))
            self._held.clear()

    def _end(self) -> None:
        self._closed = True
        self._held = bytearray()
        self._pieces.put(None)
        self._thread.join()
        with self._idle:
            self._idle.wait_for(lambda: not self._pending)

    def _raise_again(self) -> None:
        if self._error is not None:
            raise copy(self._error)

    # --- the chunker's thread ---

    def _cut(self) -> None:
        source = _Source(self._pieces)
        try:
            for chunk in self._chunker.chunkify(source):
                if self._error is not None:
                    break
                size = int(chunk.meta["size"])
                index = len(self._ends)
                self._ends.append((self._ends[-1] if self._ends else 0) + size)
                with self._idle:
                    self._ids += bytes(ID)
                if chunk.data is None:  # Borg's chunker says so of zeros.
                    self._set(index, self._session.store_zero(self._draft, size))
                else:
                    self._submit(index, bytes(chunk.data))
        except Exception as error:  # noqa: BLE001 - handed to whoever calls next
            self._fail(error)
        source.drain()

    def _submit(self, index: int, data: bytes) -> None:
        with self._idle:
            self._idle.wait_for(lambda: not self._pending or self._pending + len(data) <= WITH_WORKERS)
            self._pending += len(data)
        try:
            self._session.workers.submit(self._job(index, data))
        except BaseException:
            self._done(len(data))
            raise

    def _job(self, index: int, data: bytes) -> Callable[[], None]:
        def work() -> None:
            try:
                if self._error is None:
                    self._session.check()
                    id_, stored = self._session.store(self._draft, data)
                    self._set(index, id_, stored)
            except Exception as error:  # noqa: BLE001 - handed to whoever calls next
                self._fail(error)
            finally:
                self._done(len(data))

        return work

    def _set(self, index: int, id_: bytes, stored: int = 0) -> None:
        with self._idle:
            self._ids[index * ID : index * ID + ID] = id_
            self._stored += stored

    def _fail(self, error: Exception) -> None:
        with self._idle:
            self._error = self._error or error

    def _done(self, size: int) -> None:
        with self._idle:
            self._pending -= size
            self._idle.notify_all()


class _Source:
    """The queue as the file that Borg's chunker reads."""

    def __init__(self, pieces: queue.Queue[bytes | None]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._ended = False

    def read(self, size: int) -> bytes:
        if not self._rest and not self._ended:
            piece = self._pieces.get()
            self._ended = piece is None
            self._rest = memoryview(piece or b"")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def drain(self) -> None:
        """Let nobody wait who still writes."""
        while not self._ended:
            self._ended = self._pieces.get() is None
