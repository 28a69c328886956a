"""What vzdump writes, taken apart: a VMA stream of disks, or the tar of a container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from vmconsole.disks.tarstream import TarMember, TarStream
from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.proxmox.vzdumpjob import VzdumpJob
from vmconsole.hypervisors.vma.reader import Reader
from vmconsole.interfaces import Cancel, DiskWriter, Fed, Sinks, StreamWriter

PIECE = 1024 * 1024
_OWN_FILES = "./etc/vzdump/"
"""What vzdump puts before a container's own files."""


class VmFeed:
    """Implements Feed. disks: by number of the device in the stream, the disk's id; others are passed over."""

    def __init__(self, job: VzdumpJob, reader: Reader, disks: Mapping[int, str]) -> None:
        self._job = job
        self._reader = reader
        self._disks = disks

    def run(self, sinks: Sinks, report: Callable[[str, int], None], cancel: Cancel) -> Mapping[str, Fed]:
        data = dict.fromkeys(self._disks, 0)
        done = dict.fromkeys(self._disks, 0)
        writers = {number: cast(DiskWriter, sinks[key]) for number, key in self._disks.items()}
        try:
            for number, offset, content, length in self._reader.pieces():
                cancel.check()
                writer = writers.get(number)
                if writer is None:
                    continue
                if content is None:
                    writer.zero(offset, length)
                else:
                    writer.data(offset, content)
                    data[number] += length
                done[number] += length
                report(self._disks[number], done[number])
        except ProtocolError as error:
            self._job.explain(error)
        self._job.finish()
        return {key: Fed(data[number], data[number]) for number, key in self._disks.items()}


class TarFeed:
    """Implements Feed. first: what was read of the tar already. files: vzdump's own, after run()."""

    def __init__(self, job: VzdumpJob, disk: str, first: bytes) -> None:
        self._job = job
        self._disk = disk
        self._first = first
        self.files: dict[str, bytes] = {}

    def run(self, sinks: Sinks, report: Callable[[str, int], None], cancel: Cancel) -> Mapping[str, Fed]:
        tar = cast(StreamWriter, sinks[self._disk])
        beginning = _Beginning(self.files)
        done, piece = 0, self._first
        try:
            while piece:
                cancel.check()
                beginning.feed(piece)
                tar.write(piece)
                done += len(piece)
                report(self._disk, done)
                piece = self._job.read(PIECE)
        except ProtocolError as error:
            self._job.explain(error)
        self._job.finish()
        return {self._disk: Fed(done, done)}


class _Beginning:
    """Keeps vzdump's own files, which come first, and looks no further."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self._seen = bytearray()
        self._found: list[TarMember] = []
        self._stream = TarStream(self._found.append)
        self._over = False

    def feed(self, data: bytes) -> None:
        if self._over:
            return
        self._seen += data
        self._stream.feed(data)
        for member in self._found:
            if member.type == "dir":
                continue
            if not member.path.startswith(_OWN_FILES):
                self._over = True
            elif member.type == "file" and member.end <= len(self._seen):
                name = member.path.removeprefix(_OWN_FILES)
                self._files[name] = bytes(self._seen[member.data : member.data + member.size])
        if self._over or len(self._seen) > PIECE:
            self._over = True
            self._seen.clear()
