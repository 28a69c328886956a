"""Which blocks and inodes of an ext4 file system are in use, group by group."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from vmconsole.demo import ext4_layout as layout
from vmconsole.demo.ext4_layout import BLOCK, BLOCKS_PER_GROUP

MAX_GROUPS = BLOCK // layout.DESCRIPTOR_SIZE
"""The descriptor table is one block: 16 GiB."""

_SPARE = 50
"""A last group with fewer usable blocks than this is left out, as mke2fs does."""


class Groups:
    """The block and inode maps. What is freed can be taken again only after settle().

    So blocks that the metadata on disk still refers to never get new content.
    """

    def __init__(self, blocks: int, inodes_per_group: int, *, uuid: bytes, label: bytes, made: int) -> None:
        self._per_group = inodes_per_group
        self._table_blocks = inodes_per_group * layout.INODE_SIZE // BLOCK
        self._uuid, self._label, self._made = uuid, label, made
        self._used = bytearray()
        self._inodes_used = bytearray()
        self._freed: list[tuple[int, int]] = []
        self._freed_inodes: list[int] = []
        self._trimmable: list[tuple[int, int]] = []
        self._dirty: set[int] = set()
        self._copies_stale = True
        self.extend(blocks)
        self._inodes_used[: layout.FIRST_INODE - 1] = b"\x01" * (layout.FIRST_INODE - 1)

    @property
    def blocks(self) -> int:
        return len(self._used)

    @property
    def free_blocks(self) -> int:
        return self._used.count(0)

    @property
    def changed(self) -> bool:
        """There are summaries to be written."""
        return bool(self._dirty or self._copies_stale or self._freed or self._freed_inodes)

    def extend(self, blocks: int) -> None:
        """Extend the maps to that many blocks, and claim each new group's own metadata."""
        old = len(self._used)
        last = (blocks - 1) // BLOCKS_PER_GROUP
        if blocks - last * BLOCKS_PER_GROUP < self._overhead(last) + _SPARE:
            blocks = last * BLOCKS_PER_GROUP
        groups = -(-blocks // BLOCKS_PER_GROUP)
        if blocks < old or groups > MAX_GROUPS or blocks <= 0:
            raise OSError(errno.EINVAL, "no ext4 of that size")
        first_new = -(-old // BLOCKS_PER_GROUP)
        self._used += bytes(blocks - old)
        for group in range(first_new, groups):
            self._inodes_used += bytes(self._per_group)
            begin = group * BLOCKS_PER_GROUP
            self._used[begin : begin + self._overhead(group)] = b"\x01" * self._overhead(group)
        self._dirty.update(range(max(first_new - 1, 0), groups))
        self._copies_stale = True

    def take(self, goal: int, count: int) -> list[tuple[int, int]]:
        """(first, count) runs of blocks: from goal on where possible, in as few pieces as possible."""
        if count > self.free_blocks:
            raise OSError(errno.ENOSPC, "no space left in the file system")
        runs: list[tuple[int, int]] = []
        while count:
            first, length = self._free_run(goal, min(count, BLOCKS_PER_GROUP))
            self._used[first : first + length] = b"\x01" * length
            self._touch(first, length)
            runs.append((first, length))
            count, goal = count - length, first + length
        return runs

    def free(self, first: int, count: int) -> None:
        self._freed.append((first, count))

    def take_inode(self) -> int:
        number = self._inodes_used.find(0) + 1
        if not number:
            raise OSError(errno.ENOSPC, "no inodes left in the file system")
        self._inodes_used[number - 1] = 1
        self._dirty.add((number - 1) // self._per_group)
        return number

    def free_inode(self, number: int) -> None:
        self._freed_inodes.append(number)

    def inode_offset(self, number: int) -> int:
        """Where an inode lies on the device, in bytes."""
        group, slot = divmod(number - 1, self._per_group)
        return self._table(group) * BLOCK + slot * layout.INODE_SIZE

    def settle(self) -> None:
        """What was freed since the last time is free from now on."""
        for first, count in self._freed:
            self._used[first : first + count] = bytes(count)
            self._touch(first, count)
        for number in self._freed_inodes:
            self._inodes_used[number - 1] = 0
            self._dirty.add((number - 1) // self._per_group)
        self._trimmable += self._freed
        self._freed.clear()
        self._freed_inodes.clear()

    def take_trimmable(self) -> list[tuple[int, int]]:
        """Runs freed since the last time, less what is in use again."""
        runs: list[tuple[int, int]] = []
        for first, count in self._trimmable:
            position, end = first, first + count
            while (begin := self._used.find(0, position, end)) >= 0:
                stop = self._used.find(1, begin, end)
                position = end if stop < 0 else stop
                runs.append((begin, position - begin))
        self._trimmable.clear()
        return runs

    def summaries(self, directories: Iterable[int], now: int) -> list[tuple[int, bytes]]:
        """(offset, bytes) of bitmaps that changed, all descriptors, and the superblocks."""
        out: list[tuple[int, bytes]] = []
        groups = len(self._inodes_used) // self._per_group
        per_group = [0] * groups
        for number in directories:
            per_group[(number - 1) // self._per_group] += 1
        descriptors = bytearray()
        for group in range(groups):
            blocks = self._used[group * BLOCKS_PER_GROUP : (group + 1) * BLOCKS_PER_GROUP]
            inodes = self._inodes_used[group * self._per_group : (group + 1) * self._per_group]
            table = self._table(group)
            if group in self._dirty:
                out.append(((table - 2) * BLOCK, layout.bitmap(blocks)))
                out.append(((table - 1) * BLOCK, layout.bitmap(inodes)))
            descriptors += layout.descriptor(
                table - 2, table - 1, table, blocks.count(0), inodes.count(0), per_group[group]
            )
        out += self._superblocks(groups if self._copies_stale else 1, bytes(descriptors), now)
        self._dirty.clear()
        self._copies_stale = False
        return out

    def _superblocks(self, groups: int, descriptors: bytes, now: int) -> list[tuple[int, bytes]]:
        totals = layout.Totals(
            blocks=len(self._used),
            free_blocks=self.free_blocks,
            inodes=len(self._inodes_used),
            free_inodes=self._inodes_used.count(0),
            inodes_per_group=self._per_group,
            written=now,
            made=self._made,
            uuid=self._uuid,
            label=self._label,
        )
        out: list[tuple[int, bytes]] = []
        for group in filter(layout.has_superblock, range(groups)):
            base = group * BLOCKS_PER_GROUP * BLOCK
            inside = layout.SUPERBLOCK_OFFSET if group == 0 else 0
            out.append((base + inside, layout.superblock(totals, group)))
            out.append((base + BLOCK, descriptors))
        return out

    def _overhead(self, group: int) -> int:
        return (2 if layout.has_superblock(group) else 0) + 2 + self._table_blocks

    def _table(self, group: int) -> int:
        return group * BLOCKS_PER_GROUP + self._overhead(group) - self._table_blocks

    def _touch(self, first: int, count: int) -> None:
        self._dirty.update(range(first // BLOCKS_PER_GROUP, (first + count - 1) // BLOCKS_PER_GROUP + 1))

    def _free_run(self, goal: int, count: int) -> tuple[int, int]:
        """A free run: all of it from goal on, or anywhere, or the first piece there is."""
        for start in (goal, 0):
            first = self._used.find(bytes(count), start)
            if first >= 0:
                return first, count
        first = self._used.find(0, goal)
        if first < 0:
            first = self._used.find(0)
        end = self._used.find(1, first)
        return first, min(count, (len(self._used) if end < 0 else end) - first)
