"""btrfs, with its subvolumes as the folders they are seen as. Read by dissect.btrfs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dissect.btrfs.stream as btrfs_stream
import zstandard
from dissect.btrfs import Btrfs as Dissected

from vmconsole.guestfs.device import Stream, Whole
from vmconsole.guestfs.filesystems.node import word


class _Zstd:
    """The one function that dissect.btrfs wants of a zstd module, from the one we have."""

    @staticmethod
    def decompress(content: bytes) -> bytes:
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)


class Btrfs:
    kind = "btrfs"
    folds = False
    note = ""

    def __init__(self, stream: Stream) -> None:
        if not getattr(btrfs_stream, "HAS_ZSTD", True):
            btrfs_stream.zstd, btrfs_stream.HAS_ZSTD = _Zstd, True
        self._fs = Dissected(stream)
        self.label = self._fs.label
        self.uuid = str(self._fs.uuid)
        if self._fs.sb.num_devices > 1:
            self.note = "It lies on several disks; what is on the others cannot be read."

    @property
    def root(self) -> Any:
        """The top, whatever subvolume is mounted by default: that one is a folder in it."""
        return self._fs.fs_tree.root

    @property
    def default(self) -> str:
        """The subvolume that is mounted when nothing else is said, as a path; empty for the top."""
        return str(self._fs.default_subvolume.path).strip("/")

    def children(self, node: Any) -> Iterator[tuple[str, Any]]:
        if not node.is_dir():
            raise NotADirectoryError
        for name, child in node.iterdir():
            if name not in (".", ".."):
                yield name, child

    def facts(self, node: Any) -> dict[str, Any]:
        kind = word(node.mode)
        return {
            "kind": kind,
            "size": node.size if kind in ("file", "link") else 0,
            "changed": _seconds(node.inode.mtime),
            "mode": node.mode & 0o7777,
            "owner": node.uid,
            "group": node.gid,
            "target": node.open().read(4096).decode("utf-8", "surrogateescape") if kind == "link" else "",
            "identity": f"{node.subvolume.objectid}:{node.inum}",
            "links": node.inode.nlink,
        }

    def open(self, node: Any) -> Stream:
        return Whole(node.open(), node.size)


def _seconds(stamp: Any) -> float:
    """Signed, though dissect.btrfs 1.10 takes them for unsigned."""
    seconds = stamp.sec - (1 << 64) if stamp.sec >= 1 << 63 else stamp.sec
    return float(seconds) + float(stamp.nsec) / 1e9
