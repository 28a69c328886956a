"""XFS. Superblock, inodes and extents are read by dissect.xfs; folders of blocks and the places of a file's blocks
here: dissect.xfs 3.13 loses names where a folder's block is more than one block of the file system, and takes what
was reserved and never written for content, which would show what some other file once held.
The layout: XFS Algorithms & Data Structures, kernel.org.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import Any

from dissect.xfs import XFS
from dissect.xfs.c_xfs import c_xfs
from dissect.xfs.xfs import fsb_to_bb

from vmconsole.guestfs.device import Memory, Run, Runs, Stream
from vmconsole.guestfs.filesystems.node import word

_BLOCK_MAGICS = (b"XDB3", b"XD2B")
"""Of a folder in one block, at whose end is its table of hashes."""
_DATA_MAGICS = (b"XDD3", b"XD2D")
_UNUSED = 0xFFFF
_REALTIME = 1


class Xfs:
    kind = "xfs"
    folds = False

    def __init__(self, stream: Stream) -> None:
        self._fs = XFS(stream)
        self._blocks = stream
        self.label = self._fs.name
        self.uuid = str(self._fs.uuid)
        self.note = ""
        self._folder_block = self._fs.block_size << self._fs.sb.sb_dirblklog

    @property
    def root(self) -> Any:
        return self._fs.root

    def children(self, node: Any) -> Iterator[tuple[str, Any]]:
        if node.filetype != stat.S_IFDIR:
            raise NotADirectoryError
        if node.inode.di_format == c_xfs.xfs_dinode_fmt.XFS_DINODE_FMT_LOCAL:
            for child in node.iterdir():
                if child.filename not in (".", ".."):
                    yield child.filename, child
            return
        content = self.open(node)
        for at in range(0, min(content.size, self._blocks.size), self._folder_block):
            for name, number in self._names(content.read_at(at, self._folder_block)):
                if name not in (b".", b".."):
                    yield name.decode("utf-8", "surrogateescape"), self._fs.get_inode(number)

    def _names(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        """Of a folder's block, with the numbers of the inodes."""
        if block[:4] not in (*_BLOCK_MAGICS, *_DATA_MAGICS):
            return  # A hole.
        at = 64 if block[:4].endswith(b"3") else 16
        end = len(block)
        if block[:4] in _BLOCK_MAGICS:
            (hashes,) = struct.unpack_from(">I", block, end - 8)
            end -= 8 + 8 * hashes
        typed = 1 if self._fs._has_ftype else 0
        while at + 12 <= end:
            unused, length = struct.unpack_from(">HH", block, at)
            if unused == _UNUSED:
                if length < 8:
                    return  # Damaged: nobody knows where the next name would begin.
                at += length
                continue
            number, letters = struct.unpack_from(">QB", block, at)
            yield block[at + 9 : at + 9 + letters], number
            at += -(-(9 + letters + typed + 2) // 8) * 8

    def facts(self, node: Any) -> dict[str, Any]:
        inode = node.inode
        kind = word(inode.di_mode)
        return {
            "kind": kind,
            "size": node.size if kind in ("file", "link") else 0,
            "changed": _seconds(node),
            "mode": inode.di_mode & 0o7777,
            "owner": inode.di_uid,
            "group": inode.di_gid,
            "target": node.link if kind == "link" else "",
            "identity": str(node.inum),
            "links": inode.di_nlink if inode.di_version > 1 else inode.di_onlink,
        }

    def open(self, node: Any) -> Stream:
        if node.inode.di_flags & _REALTIME:
            raise NotImplementedError("this file lies on a real-time device")
        if node.inode.di_format == c_xfs.xfs_dinode_fmt.XFS_DINODE_FMT_LOCAL:
            return Memory(node.datafork().read(node.size))
        size = self._fs.block_size
        runs: list[Run] = []
        at = 0
        for first, place, count, unwritten in node._iter_blocks():
            if first < at:
                raise ValueError("extents overlap")
            runs.append(Run((first - at) * size))
            group, inside = fsb_to_bb(place, self._fs.sb.sb_agblklog)
            block = group * self._fs.sb.sb_agblocks + inside
            runs.append(Run(count * size) if unwritten else Run(count * size, block * size, self._blocks))
            at = first + count
        return Runs(runs, node.size)


def _seconds(node: Any) -> float:
    """Signed where they are of 32 bits, though dissect.xfs 3.13 takes them for unsigned."""
    seconds, nanoseconds = divmod(node.mtime_ns, 10**9)
    if not node._has_bigtime() and seconds >= 1 << 31:
        seconds -= 1 << 32
    return float(seconds) + float(nanoseconds) / 1e9
