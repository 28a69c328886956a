"""FAT12, FAT16 and FAT32, read by dissect.fat but for the chains of clusters: it puts clusters together that do not
follow each other (dissect.fat 3.13, where a chain goes backwards)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from dissect.fat import FATFS
from dissect.fat.fat import _iter_dirent

from vmconsole.guestfs.device import Part, Run, Runs, Stream
from vmconsole.model.files import FileKind

_SMALL_BASE, _SMALL_EXTENSION = 0x08, 0x10


class Fat:
    kind = "fat"
    folds = True
    note = ""

    def __init__(self, stream: Stream) -> None:
        self._fs = FATFS(stream)
        self.kind = {12: "fat12", 16: "fat16", 32: "fat32"}[self._fs.fat.bits_per_entry]
        self.label = "" if self._fs.volume_label == "NO NAME" else self._fs.volume_label
        serial = int(self._fs.volume_id, 16)
        self.uuid = f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"
        begins = self._fs.first_data_sector * self._fs.sector_size
        self._data = Part(stream, begins, stream.size - begins)
        roots = self._fs.bpb.BPB_RootEntCnt * 32
        roots_start = begins - -(-roots // self._fs.sector_size) * self._fs.sector_size
        self._small_root = Part(stream, roots_start, roots) if roots else None

    @property
    def root(self) -> Any:
        return self._fs.root

    def children(self, node: Any) -> Iterator[tuple[str, Any]]:
        if not self._is_folder(node):
            raise NotADirectoryError
        content = self._stream(node)
        content.seek(0)
        for child in _iter_dirent(self._fs, content, node):
            if child.name not in (".", "..") and not child.is_volume_id():
                yield _name(child), child

    def facts(self, node: Any) -> dict[str, Any]:
        if node is self._fs.root:
            return {"kind": FileKind.FOLDER.value}
        folder = self._is_folder(node)
        return {
            "kind": (FileKind.FOLDER if folder else FileKind.FILE).value,
            "size": 0 if folder else node.dirent.DIR_FileSize,
            "changed": _seconds(node),
        }

    def open(self, node: Any) -> Stream:
        return self._stream(node)

    def _is_folder(self, node: Any) -> bool:
        return node is self._fs.root or bool(node.is_directory())

    def _stream(self, node: Any) -> Stream:
        if node is self._fs.root and self._small_root is not None:
            return self._small_root
        each = self._fs.cluster_size
        first = node.cluster
        clusters = self._chain(first) if first else []
        runs = [Run(each, (cluster - 2) * each, self._data) for cluster in clusters]
        return Runs(runs) if self._is_folder(node) else Runs(runs, node.dirent.DIR_FileSize)

    def _chain(self, first: int) -> list[int]:
        found: list[int] = []
        for cluster in self._fs.fat.chain(first):
            found.append(cluster)
            if len(found) > self._fs.fat.entry_count:
                raise ValueError("a chain of clusters that has no end")
        return found


def _name(node: Any) -> str:
    """A short name may say of each of its halves that it is meant in small letters, as Windows NT does."""
    if node.ldirents:
        return str(node.name)
    base, dot, extension = str(node.name).partition(".")
    case = node.dirent.DIR_NTRes
    return (
        (base.lower() if case & _SMALL_BASE else base)
        + dot
        + (extension.lower() if case & _SMALL_EXTENSION else extension)
    )


def _seconds(node: Any) -> float | None:
    """FAT keeps the time of the clock on the wall; where that hung nobody knows: it is taken for UTC."""
    if not node.dirent.DIR_WrtDate:
        return None
    try:
        return float(node.mtime.replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        return None
