"""The parser's process: `python -m vmconsole.guestfs.worker`, started by client.py, spoken to by wire.py.

Whatever a guest has put on its disks is parsed here and nowhere else. The process opens no files once it works, has
little memory, so many seconds of the processor for each request, and no way out but the answers.
"""

from __future__ import annotations

import codecs
import os
import resource
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

from vmconsole.guestfs.device import Device
from vmconsole.guestfs.tree import Missing, NotAFolder, Place, Tree
from vmconsole.guestfs.volumes import find_volumes
from vmconsole.guestfs.wire import BYTES, HEADER, document, frame, opened
from vmconsole.model.files import FileKind

MEMORY = 1024 * 1024 * 1024
"""Bytes of address space."""
SECONDS = 60
"""Of the processor, for one request."""
_BATCH = 500
_PIECE = 1024 * 1024


class Worker:
    """receive, send: whole frames' contents."""

    def __init__(
        self, receive: Callable[[], tuple[int, bytes]], send: Callable[[bytes | dict[str, Any]], None]
    ) -> None:
        self._receive = receive
        self._send = send
        self._tree = Tree([])

    def serve(self) -> None:
        while True:
            _, content = self._receive()
            limit_seconds()
            request = document(content)
            try:
                self._answer(request)
                self._send({"end": True})
            except MemoryError:
                raise
            except Missing as error:
                self._send({"error": "missing", "message": str(error)})
            except NotAFolder as error:
                self._send({"error": "not a folder", "message": str(error)})
            except Exception as error:  # noqa: BLE001 - a hostile or damaged file system may break anything
                self._send({"error": "unreadable", "message": (str(error) or type(error).__name__)[:500]})

    def _answer(self, request: dict[str, Any]) -> None:
        operation, volume, path = request["op"], request.get("volume", ""), request.get("path", "/")
        if operation == "open":
            self._open(request["disks"])
        elif operation == "list":
            self._list(volume, path)
        elif operation == "stat":
            place = self._tree.at(volume, path, follow=bool(request.get("follow")))
            self._send({"entry": place.facts()})
        elif operation == "read":
            self._read(self._tree.at(volume, path, follow=True), request["offset"], request["length"])
        else:
            raise ValueError(f"no such request: {operation}")

    def _open(self, disks: list[dict[str, Any]]) -> None:
        def ask_for(disk: str) -> Callable[[int, int], bytes]:
            return lambda offset, length: self._ask(disk, offset, length)

        devices = {disk["id"]: Device(disk["size"], ask_for(disk["id"])) for disk in disks}
        self._tree = Tree(find_volumes(devices))
        fields = ("name", "disk", "kind", "size", "label", "uuid", "readable", "mounted", "note")
        self._send(
            {"volumes": [{name: getattr(one, name) for name in fields} for one in self._tree.volumes()]}
        )

    def _list(self, volume: str, path: str) -> None:
        children = self._tree.children(volume, path)
        while batch := list(islice(children, _BATCH)):
            self._send({"entries": [{"name": name, **_facts(place)} for name, place in batch]})

    def _read(self, place: Place, offset: int, length: int) -> None:
        if place.fs is None or place.facts()["kind"] != FileKind.FILE:
            raise ValueError("it is not a file")
        stream = place.fs.open(place.node)
        end = min(stream.size, offset + length)
        while offset < end:
            piece = stream.read_at(offset, min(_PIECE, end - offset))
            if not piece:
                raise EOFError("the file ends before its end")
            self._send(piece)
            offset += len(piece)

    def _ask(self, disk: str, offset: int, length: int) -> bytes:
        self._send({"ask": [disk, offset, length]})
        letter, content = self._receive()
        if letter != BYTES:
            raise OSError(document(content).get("message", "the disk cannot be read"))
        return content


def _facts(place: Place) -> dict[str, Any]:
    """One broken inode does not hide its neighbours."""
    try:
        return place.facts()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        return {
            "kind": FileKind.UNREADABLE.value,
            "target": "",
            "why": (str(error) or type(error).__name__)[:200],
        }


def limit_seconds() -> None:
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS + 1, hard))


def confine() -> None:
    """From here on: no file is opened or written, no program started, and memory is short."""
    # What is imported late would need files.
    from dissect.volume.disk import Disk  # noqa: F401
    from dissect.volume.dm.thin import ThinPool  # noqa: F401
    from dissect.volume.lvm.lvm2 import LVM2  # noqa: F401

    from vmconsole.guestfs.filesystems import btrfs, exfat, ext, fat, ntfs, xfs  # noqa: F401

    for encoding in ("ascii", "latin-1", "utf-8", "utf-16", "utf-16-le", "cp437", "idna"):
        codecs.lookup(encoding)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    sys.setrecursionlimit(400)


def _frames() -> tuple[Callable[[], tuple[int, bytes]], Callable[[bytes | dict[str, Any]], None]]:
    def exactly(length: int) -> bytes:
        pieces = b""
        while len(pieces) < length:
            piece = os.read(0, length - len(pieces))
            if not piece:
                raise SystemExit(0)  # Whoever asked has gone.
            pieces = piece if not pieces and len(piece) == length else pieces + piece
        return pieces

    def receive() -> tuple[int, bytes]:
        length, letter = opened(exactly(HEADER.size))
        return letter, exactly(length)

    def send(content: bytes | dict[str, Any]) -> None:
        view = memoryview(frame(content))
        while view:
            view = view[os.write(1, view) :]

    return receive, send


def main() -> None:
    receive, send = _frames()
    confine()
    Worker(receive, send).serve()


if __name__ == "__main__":
    main()
