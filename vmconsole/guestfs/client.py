"""Our side of the parser's process: starts it, gives it the bytes it asks for, and ends it when it takes too long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from vmconsole.errors import FilesUnreadable, HostError, HostUnreachable, PathNotFound
from vmconsole.guestfs.wire import BYTES, HEADER, MAX_FRAME, document, frame, opened
from vmconsole.interfaces import DiskReader
from vmconsole.model.files import FileEntry, FileKind, Volume
from vmconsole.remote.machine import Machine, Process

PATIENCE = 60.0
"""Seconds that the parser may take for one request, without the time that its bytes take to come."""
AT_ONCE = 256 * 1024 * 1024
"""Bytes of a file that are asked for at once: a large file takes longer than a request may."""
_HINT = (
    "Restore the disk to a file, and look inside with guestmount or by mounting it: vmconsole restore --help"
)
_T = TypeVar("_T")
_KINDS = {kind.value for kind in FileKind}


@contextmanager
def open_files(
    machine: Machine, disks: Mapping[str, DiskReader], patience: float = PATIENCE
) -> Iterator[GuestDisks]:
    """machine: this one. Raises FilesUnreadable, and what reading a disk raises."""
    files = GuestDisks(machine, disks, patience)
    try:
        files.start()
        yield files
    finally:
        files.close()


class GuestDisks:
    """Implements GuestFiles. A parser that died is started again by the next request."""

    def __init__(self, machine: Machine, disks: Mapping[str, DiskReader], patience: float) -> None:
        self._machine = machine
        self._disks = dict(disks)
        self._patience = patience
        self._process: Process | None = None
        self._volumes: tuple[Volume, ...] = ()
        self._buffer = bytearray()

    @property
    def volumes(self) -> Sequence[Volume]:
        return self._volumes

    def start(self) -> None:
        self._buffer.clear()
        self._process = self._machine.start([sys.executable, "-P", "-m", "vmconsole.guestfs.worker"])
        disks = [{"id": name, "size": reader.size} for name, reader in self._disks.items()]
        request = {"op": "open", "disks": disks}
        self._volumes = tuple(
            self._request(request, lambda answer: [_volume(one) for one in answer["volumes"]])
        )

    def entry(self, volume: str, path: str, *, follow: bool = False) -> FileEntry:
        request = {"op": "stat", "volume": volume, "path": path, "follow": follow}
        name = path.rstrip("/").rpartition("/")[2] or "/"
        (entry,) = self._ask(request, lambda answer: [_entry({"name": name, **answer["entry"]})])
        return entry

    def entries(self, volume: str, path: str) -> Iterator[FileEntry]:
        request = {"op": "list", "volume": volume, "path": path}
        yield from self._ask(request, lambda answer: [_entry(fields) for fields in answer["entries"]])

    def read(self, volume: str, path: str, offset: int, length: int) -> Iterator[bytes]:
        end = offset + length
        while offset < end:
            wanted = min(AT_ONCE, end - offset)
            request = {"op": "read", "volume": volume, "path": path, "offset": offset, "length": wanted}
            got = 0
            for piece in self._ask(request, _no_documents):
                got += len(piece)
                yield piece
            if got < wanted:
                return
            offset += got

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _ask(self, request: dict[str, Any], take: Callable[[dict[str, Any]], Iterable[_T]]) -> Iterator[_T]:
        if self._process is None:
            self.start()
        yield from self._request(request, take)

    def _request(
        self, request: dict[str, Any], take: Callable[[dict[str, Any]], Iterable[_T]]
    ) -> Iterator[_T]:
        """What take makes of the answers, until their end. Bytes are answers as they are."""
        ended = False
        left = self._patience
        try:
            self._send(frame(request))
            while True:
                began = time.monotonic()
                letter, content = self._frame(left)
                left -= time.monotonic() - began
                if letter == BYTES:
                    yield cast("_T", content)
                    continue
                answer = document(content)
                if "ask" in answer:
                    self._serve(answer["ask"])
                elif "error" in answer:
                    ended = True
                    raise _error(answer, request)
                elif "end" in answer:
                    ended = True
                    return
                else:
                    yield from list(take(answer))
        except TimeoutError as error:
            raise FilesUnreadable(
                f"The file system was not read within {self._patience:g} s; it may be damaged.", hint=_HINT
            ) from error
        except (HostError, HostUnreachable, ValueError, KeyError, TypeError) as error:
            raise self._died() from error
        finally:
            if not ended:
                self._end()

    def _serve(self, ask: Any) -> None:
        disk, offset, length = ask
        if (
            not isinstance(offset, int)
            or not isinstance(length, int)
            or not 0 < length <= MAX_FRAME
            or offset < 0
        ):
            raise ValueError("an impossible piece of a disk")
        found = self._disks[disk].read_at(offset, length)
        self._send(frame(found + bytes(length - len(found))))

    def _send(self, content: bytes) -> None:
        assert self._process is not None
        self._process.write(content)

    def _frame(self, patience: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + patience
        length, letter = opened(self._exactly(HEADER.size, deadline))
        return letter, self._exactly(length, deadline)

    def _exactly(self, length: int, deadline: float) -> bytes:
        assert self._process is not None
        while len(self._buffer) < length:
            piece = self._process.read(1024 * 1024, max(0.0, deadline - time.monotonic()))
            if not piece:
                raise ValueError("it has ended")
            self._buffer += piece
        found = bytes(self._buffer[:length])
        del self._buffer[:length]
        return found

    def _died(self) -> FilesUnreadable:
        said = self._process.stderr.decode("utf-8", "replace").strip() if self._process else ""
        memory = "MemoryError" in said
        why = "it needs more memory than is given to it" if memory else "what reads it ended"
        return FilesUnreadable(f"The file system cannot be read: {why}; it may be damaged.", hint=_HINT)

    def _end(self) -> None:
        """What is in the middle of an answer is of no more use."""
        process, self._process = self._process, None
        if process is not None:
            process.close()


def _no_documents(_: dict[str, Any]) -> Iterable[bytes]:
    raise ValueError("a document among a file's bytes")


def _error(answer: dict[str, Any], request: dict[str, Any]) -> PathNotFound | FilesUnreadable:
    message, path = str(answer.get("message", "")), str(request.get("path", ""))
    if answer["error"] == "missing":
        return PathNotFound(f"There is no {message}.", subject=path)
    if answer["error"] == "not a folder":
        return PathNotFound(f"{message} is not a folder.", subject=path)
    what = path or "The disk"
    return FilesUnreadable(f"{what} cannot be read: {message}.", hint=_HINT, subject=path)


def _entry(fields: dict[str, Any]) -> FileEntry:
    """Nothing it says is believed further than its type. Raises ValueError, TypeError."""
    kind = str(fields["kind"])
    changed = fields.get("changed")
    numbers = {name: fields.get(name) for name in ("mode", "owner", "group")}
    return FileEntry(
        name=str(fields["name"]),
        kind=FileKind(kind) if kind in _KINDS else FileKind.OTHER,
        size=max(0, int(fields.get("size", 0))),
        changed=None if changed is None else float(changed),
        mode=None if numbers["mode"] is None else int(numbers["mode"]) & 0o7777,
        owner=None if numbers["owner"] is None else int(numbers["owner"]),
        group=None if numbers["group"] is None else int(numbers["group"]),
        target=str(fields.get("target", "")),
        identity=str(fields.get("identity", "")),
        links=max(1, int(fields.get("links", 1))),
    )


def _volume(fields: dict[str, Any]) -> Volume:
    words = {name: str(fields[name]) for name in ("name", "disk", "kind", "label", "uuid", "mounted", "note")}
    return Volume(size=int(fields["size"]), readable=bool(fields["readable"]), **words)
