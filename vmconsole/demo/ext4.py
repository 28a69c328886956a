"""A small real ext4 file system, written in pure Python on any block device.

It is changed the way a guest changes its own: files are made, appended to, overwritten, removed,
the file system grows; every change touches only the blocks it must, and the same sequence of
changes always gives the same blocks. `sync()` brings the metadata to the disk in one go, after
the data, so that the disk is clean at every moment another thread may look at it.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Sequence
from typing import Protocol

from vmconsole.demo import ext4_layout as layout
from vmconsole.demo.ext4_groups import Groups
from vmconsole.demo.ext4_layout import BLOCK, Entry, FileType, Inode, Run

_DIRECTORY, _FILE, _SYMLINK = 0o040000, 0o100000, 0o120000
_MAX_NAME = 255


class Device(Protocol):
    """Where the blocks go. Offsets and lengths in bytes; it reads as zeros at first."""

    def write_many(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Write (offset, data) pieces so that a snapshot sees all of them or none."""
        ...

    def zero(self, offset: int, length: int) -> None: ...


class FileSystem:
    """An ext4 file system from byte `start` of an all-zero device on.

    uuid: 16 bytes. time: seconds since 1970, given to what changes; set it as time goes by.
    Not thread-safe. Raises OSError (ENOSPC, ENOENT, EEXIST, ENOTDIR, ENOTEMPTY …) like a real one.
    """

    def __init__(
        self,
        device: Device,
        size: int,
        *,
        uuid: bytes,
        label: str = "",
        time: int = 0,
        start: int = 0,
        inodes_per_group: int = 2048,
    ) -> None:
        self.time = time
        self._device = device
        self._start = start
        self._groups = Groups(
            size // BLOCK, inodes_per_group, uuid=uuid, label=label.encode()[:16], made=time
        )
        self._inodes: dict[int, Inode] = {}
        self._directories: dict[int, list[list[Entry]]] = {}
        self._dirty_inodes: set[int] = set()
        self._dirty_directories: set[tuple[int, int]] = set()
        self._add_directory(layout.ROOT_INODE, layout.ROOT_INODE, 0o755, (0, 0), time)
        self.make_directory("/lost+found", mode=0o700)
        self.sync()

    @property
    def size(self) -> int:
        """Bytes of the device that the file system covers."""
        return self._groups.blocks * BLOCK

    @property
    def free_blocks(self) -> int:
        return self._groups.free_blocks

    # --- changes -------------------------------------------------------------------------------

    def make_directory(
        self, path: str, *, mode: int = 0o755, owner: tuple[int, int] = (0, 0), mtime: int | None = None
    ) -> None:
        parent, name = self._new_name(path)
        number = self._groups.take_inode()
        self._add_directory(number, parent, mode, owner, self.time if mtime is None else mtime)
        self._add_entry(parent, Entry(number, FileType.DIRECTORY, name))
        self._inodes[parent].links += 1

    def write_file(
        self,
        path: str,
        content: bytes,
        *,
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        mtime: int | None = None,
    ) -> None:
        """Make a file, or replace the content of one in place (mode and owner then stay)."""
        if self._find(path) is None:
            parent, name = self._new_name(path)
            number = self._groups.take_inode()
            self._inodes[number] = Inode(number, _FILE | mode, *owner, self.time, links=1)
            self._add_entry(parent, Entry(number, FileType.FILE, name))
        node = self._file(path)
        self._resize(node, len(content))
        self._write(node, 0, content)
        node.mtime = self.time if mtime is None else mtime

    def append(self, path: str, content: bytes) -> None:
        node = self._file(path)
        end = node.size
        self._resize(node, end + len(content))
        self._write(node, end, content)
        node.mtime = self.time

    def overwrite(self, path: str, offset: int, content: bytes) -> None:
        """Change bytes inside a file, as a database does with its pages."""
        node = self._file(path)
        if offset < 0 or offset + len(content) > node.size:
            raise OSError(errno.EFBIG, "the range is not inside the file", path)
        self._write(node, offset, content)
        self._changed(node)

    def zero_range(self, path: str, offset: int, length: int) -> None:
        """Zero whole blocks of a file; the device is told, as by a discard that zeroes."""
        node = self._file(path)
        if offset % BLOCK or length % BLOCK or offset + length > node.size:
            raise OSError(errno.EINVAL, "the range is not whole blocks inside the file", path)
        for physical, count in _pieces(node, offset // BLOCK, length // BLOCK):
            self._device.zero(self._start + physical * BLOCK, count * BLOCK)
        self._changed(node)

    def symlink(
        self, path: str, target: str, *, owner: tuple[int, int] = (0, 0), mtime: int | None = None
    ) -> None:
        text = target.encode("utf-8", "surrogateescape")
        if not 0 < len(text) < BLOCK or b"\0" in text:
            raise OSError(errno.EINVAL, "not a possible target", path)
        parent, name = self._new_name(path)
        number = self._groups.take_inode()
        when = self.time if mtime is None else mtime
        node = Inode(number, _SYMLINK | 0o777, *owner, when, links=1, size=len(text))
        self._inodes[number] = node
        self._dirty_inodes.add(number)
        if len(text) < layout.FAST_SYMLINK:
            node.target = text
        else:
            self._resize(node, len(text))
            self._write(node, 0, text)
        self._add_entry(parent, Entry(number, FileType.SYMLINK, name))

    def remove(self, path: str) -> None:
        """Remove a file, a symlink or an empty directory. Its blocks wait for trim()."""
        parent, name = self._parent_of(path)
        node = self._inodes[self._existing(path)]
        blocks = self._directories.get(node.number)
        if blocks is not None:
            if sum(len(block) for block in blocks) > 2:
                raise OSError(errno.ENOTEMPTY, "directory is not empty", path)
            del self._directories[node.number]
            self._inodes[parent].links -= 1
        self._remove_entry(parent, name)
        self._resize(node, 0)
        node.deleted = max(self.time, 1)
        self._groups.free_inode(node.number)

    def trim(self) -> None:
        """Tell the device which blocks were freed since the last time, as fstrim does."""
        self.sync()
        for first, count in self._groups.take_trimmable():
            self._device.zero(self._start + first * BLOCK, count * BLOCK)

    def grow(self, size: int) -> None:
        """Use more of a device that has grown, as resize2fs does."""
        self._groups.extend(size // BLOCK)
        self.sync()

    def sync(self) -> None:
        """Bring the metadata to the device, in one piece; nothing when nothing changed."""
        if not (self._dirty_inodes or self._dirty_directories or self._groups.changed):
            return
        out: list[tuple[int, bytes]] = []
        for directory, index in sorted(self._dirty_directories):
            if directory in self._directories:
                (block, _), *_ = _pieces(self._inodes[directory], index, 1)
                content = layout.directory_block(self._directories[directory][index])
                out.append((block * BLOCK, content))
        for number in sorted(self._dirty_inodes):
            node = self._inodes[number]
            out += [(block * BLOCK, data) for block, data in layout.leaf_blocks(node)]
            out.append((self._groups.inode_offset(number), layout.inode(node)))
            if node.deleted:
                del self._inodes[number]
        self._groups.settle()
        out += self._groups.summaries(self._directories, self.time)
        self._device.write_many([(self._start + offset, data) for offset, data in out])
        self._dirty_directories.clear()
        self._dirty_inodes.clear()

    # --- blocks of a file ----------------------------------------------------------------------

    def _resize(self, node: Inode, size: int) -> None:
        """Give a file exactly the blocks for size bytes; new ones follow its last where possible."""
        have, want = node.blocks, -(-size // BLOCK)
        if want > have:
            logical = have
            for physical, count in self._groups.take(_end(node), want - have):
                node.runs.append(Run(logical, physical, count))
                logical += count
            node.runs = layout.join_runs(node.runs)
        elif want < have:
            self._give_back(node, want)
        if len(node.runs) > layout.MAX_EXTENTS:
            raise OSError(errno.EFBIG, "the file is in too many pieces")
        while len(node.leaves) > node.leaves_needed():
            self._groups.free(node.leaves.pop(), 1)
        while len(node.leaves) < node.leaves_needed():
            [(block, _)] = self._groups.take(_end(node), 1)
            node.leaves.append(block)
        node.size = size
        self._dirty_inodes.add(node.number)

    def _give_back(self, node: Inode, keep: int) -> None:
        kept: list[Run] = []
        for run in node.runs:
            stay = min(max(keep - run.logical, 0), run.count)
            if stay:
                kept.append(Run(run.logical, run.physical, stay))
            if stay < run.count:
                self._groups.free(run.physical + stay, run.count - stay)
        node.runs = kept

    def _write(self, node: Inode, offset: int, content: bytes) -> None:
        """Data goes to the device at once; behind the end of the file, the block is zeros."""
        if not content:
            return
        end = offset + len(content)
        if end == node.size:
            content += bytes(-end % BLOCK)
        position = 0
        pieces: list[tuple[int, bytes]] = []
        first, last = offset // BLOCK, (end - 1) // BLOCK
        for physical, count in _pieces(node, first, last - first + 1):
            inside = (offset + position) % BLOCK
            data = content[position : position + count * BLOCK - inside]
            pieces.append((self._start + physical * BLOCK + inside, data))
            position += len(data)
        self._device.write_many(pieces)

    def _changed(self, node: Inode) -> None:
        node.mtime = self.time
        self._dirty_inodes.add(node.number)

    # --- names ---------------------------------------------------------------------------------

    def _add_directory(self, number: int, parent: int, mode: int, owner: tuple[int, int], mtime: int) -> None:
        node = Inode(number, _DIRECTORY | mode, *owner, mtime, links=2)
        self._inodes[number] = node
        self._resize(node, BLOCK)
        dots = [Entry(number, FileType.DIRECTORY, b"."), Entry(parent, FileType.DIRECTORY, b"..")]
        self._directories[number] = [dots]
        self._dirty_directories.add((number, 0))

    def _add_entry(self, directory: int, entry: Entry) -> None:
        blocks = self._directories[directory]
        room = (i for i, block in enumerate(blocks) if sum(e.length for e in block) + entry.length <= BLOCK)
        index = next(room, len(blocks))
        if index == len(blocks):
            self._resize(self._inodes[directory], (index + 1) * BLOCK)
            blocks.append([])
        blocks[index].append(entry)
        self._dirty_directories.add((directory, index))
        self._changed(self._inodes[directory])

    def _remove_entry(self, directory: int, name: bytes) -> None:
        for index, block in enumerate(self._directories[directory]):
            kept = [entry for entry in block if entry.name != name]
            if len(kept) < len(block):
                self._directories[directory][index] = kept
                self._dirty_directories.add((directory, index))
        self._changed(self._inodes[directory])

    def _find(self, path: str) -> int | None:
        number = layout.ROOT_INODE
        for part in _parts(path):
            blocks = self._directories.get(number)
            if blocks is None:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
            found = next((item.inode for block in blocks for item in block if item.name == part), None)
            if found is None:
                return None
            number = found
        return number

    def _existing(self, path: str) -> int:
        number = self._find(path)
        if number is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return number

    def _file(self, path: str) -> Inode:
        node = self._inodes[self._existing(path)]
        if node.mode & 0o170000 != _FILE:
            raise OSError(errno.EINVAL, "not a regular file", path)
        return node

    def _parent_of(self, path: str) -> tuple[int, bytes]:
        parts = _parts(path)
        if not parts or len(parts[-1]) > _MAX_NAME or parts[-1] in (b".", b"..") or b"\0" in parts[-1]:
            raise OSError(errno.EINVAL, "not a possible name", path)
        parent = self._existing(posixpath.dirname(path.rstrip("/")))
        if parent not in self._directories:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
        return parent, parts[-1]

    def _new_name(self, path: str) -> tuple[int, bytes]:
        if self._find(path) is not None:
            raise FileExistsError(errno.EEXIST, "already there", path)
        return self._parent_of(path)


def _parts(path: str) -> list[bytes]:
    return [part.encode("utf-8", "surrogateescape") for part in path.split("/") if part]


def _end(node: Inode) -> int:
    """The block after a file's last; 0 when it has none."""
    return node.runs[-1].physical + node.runs[-1].count if node.runs else 0


def _pieces(node: Inode, logical: int, count: int) -> list[tuple[int, int]]:
    """(physical block, count) of a range of a file's blocks."""
    out: list[tuple[int, int]] = []
    for run in node.runs:
        begin = max(run.logical, logical)
        end = min(run.logical + run.count, logical + count)
        if begin < end:
            out.append((run.physical + begin - run.logical, end - begin))
    return out
