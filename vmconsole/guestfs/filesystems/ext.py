"""ext2, ext3 and ext4.

Inodes, superblocks and attributes are read by dissect.extfs. Folders and the places of a file's blocks are read here,
because dissect.extfs 3.15 takes a hole at a file's end for block 0 (ext2, ext3), places blocks wrongly behind an
uninitialised extent that follows a hole, and leaves out a name in the last twelve bytes of a folder.
The layout: https://docs.kernel.org/filesystems/ext4/.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import Any

from dissect.extfs import ExtFS

from vmconsole.guestfs.device import Memory, Patched, Run, Runs, Stream
from vmconsole.guestfs.filesystems.journal import replayed
from vmconsole.guestfs.filesystems.node import word

_ENTRY = struct.Struct("<IHBB")
_EXTENT_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_MAGIC = 0xF30A
_UNWRITTEN = 0x8000
_DEEPEST = 5
"""Levels of an extent tree: the kernel knows no more."""
_FLAG_EXTENTS, _FLAG_INLINE, _FLAG_ENCRYPTED = 0x80000, 0x10000000, 0x800
_NEEDS_RECOVERY, _FILETYPE, _ENCRYPT, _CASEFOLD = 0x4, 0x2, 0x10000, 0x20000
_INLINE_MAP = 60
"""Bytes of an inode that hold a short link, or the beginning of a file that lies in its inode."""


class Ext:
    note = ""
    folds = False

    def __init__(self, stream: Stream) -> None:
        """A journal that was not written back is applied in memory, as the kernel would at the next mount."""
        made = ExtFS(stream)
        self._blocks = stream
        if made.sb.s_feature_incompat & _NEEDS_RECOVERY and made.sb.s_journal_inum:
            self._fs, self._block = made, made.block_size
            changed = replayed(self._stream(made.get_inode(made.sb.s_journal_inum)))
            if changed:
                self._blocks = Patched(stream, made.block_size, changed)
                made = ExtFS(self._blocks)
                self.note = "Its journal was applied while reading, as at the guest's next start."
        self._fs, self._block = made, made.block_size
        self.kind = (
            {2: "ext2", 3: "ext3", 4: "ext4"}.get(made.type, "ext")
            if isinstance(made.type, int)
            else str(made.type).lower()
        )
        self.label = made.volume_name
        self.uuid = str(made.uuid)

    @property
    def root(self) -> Any:
        return self._fs.root

    def children(self, node: Any) -> Iterator[tuple[str, Any]]:
        if node.filetype != stat.S_IFDIR:
            raise NotADirectoryError
        typed = bool(self._fs.sb.s_feature_incompat & _FILETYPE)
        content = self._stream(node, folder=True)
        # A folder has no holes: one that says it is larger than all is broken.
        for start in range(0, min(content.size, self._blocks.size), self._block):
            yield from self._names(content.read_at(start, self._block), typed=typed)

    def _names(self, block: bytes, *, typed: bool) -> Iterator[tuple[str, Any]]:
        at = 0
        while at + _ENTRY.size <= len(block):
            inode, length, name_length, high = _ENTRY.unpack_from(block, at)
            if not typed:
                name_length |= high << 8
            if length < _ENTRY.size or at + length > len(block):
                return  # Damaged: nobody knows where the next name would begin.
            name = block[at + _ENTRY.size : at + _ENTRY.size + name_length]
            if 0 < inode <= self._fs.sb.s_inodes_count and name not in (b".", b"..", b""):
                yield name.decode("utf-8", "surrogateescape"), self._fs.get_inode(inode)
            at += length

    def facts(self, node: Any) -> dict[str, Any]:
        inode = node.inode
        kind = word(inode.i_mode)
        return {
            "kind": kind,
            "size": node.size if kind in ("file", "link") else 0,
            "changed": _seconds(inode, large=self._fs.sb.s_inode_size > 128),
            "mode": inode.i_mode & 0o7777,
            "owner": inode.i_uid | inode.i_uid_high << 16,
            "group": inode.i_gid | inode.i_gid_high << 16,
            "target": self._link(node) if kind == "link" else "",
            "identity": str(node.inum),
            "links": inode.i_links_count,
        }

    def _link(self, node: Any) -> str:
        if node.inode.i_flags & _FLAG_ENCRYPTED:
            return ""
        return self._stream(node).read_at(0, 4096).decode("utf-8", "surrogateescape")

    def open(self, node: Any) -> Stream:
        if node.inode.i_flags & _FLAG_ENCRYPTED:
            raise PermissionError("the guest has encrypted this file")
        return self._stream(node)

    def _stream(self, node: Any, *, folder: bool = False) -> Stream:
        inode, size = node.inode, node.size
        if inode.i_flags & _FLAG_INLINE:
            return self._inline(node, folder=folder)
        if stat.S_ISLNK(inode.i_mode) and size < _INLINE_MAP and not inode.i_flags & _FLAG_EXTENTS:
            return Memory(bytes(inode.i_block)[:size])
        if inode.i_flags & _FLAG_EXTENTS:
            runs = self._by_extents(bytes(inode.i_block))
        else:
            count = -(-size // self._block)
            runs = self._by_blocks(struct.unpack("<15I", bytes(inode.i_block)), count)
        return Runs(runs, size)

    def _inline(self, node: Any, *, folder: bool) -> Stream:
        """A small file lies in its inode, and what does not fit there in an attribute."""
        rest = b"".join(found.value for found in node.xattr if found.name == "system.data")
        if not folder:
            return Memory((bytes(node.inode.i_block) + rest)[: node.size])
        # The first four bytes are the folder above.
        first, second = bytes(node.inode.i_block)[4:], rest
        return Memory(_as_block(first, self._block) + (_as_block(second, self._block) if second else b""))

    def _by_extents(self, root: bytes) -> list[Run]:
        runs: list[Run] = []
        at = 0
        for first, length, place in self._extents(root, _DEEPEST):
            if first < at:
                raise ValueError("extents overlap")
            runs.append(Run((first - at) * self._block))
            unwritten = length > _UNWRITTEN
            length -= _UNWRITTEN if unwritten else 0
            runs.append(
                Run(length * self._block)
                if unwritten
                else Run(length * self._block, place * self._block, self._blocks)
            )
            at = first + length
        return runs

    def _extents(self, node: bytes, levels: int) -> Iterator[tuple[int, int, int]]:
        """(first block of the file, how many, where), in order."""
        magic, count, _, depth, _ = _EXTENT_HEADER.unpack_from(node)
        if magic != _MAGIC or depth > levels:
            raise ValueError("a broken extent tree")
        for at in range(_EXTENT_HEADER.size, _EXTENT_HEADER.size + count * 12, 12):
            if depth == 0:
                first, length, high, low = _EXTENT.unpack_from(node, at)
                yield first, length, high << 32 | low
            else:
                _, low, high, _ = _INDEX.unpack_from(node, at)
                child = self._blocks.read_at((high << 32 | low) * self._block, self._block)
                yield from self._extents(child, depth - 1)

    def _by_blocks(self, pointers: tuple[int, ...], count: int) -> list[Run]:
        """The twelve direct blocks, then one to three levels of blocks that hold the numbers of blocks."""
        runs: list[Run] = []
        left = count
        for level, number in [
            *((0, direct) for direct in pointers[:12]),
            (1, pointers[12]),
            (2, pointers[13]),
            (3, pointers[14]),
        ]:
            if left <= 0:
                break
            left -= self._indirect(number, level, left, runs)
        return runs

    def _indirect(self, number: int, level: int, left: int, runs: list[Run]) -> int:
        """Add what a pointer leads to; returns how many blocks of the file that is."""
        each: int = self._block // 4
        covers: int = min(left, each**level)
        if number == 0:
            _extend(runs, Run(covers * self._block))
            return covers
        if level == 0:
            _extend(runs, Run(self._block, number * self._block, self._blocks))
            return 1
        done = 0
        for (child,) in struct.iter_unpack("<I", self._blocks.read_at(number * self._block, self._block)):
            if done >= covers:
                break
            done += self._indirect(child, level - 1, left - done, runs)
        return done


def _extend(runs: list[Run], more: Run) -> None:
    """Add a piece; one that follows the last without a gap becomes part of it."""
    if runs and runs[-1].source is more.source:
        last = runs[-1]
        if more.source is None or last.place + last.length == more.place:
            runs[-1] = Run(last.length + more.length, last.place, last.source)
            return
    runs.append(more)


def _seconds(inode: Any, *, large: bool) -> float:
    """The seconds are signed, and two more bits of them are among the nanoseconds."""
    (seconds,) = struct.unpack("<i", struct.pack("<I", inode.i_mtime))
    if not large or inode.i_extra_isize < 8:
        return float(seconds)
    extra = inode.i_mtime_extra
    return float(seconds + ((extra & 3) << 32)) + float(extra >> 2) / 1e9


def _as_block(names: bytes, block: int) -> bytes:
    """Names that lie in an inode, as the block they would be in a file."""
    return names.ljust(block, b"\0")
