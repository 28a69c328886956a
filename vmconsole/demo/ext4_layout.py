"""The bytes of ext4 on disk: superblock, group descriptors, inodes, extents, directory blocks.

Little-endian, 4 KiB blocks, 32-bit block numbers. After the kernel's Documentation/filesystems/ext4.
Features used: filetype, extents; sparse_super, large_file, huge_file, dir_nlink, extra_isize.
No journal, no checksums, no hashed directories: all of them are optional in the format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

BLOCK = 4096
BLOCKS_PER_GROUP = 8 * BLOCK
INODE_SIZE = 256
EXTRA_SIZE = 32
DESCRIPTOR_SIZE = 32
ROOT_INODE = 2
FIRST_INODE = 11
SUPERBLOCK_OFFSET = 1024
FAST_SYMLINK = 60
"""Symlink targets shorter than this live in the inode."""

_INCOMPAT = 0x0002 | 0x0040
_RO_COMPAT = 0x0001 | 0x0002 | 0x0008 | 0x0020 | 0x0040
_EXTENTS_FLAG = 0x00080000
_EXTENT_MAGIC = 0xF30A
_MAX_EXTENT = 32768
_EXTENTS_PER_LEAF = (BLOCK - 12) // 12
INLINE_EXTENTS = 4
MAX_EXTENTS = INLINE_EXTENTS * _EXTENTS_PER_LEAF


class FileType(IntEnum):
    """The type byte of a directory entry."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 7


@dataclass(frozen=True, slots=True)
class Run:
    """logical: first block within the file; physical: first block on the disk; count: blocks."""

    logical: int
    physical: int
    count: int


@dataclass(slots=True)
class Inode:
    """One inode in memory. size: bytes. leaves: blocks that hold the extent tree's leaves."""

    number: int
    mode: int
    uid: int
    gid: int
    mtime: int
    links: int
    size: int = 0
    runs: list[Run] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    target: bytes = b""
    deleted: int = 0

    @property
    def blocks(self) -> int:
        return sum(run.count for run in self.runs)

    def leaves_needed(self) -> int:
        if len(self.runs) <= INLINE_EXTENTS:
            return 0
        return -(-len(self.runs) // _EXTENTS_PER_LEAF)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the superblock counts. times in seconds since 1970."""

    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int
    inodes_per_group: int
    written: int
    made: int
    uuid: bytes
    label: bytes


def has_superblock(group: int) -> bool:
    """Groups 0, 1 and powers of 3, 5 and 7 hold a copy (sparse_super)."""
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def superblock(totals: Totals, group: int) -> bytes:
    """1024 bytes, for the copy in that group."""
    block = bytearray(1024)
    struct.pack_into(
        "<13IHHHHHHIIIIHH",
        block,
        0,
        totals.inodes,
        totals.blocks,
        0,  # nothing reserved for root
        totals.free_blocks,
        totals.free_inodes,
        0,  # first data block
        2,  # block size 1024 << 2
        2,
        BLOCKS_PER_GROUP,
        BLOCKS_PER_GROUP,
        totals.inodes_per_group,
        0,  # never mounted
        totals.written & 0xFFFFFFFF,
        0,
        0xFFFF,  # no check after so many mounts
        0xEF53,
        1,  # clean
        1,  # errors: continue
        0,
        totals.made & 0xFFFFFFFF,
        0,  # no check after so many days
        0,  # Linux
        1,  # dynamic revision
        0,
        0,
    )
    struct.pack_into(
        "<IHHIII16s16s", block, 0x54, FIRST_INODE, INODE_SIZE, group, 0, _INCOMPAT, _RO_COMPAT,
        totals.uuid, totals.label,
    )  # fmt: skip
    struct.pack_into("<I", block, 0x108, totals.made & 0xFFFFFFFF)
    struct.pack_into("<HHI", block, 0x15C, EXTRA_SIZE, EXTRA_SIZE, 0x0001)
    return bytes(block)


def descriptor(
    block_bitmap: int, inode_bitmap: int, table: int, free_blocks: int, free_inodes: int, directories: int
) -> bytes:
    """32 bytes of the group descriptor table."""
    return struct.pack("<IIIHHH14x", block_bitmap, inode_bitmap, table, free_blocks, free_inodes, directories)


def bitmap(used: bytes | bytearray) -> bytes:
    """One block of bits, least significant first, from one byte (0 or 1) per item; the rest is used."""
    digits = used.ljust(BLOCKS_PER_GROUP, b"\x01")[::-1].translate(_DIGITS)
    return int(digits, 2).to_bytes(BLOCK, "little")


_DIGITS = bytes([0x30, 0x31]) + bytes(254)


def inode(node: Inode) -> bytes:
    """256 bytes of the inode table."""
    if node.deleted:
        return struct.pack("<HHIIIII", node.mode, 0, 0, 0, 0, 0, node.deleted).ljust(INODE_SIZE, b"\0")
    fast = bool(node.target) and not node.runs
    seconds, epoch = node.mtime & 0xFFFFFFFF, _epoch_bits(node.mtime)
    sectors = (node.blocks + len(node.leaves)) * (BLOCK // 512)
    core = struct.pack(
        "<HHIIIIIHHIII60sIIII",
        node.mode,
        node.uid & 0xFFFF,
        node.size & 0xFFFFFFFF,
        seconds,
        seconds,
        seconds,
        0,
        node.gid & 0xFFFF,
        node.links,
        sectors,
        0 if fast else _EXTENTS_FLAG,
        0,
        node.target if fast else _extent_root(node),
        0,
        0,
        node.size >> 32,
        0,
    )
    owner_high = struct.pack("<HHHHHH", 0, 0, node.uid >> 16, node.gid >> 16, 0, 0)
    extra = struct.pack("<HHIIIIIII", EXTRA_SIZE, 0, epoch, epoch, epoch, seconds, epoch, 0, 0)
    return (core + owner_high + extra).ljust(INODE_SIZE, b"\0")


def _epoch_bits(seconds: int) -> int:
    """The two bits that carry times beyond 2038."""
    signed = ((seconds & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
    return ((seconds - signed) >> 32) & 0x3


def _extent_root(node: Inode) -> bytes:
    if not node.leaves:
        return (_header(len(node.runs), INLINE_EXTENTS, 0) + _leaf_entries(node.runs)).ljust(60, b"\0")
    entries = b"".join(
        struct.pack("<IIHH", runs[0].logical, block, 0, 0)
        for runs, block in zip(_leaf_runs(node.runs), node.leaves, strict=True)
    )
    return (_header(len(node.leaves), INLINE_EXTENTS, 1) + entries).ljust(60, b"\0")


def leaf_blocks(node: Inode) -> list[tuple[int, bytes]]:
    """The extent tree's leaves: (block number, content)."""
    return [
        (block, (_header(len(runs), _EXTENTS_PER_LEAF, 0) + _leaf_entries(runs)).ljust(BLOCK, b"\0"))
        for runs, block in zip(_leaf_runs(node.runs), node.leaves, strict=False)
    ]


def _leaf_runs(runs: Sequence[Run]) -> list[Sequence[Run]]:
    return [runs[start : start + _EXTENTS_PER_LEAF] for start in range(0, len(runs), _EXTENTS_PER_LEAF)]


def _header(entries: int, maximum: int, depth: int) -> bytes:
    return struct.pack("<HHHHI", _EXTENT_MAGIC, entries, maximum, depth, 0)


def _leaf_entries(runs: Iterable[Run]) -> bytes:
    return b"".join(struct.pack("<IHHI", run.logical, run.count, 0, run.physical) for run in runs)


def join_runs(runs: Iterable[Run]) -> list[Run]:
    """Neighbours that continue each other become one, within the format's limit per extent."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.physical + last.count == run.physical
            and last.logical + last.count == run.logical
            and last.count + run.count <= _MAX_EXTENT
        ):
            joined[-1] = Run(last.logical, last.physical, last.count + run.count)
        else:
            joined.append(run)
    return joined


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory."""

    inode: int
    kind: FileType
    name: bytes

    @property
    def length(self) -> int:
        """Bytes it takes at least."""
        return 8 + -(-len(self.name) // 4) * 4


def directory_block(entries: Sequence[Entry]) -> bytes:
    """One block of names; the last one takes what is left."""
    if not entries:
        return struct.pack("<IHBB", 0, BLOCK, 0, 0).ljust(BLOCK, b"\0")
    packed = bytearray()
    for position, entry in enumerate(entries):
        length = entry.length if position < len(entries) - 1 else BLOCK - len(packed)
        header = struct.pack("<IHBB", entry.inode, length, len(entry.name), entry.kind)
        packed += (header + entry.name).ljust(length, b"\0")
    return bytes(packed)
