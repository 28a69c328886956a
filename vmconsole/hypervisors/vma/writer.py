"""Writing a VMA stream for qmrestore, in one pass and in bounded memory.

Every cluster is written exactly once, in the order its device's ranges come; zeros cost 8 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.vma import layout
from vmconsole.hypervisors.vma.header import Header, build
from vmconsole.hypervisors.vma.layout import BLOCK, CLUSTER, SECTOR, SLOTS, Device

Buffer = bytes | bytearray | memoryview

_ZERO_BLOCK: Final = bytes(BLOCK)
_ZERO_CLUSTER: Final = bytes(CLUSTER)
_BATCH: Final = 256 * 1024
"""Bytes worth a write of their own: an extent of zeros alone is 512."""


class Writer:
    """The header is written at once; then data(), zero() or disk() for each device, then finish().

    Ranges of one device must follow each other without a gap; those of several devices may be mixed.
    write: takes all of the bytes it is given; what it raises passes through.
    devices: (name as `drive-scsi0`, size in bytes); they get the numbers 1, 2, … in this order. A
    size that is no multiple of 512 is rounded up, as qmrestore would lose the rest; ranges cover the
    size that was given. Raises ProtocolError.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        uuid: UUID,
        ctime: int,
        configs: Mapping[str, bytes],
        devices: Sequence[tuple[str, int]],
    ) -> None:
        self.bytes_written = 0
        self._write = write
        self._uuid = uuid.bytes
        self._lanes = {
            dev_id: _Lane(dev_id, name, size) for dev_id, (name, size) in enumerate(devices, start=1)
        }
        self.devices = tuple(
            Device(lane.dev_id, lane.name, -(-lane.size // SECTOR) * SECTOR) for lane in self._lanes.values()
        )
        self._slots: list[int] = []
        self._blocks: list[memoryview] = []
        self._block_count = 0
        self._ready: list[bytes] = []
        self._ready_size = 0
        self._finished = False
        if any(device.is_vmstate for device in self.devices):
            raise ValueError("a guest's memory is not restored")
        self._send(build(Header(uuid, ctime, configs, self.devices)))

    def disk(self, dev_id: int, ranges: Iterable[tuple[int, int, Buffer | None]]) -> None:
        """A device's (offset, length, data or None for zeros), in order and covering all of it."""
        lane = self._lane(dev_id)
        for offset, length, data in ranges:
            if data is None:
                self.zero(dev_id, offset, length)
            elif (given := memoryview(data).nbytes) != length:
                raise _uneven(lane, f"{given} bytes came where {length} were announced, at {offset}")
            else:
                self.data(dev_id, offset, data)
        lane.check_complete()

    def data(self, dev_id: int, offset: int, data: Buffer) -> None:
        """The next bytes of a device, of any length; zeros in them are found. The buffer is not kept."""
        lane = self._lane(dev_id)
        whole = data if isinstance(data, bytes) else bytes(data)
        lane.check_next(offset, len(whole))
        view = memoryview(whole)
        start = min(-offset % CLUSTER, len(whole))
        if start:
            self._part(lane, start, view[:start])
        end = start + (len(whole) - start) // CLUSTER * CLUSTER
        for at in range(start, end, CLUSTER):
            self._cluster(lane, whole, view, at)
        if end < len(whole):
            self._part(lane, len(whole) - end, view[end:])

    def zero(self, dev_id: int, offset: int, length: int) -> None:
        """The next bytes of a device are zeros."""
        lane = self._lane(dev_id)
        lane.check_next(offset, length)
        start = min(-offset % CLUSTER, length)
        if start:
            self._part(lane, start, None)
        left = (length - start) // CLUSTER
        while left:
            count = min(left, SLOTS - len(self._slots))
            slot = lane.slot
            self._slots.extend(range(slot, slot + count))
            lane.position += count * CLUSTER
            left -= count
            self._flush_full()
        if rest := (length - start) % CLUSTER:
            self._part(lane, rest, None)

    def finish(self) -> None:
        """Write what is left. Raises ProtocolError when a device is not covered."""
        if self._finished:
            return
        for lane in self._lanes.values():
            lane.check_complete()
        self._finished = True
        if self._slots:
            self._flush()
        self._send_ready()

    def _lane(self, dev_id: int) -> _Lane:
        if self._finished or dev_id not in self._lanes:
            raise ValueError(f"the stream is finished or has no device {dev_id}")
        return self._lanes[dev_id]

    def _part(self, lane: _Lane, length: int, data: memoryview | None) -> None:
        """A stretch of one cluster; the cluster is written with its last one."""
        if data is not None:
            at = lane.position % CLUSTER
            if lane.partial is None:
                lane.partial = bytearray(CLUSTER)
            lane.partial[at : at + length] = data
        end = lane.position + length
        if end % CLUSTER and end != lane.size:
            lane.position = end
            return
        cluster, lane.partial = lane.partial or _ZERO_CLUSTER, None
        lane.position -= lane.position % CLUSTER
        whole = bytes(cluster)
        self._cluster(lane, whole, memoryview(whole), 0)
        lane.position = end

    def _cluster(self, lane: _Lane, whole: bytes, view: memoryview, at: int) -> None:
        mask = _mask(whole, at)
        self._block_count += mask.bit_count()
        self._slots.append(mask << 48 | lane.slot)
        for first, count, present in layout.runs(mask):
            if present:
                start = at + first * BLOCK
                self._blocks.append(view[start : start + count * BLOCK])
        lane.position += CLUSTER
        self._flush_full()

    def _flush_full(self) -> None:
        if len(self._slots) == SLOTS:
            self._flush()

    def _flush(self) -> None:
        """The slots and their blocks become an extent."""
        head = bytearray(layout.EXTENT_HEAD)
        layout.EXTENT.pack_into(head, 0, layout.EXTENT_MAGIC, 0, self._block_count, self._uuid, b"")
        empty = (0,) * (SLOTS - len(self._slots))
        layout.SLOT_TABLE.pack_into(head, layout.EXTENT.size, *self._slots, *empty)
        at = layout.EXTENT_MD5_AT
        head[at : at + 16] = layout.checksum(head, at)
        extent = b"".join([head, *self._blocks])
        self._slots.clear()
        self._blocks.clear()
        self._block_count = 0
        self._ready.append(extent)
        self._ready_size += len(extent)
        if self._ready_size >= _BATCH:
            self._send_ready()

    def _send_ready(self) -> None:
        ready = b"".join(self._ready)
        self._ready.clear()
        self._ready_size = 0
        if ready:
            self._send(ready)

    def _send(self, data: bytes) -> None:
        self._write(data)
        self.bytes_written += len(data)


class _Lane:
    """How far a device is written; partial is what came of a cluster that is not complete."""

    def __init__(self, dev_id: int, name: str, size: int) -> None:
        if size <= 0:
            raise ProtocolError(
                f"“{name}” has no content; a VMA stream cannot hold it.",
                hint="Restore the guest without this disk.",
            )
        self.dev_id = dev_id
        self.name = name
        self.size = size
        self.position = 0
        self.partial: bytearray | None = None

    @property
    def slot(self) -> int:
        """Of the cluster at the position, with an empty mask."""
        return self.dev_id << 32 | self.position // CLUSTER

    def check_next(self, offset: int, length: int) -> None:
        if offset != self.position or length < 0:
            raise _uneven(self, f"a range starts at {offset} where {self.position} was expected")
        if offset + length > self.size:
            raise _uneven(self, f"it goes on to {offset + length} but should end at {self.size}")

    def check_complete(self) -> None:
        if self.position != self.size:
            raise _uneven(self, f"it ends at {self.position} instead of {self.size}")


def _mask(data: bytes, at: int) -> int:
    """Which blocks of the cluster there hold something. startswith() compares in place."""
    mask = 0
    for index in range(CLUSTER // BLOCK):
        if not data.startswith(_ZERO_BLOCK, at + index * BLOCK):
            mask |= 1 << index
    return mask


def _uneven(lane: _Lane, what: str) -> ProtocolError:
    return ProtocolError(
        f"The content of “{lane.name}” does not fit its disk: {what}.",
        hint="Check the repository (`vmconsole repo check --verify-data`), then restore again.",
    )
