"""Reading a VMA stream: hostile input, in one pass, with a bit of memory per cluster.

Clusters come in any order, those of several devices mixed. Each must come exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from vmconsole.hypervisors.vma import layout
from vmconsole.hypervisors.vma.header import MAX_TOTAL, Header, declared_size, parse
from vmconsole.hypervisors.vma.layout import BLOCK, CLUSTER, FULL, Device, cut_short, damaged

ZERO_PIECE: Final = 64 * 1024 * 1024
"""Zeros are joined up to about this length; longer would let a progress bar stand still."""

_MAX_EMPTY: Final = 16
"""Extents without a cluster: QEMU writes one for a guest without disks. A liar could send them for ever."""
_ZEROS: Final = -1


class Piece(NamedTuple):
    """A range of a device, in bytes. data: length bytes, read-only, or None for zeros."""

    dev_id: int
    offset: int
    data: memoryview | None
    length: int


class Reader:
    """The header is read at once, the devices' contents as pieces() is iterated.

    read: returns at most the bytes asked for, none at the end of the stream; what it raises passes
    through. limit: bytes of all devices together. Nothing is allocated for them before pieces(), so
    a caller who knows the guest's disks compares `header.devices` first. Raises ProtocolError.
    """

    def __init__(self, read: Callable[[int], bytes], *, limit: int = MAX_TOTAL) -> None:
        self.bytes_read = 0
        self._read = read
        head = bytes(self._exactly(layout.HEAD_SIZE, "in the header"))
        rest = self._exactly(declared_size(head) - layout.HEAD_SIZE, "in the header")
        self.header: Header = parse(head + rest, limit)
        self._used = False

    def pieces(self) -> Iterator[Piece]:
        """Every byte of every device once, in pieces of any length and order, to the end of the stream.

        A piece's data keeps a buffer of up to 4 MB alive. The memory of a guest (`vmstate`) is
        skipped. Only once. Raises ProtocolError; also at the very end, when something is missing.
        """
        if self._used:
            raise ValueError("a stream is read once")
        self._used = True
        return _join_zeros(self._extents())

    def _extents(self) -> Iterator[Piece]:
        devices = {device.dev_id: _Seen(device) for device in self.header.devices}
        empty = 0
        while head := self._up_to(layout.EXTENT_HEAD):
            blocks, slots = self._extent_head(head)
            if not slots:
                empty += 1
                if empty > _MAX_EMPTY:
                    raise damaged("it goes on without content")
            found = _locate(slots, devices)
            body = memoryview(self._exactly(blocks * BLOCK, "in the middle of data")).toreadonly()
            for dev_id, start, end, at in found:
                data = None if at == _ZEROS else body[at : at + end - start]
                yield Piece(dev_id, start, data, end - start)
        for seen in devices.values():
            seen.check_complete()

    def _extent_head(self, head: bytes | bytearray) -> tuple[int, list[int]]:
        """How many blocks follow, and the slots in use."""
        if len(head) != layout.EXTENT_HEAD:
            raise cut_short("in the middle of an extent's header")
        magic, reserved, blocks, uuid, md5 = layout.EXTENT.unpack_from(head)
        if magic != layout.EXTENT_MAGIC or reserved:
            raise damaged("an extent does not start where it should")
        if md5 != layout.checksum(head, layout.EXTENT_MD5_AT):
            raise damaged("an extent's header does not match its checksum")
        if uuid != self.header.uuid.bytes:
            raise damaged("an extent belongs to another stream")
        slots = [slot for slot in layout.SLOT_TABLE.unpack_from(head, layout.EXTENT.size) if slot]
        if blocks != sum((slot >> 48).bit_count() for slot in slots):
            raise damaged("an extent has another number of blocks than it claims")
        return blocks, slots

    def _exactly(self, size: int, where: str) -> bytes | bytearray:
        data = self._up_to(size)
        if len(data) != size:
            raise cut_short(where)
        return data

    def _up_to(self, size: int) -> bytes | bytearray:
        """That many bytes, fewer only at the end of the stream."""
        data = self._read(size) if size else b""
        if len(data) == size or not data:
            self.bytes_read += len(data)
            return data
        whole, done = bytearray(size), 0
        while data:
            if done + len(data) > size:
                raise ValueError("read() returned more than it was asked for")
            whole[done : done + len(data)] = data
            done += len(data)
            data = self._read(size - done) if done < size else b""
        self.bytes_read += done
        del whole[done:]
        return whole


class _Seen:
    """Which clusters of a device came."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._count = 0
        self._bits = bytearray(0 if device.is_vmstate else -(-device.clusters // 8))

    def add(self, cluster: int) -> None:
        device = self.device
        if device.is_vmstate:
            if cluster != self._count:
                raise damaged("the guest's memory is not in order")
        elif cluster >= device.clusters:
            raise damaged(f"it has data beyond the end of “{device.name}”")
        else:
            index, bit = cluster >> 3, 1 << (cluster & 7)
            if self._bits[index] & bit:
                raise damaged(f"the 64 KiB at {cluster * CLUSTER} of “{device.name}” come twice")
            self._bits[index] |= bit
        self._count += 1

    def check_complete(self) -> None:
        device = self.device
        if device.is_vmstate or self._count == device.clusters:
            return
        index = len(self._bits) - len(self._bits.lstrip(b"\xff"))
        cluster = index * 8 + (~self._bits[index] & (self._bits[index] + 1)).bit_length() - 1
        raise cut_short(
            f"“{device.name}” lacks {device.clusters - self._count} of its {device.clusters} pieces of 64 KiB, "
            f"the first at {cluster * CLUSTER}"
        )


def _locate(slots: list[int], devices: dict[int, _Seen]) -> list[tuple[int, int, int, int]]:
    """(device, start, end, place in the extent's body or _ZEROS) in the order of the devices.

    Neighbours are joined. Raises before anything of a wrong extent is used.
    """
    found: list[tuple[int, int, int, int]] = []
    at = 0
    for slot in slots:
        mask, dev_id, cluster = slot >> 48, slot >> 32 & 0xFF, slot & 0xFFFFFFFF
        seen = devices.get(dev_id)
        if seen is None or slot >> 40 & 0xFF:
            raise damaged(f"an extent has data of an unknown disk {dev_id}")
        seen.add(cluster)
        if seen.device.is_vmstate:
            at += mask.bit_count() * BLOCK
            continue
        base, size = cluster * CLUSTER, seen.device.size
        for first, count, present in layout.runs(mask):
            start = base + first * BLOCK
            end = min(start + count * BLOCK, size)
            if end > start:
                found.append((dev_id, start, end, at if present else _ZEROS))
            # QEMU's reader takes a whole last cluster, and no other block beyond the end.
            if present and start + count * BLOCK - end >= BLOCK and mask != FULL:
                raise damaged(f"it has data beyond the end of “{seen.device.name}”")
            if present:
                at += count * BLOCK
    found.sort()
    return _join(found)


def _join(found: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    joined: list[tuple[int, int, int, int]] = []
    for dev_id, start, end, at in found:
        if joined:
            last_id, last_start, last_end, last_at = joined[-1]
            expected = _ZEROS if last_at == _ZEROS else last_at + last_end - last_start
            if last_id == dev_id and last_end == start and at == expected:
                joined[-1] = (dev_id, last_start, end, last_at)
                continue
        joined.append((dev_id, start, end, at))
    return joined


def _join_zeros(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Zeros that continue in the next extent become one piece."""
    held: Piece | None = None
    for piece in pieces:
        if held is not None:
            follows = piece.dev_id == held.dev_id and piece.offset == held.offset + held.length
            if piece.data is None and follows and held.length < ZERO_PIECE:
                held = held._replace(length=held.length + piece.length)
                continue
            yield held
            held = None
        if piece.data is None:
            held = piece
        else:
            yield piece
    if held is not None:
        yield held
