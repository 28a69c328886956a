"""LVM2: the logical volumes on some disks. The metadata is read by dissect.volume, and so are thin pools; where the
extents lie is worked out here, because dissect.volume 3.18 does not take stripes apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmconsole.guestfs.device import Part, Run, Runs, Stream, Whole

SECTOR = 512
_MOST_RUNS = 4_000_000
"""Pieces of a striped volume: one of 64 KiB each for 256 GiB."""


@dataclass(frozen=True, slots=True)
class Logical:
    """first: the place of the physical volume that it begins on. stream: None where it cannot be read; see note."""

    group: str
    name: str
    size: int
    first: int
    stream: Stream | None
    note: str = ""


class LogicalVolumes:
    """Of the physical volumes in these streams. notes: what should be known of each of them."""

    def __init__(self, physical: Sequence[Stream]) -> None:
        self.notes = [""] * len(physical)
        self.volumes: list[Logical] = []
        groups: dict[str, Any] = {}
        places: dict[str, int] = {}
        for number, stream in enumerate(physical):
            try:
                self._read(number, stream, groups, places)
            except Exception as error:  # noqa: BLE001 - hostile metadata may break anything
                self.notes[number] = (
                    f"Its metadata cannot be read: {(str(error) or type(error).__name__)[:200]}."
                )
        for group in groups.values():
            self.volumes += _Group(group, physical, places).logical()

    def _read(self, number: int, stream: Stream, groups: dict[str, Any], places: dict[str, int]) -> None:
        from dissect.volume.lvm.lvm2 import LVM2
        from dissect.volume.lvm.physical import LVM2Device

        device = LVM2Device(stream)
        places[device.id] = number
        if not device.metadata:
            self.notes[number] = "Its metadata is on another disk."
            return
        group = LVM2(device).volume_group
        known = groups.get(group.id)
        if known is None or group.seqno > known.seqno:
            groups[group.id] = group
        self.notes[number] = f"Of the volume group {group.name}."


class _Group:
    def __init__(self, group: Any, physical: Sequence[Stream], places: Mapping[str, int]) -> None:
        self._group = group
        self._extent = group.extent_size * SECTOR
        self._volumes: dict[str, Any] = dict(group.logical_volumes or {})
        self._physical = {
            name: (places[pv.id.replace("-", "")], pv.pe_start * SECTOR)
            for name, pv in group.physical_volumes.items()
            if pv.id.replace("-", "") in places
        }
        self._streams = physical

    def logical(self) -> list[Logical]:
        return [
            self._one(volume)
            for volume in self._volumes.values()
            if volume.is_visible and volume.type != "thin-pool"
        ]

    def _one(self, volume: Any) -> Logical:
        size = sum(segment.extent_count for segment in volume.segments) * self._extent
        try:
            return Logical(self._group.name, volume.name, size, self._first(volume), self._stream(volume))
        except Exception as error:  # noqa: BLE001 - hostile metadata may break anything
            note = f"It cannot be read: {(str(error) or type(error).__name__)[:200]}."
            return Logical(self._group.name, volume.name, size, self._first(volume), None, note)

    def _first(self, volume: Any) -> int:
        for segment in volume.segments:
            for name, _ in getattr(segment, "stripes", None) or ():
                if name in self._physical:
                    return self._physical[name][0]
        return min((place for place, _ in self._physical.values()), default=0)

    def _stream(self, volume: Any) -> Stream:
        runs: list[Run] = []
        at = 0
        for segment in sorted(volume.segments, key=lambda segment: segment.start_extent):
            start = segment.start_extent * self._extent
            if start < at:
                raise ValueError("segments overlap")
            runs.append(Run(start - at))
            length = segment.extent_count * self._extent
            runs.append(Run(length, 0, self._segment(segment, length)))
            at = start + length
        return Runs(runs)

    def _segment(self, segment: Any, length: int) -> Stream:
        if segment.type in ("linear", "striped"):
            return self._striped(segment, length)
        if segment.type == "thin":
            return self._thin(segment, length)
        if segment.type in ("mirror", "raid1"):
            return self._first_mirror(segment, length)
        raise NotImplementedError(f"segments of the type {segment.type} are not read here")

    def _striped(self, segment: Any, length: int) -> Stream:
        stripes = [self._place(name, extent) for name, extent in segment.stripes]
        if len(stripes) == 1:
            stream, start = stripes[0]
            return Part(stream, start, length)
        each = segment.stripe_size * SECTOR
        if each <= 0 or length // each > _MOST_RUNS:
            raise NotImplementedError("a striped volume as large as this is not read here")
        runs = []
        for number in range(-(-length // each)):
            stream, start = stripes[number % len(stripes)]
            runs.append(Run(each, start + number // len(stripes) * each, stream))
        return Runs(runs, length)

    def _place(self, name: str, extent: int) -> tuple[Stream, int]:
        if name not in self._physical:
            raise LookupError(f"the physical volume {name} is not among the disks of this restore point")
        number, start = self._physical[name]
        return self._streams[number], start + extent * self._extent

    def _thin(self, segment: Any, length: int) -> Stream:
        from dissect.volume.dm.thin import ThinPool

        (pool,) = self._volumes[segment.thin_pool].segments
        opened = ThinPool(self._stream(self._volumes[pool.metadata]), self._stream(self._volumes[pool.pool]))
        return Whole(opened.open(segment.device_id, length), length)

    def _first_mirror(self, segment: Any, length: int) -> Stream:
        sources = segment.mirrors if segment.type == "mirror" else segment.raids
        flat = [name for item in sources for name in (item if isinstance(item, (list, tuple)) else [item])]
        for name in flat:
            if isinstance(name, str) and name in self._volumes and "_rmeta_" not in name:
                return Part(self._stream(self._volumes[name]), 0, length)
        raise LookupError("no copy of the mirror is among the disks of this restore point")
