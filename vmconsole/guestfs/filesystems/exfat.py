"""exFAT. The structures are dissect.fat's; its reader walks every folder at once and loses the later clusters of
those that lie in one piece (dissect.fat 3.13). The layout: Microsoft's exFAT file system specification."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dissect.fat.c_exfat import c_exfat

from vmconsole.guestfs.device import Part, Run, Runs, Stream
from vmconsole.model.files import FileKind

_FILE, _STREAM, _NAME, _LABEL, _END = 0x85, 0xC0, 0xC1, 0x83, 0x00
_ENTRY = 32
_IN_ONE_PIECE = 0x02
_FOLDER = 0x10
_LAST = 0xFFFFFFF8


@dataclass(frozen=True, slots=True)
class _Node:
    """valid: bytes that were ever written; what lies behind them reads as zeros."""

    cluster: int
    size: int
    valid: int
    folder: bool
    one_piece: bool
    changed: float | None = None


class ExFat:
    kind = "exfat"
    folds = True
    note = ""

    def __init__(self, stream: Stream) -> None:
        header = c_exfat.EXFAT_HEADER(stream.read_at(0, 512))
        if header.fs_name != b"EXFAT   ":
            raise ValueError("not exFAT")
        sector = 1 << header.bytes_per_sector_exp
        self._cluster = sector << header.sectors_per_cluster_exp
        if not 512 <= sector <= 4096 or self._cluster > 32 * 1024 * 1024:
            raise ValueError("impossible sizes")
        self._clusters = header.cluster_heap_count
        self._fat = Part(stream, header.fat_sector * sector, header.fat_sector_count * sector)
        self._heap = Part(stream, header.cluster_heap_sector * sector, self._clusters * self._cluster)
        self.root = _Node(header.root_dir_cluster, -1, -1, folder=True, one_piece=False)
        self.uuid = f"{header.volume_serial >> 16:04X}-{header.volume_serial & 0xFFFF:04X}"
        self.label = self._label()

    def children(self, node: _Node) -> Iterator[tuple[str, _Node]]:
        if not node.folder:
            raise NotADirectoryError
        entries = self._entries(node)
        for entry in entries:
            if entry[0] != _FILE:
                continue
            more = [next(entries, b"") for _ in range(entry[1])]
            if len(more) >= 2 and more[0][:1] == bytes([_STREAM]):
                yield self._name(more), self._node(entry, more[0])

    def facts(self, node: _Node) -> dict[str, Any]:
        return {
            "kind": (FileKind.FOLDER if node.folder else FileKind.FILE).value,
            "size": 0 if node.folder else node.size,
            "changed": node.changed,
        }

    def open(self, node: _Node) -> Stream:
        return self._stream(node)

    def _label(self) -> str:
        for entry in self._entries(self.root):
            if entry[0] == _LABEL:
                return entry[2 : 2 + 2 * min(entry[1], 11)].decode("utf-16-le", "replace")
        return ""

    def _entries(self, node: _Node) -> Iterator[bytes]:
        content = self._stream(node)
        for at in range(0, content.size, _ENTRY):
            entry = content.read_at(at, _ENTRY)
            if len(entry) < _ENTRY or entry[0] == _END:
                return
            yield entry

    def _name(self, more: list[bytes]) -> str:
        letters = b"".join(entry[2:32] for entry in more[1:] if entry[:1] == bytes([_NAME]))
        return letters[: 2 * more[0][3]].decode("utf-16-le", "surrogatepass")

    def _node(self, entry: bytes, stream: bytes) -> _Node:
        (attributes,) = struct.unpack_from("<H", entry, 4)
        valid, _, cluster, size = struct.unpack_from("<QIIQ", stream, 8)
        folder = bool(attributes & _FOLDER)
        return _Node(
            cluster,
            size,
            size if folder else min(valid, size),
            folder,
            bool(stream[1] & _IN_ONE_PIECE),
            _seconds(entry),
        )

    def _stream(self, node: _Node) -> Stream:
        each = self._cluster
        if node.size == 0 or node.cluster == 0:
            return Runs([])
        if node.one_piece:
            clusters = [node.cluster]
            length = -(-node.size // each) * each
        else:
            clusters = self._chain(node.cluster)
            length = each
        runs = [Run(length, (cluster - 2) * each, self._heap) for cluster in clusters]
        size = len(clusters) * each if node.size < 0 else node.size
        if 0 <= node.valid < size:
            return Runs([Run(node.valid, 0, Runs(runs, node.valid))], size)
        return Runs(runs, size)

    def _chain(self, first: int) -> list[int]:
        found: list[int] = []
        cluster = first
        while 2 <= cluster < self._clusters + 2:
            found.append(cluster)
            if len(found) > self._clusters:
                raise ValueError("a chain of clusters that has no end")
            (cluster,) = struct.unpack("<I", self._fat.read_at(cluster * 4, 4))
        if cluster < _LAST:
            raise ValueError("a chain of clusters that leads nowhere")
        return found


def _seconds(entry: bytes) -> float | None:
    """The moment of the last change: time of the clock on the wall, and how far that is from UTC if that is known."""
    (stamp,) = struct.unpack_from("<I", entry, 12)
    hundredths, zone = entry[21], entry[23]
    try:
        moment = datetime(
            1980 + (stamp >> 25), stamp >> 21 & 15, stamp >> 16 & 31,
            stamp >> 11 & 31, stamp >> 5 & 63, (stamp & 31) * 2, tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
    moment += timedelta(milliseconds=10 * min(hundredths, 199))
    if zone & 0x80:
        quarters = (zone & 0x7F) - (0x80 if zone & 0x40 else 0)
        moment -= timedelta(minutes=15 * quarters)
    return moment.timestamp()
