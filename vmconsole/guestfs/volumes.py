"""What is on a guest's disks: partitions, logical volumes, and the file system in each."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vmconsole.guestfs.device import Part, Stream
from vmconsole.guestfs.filesystems.node import FileSystem
from vmconsole.guestfs.lvm import LogicalVolumes
from vmconsole.model.files import Volume


@dataclass(frozen=True, slots=True)
class Found:
    """ids: other names that an fstab may know it by, such as `PARTUUID=…`. opened: None where no file can be listed."""

    volume: Volume
    stream: Stream
    ids: tuple[str, ...] = ()
    opened: FileSystem | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Something that may hold a file system. number: of the partition, 0 for a whole disk."""

    name: str
    disk: str
    stream: Stream
    ids: tuple[str, ...] = ()
    hint: str = ""


@dataclass(slots=True)
class _Kind:
    """What a signature says. open: makes the file system; None for what holds no files."""

    name: str
    offset: int
    magic: bytes
    open: Callable[[Stream], FileSystem] | None = None
    note: str = ""
    also: Mapping[int, bytes] = field(default_factory=dict)


def find_volumes(disks: Mapping[str, Stream]) -> list[Found]:
    """disks: by their ids. What cannot be read is named and says so; nothing is raised for it."""
    pieces = [piece for disk, stream in disks.items() for piece in _pieces(disk, stream)]
    found: list[Found] = []
    physical: list[_Piece] = []
    for piece in pieces:
        if _is_physical_volume(piece.stream):
            physical.append(piece)
        else:
            found.append(_look(piece))
    return found + _logical(physical)


def _pieces(disk: str, stream: Stream) -> Iterator[_Piece]:
    """The partitions, or the disk as a whole. A file system over the whole disk comes before a table that seems to be
    in its first sector: FAT and NTFS have one that looks like it."""
    if _kind_of(stream) is not None or _is_physical_volume(stream):
        yield _Piece(disk, disk, stream)
        return
    try:
        from dissect.volume.disk import Disk

        partitions = Disk(stream).partitions
    except Exception:  # noqa: BLE001 - whatever a hostile table breaks, there is no table then
        partitions = _with_large_sectors(stream)
    if not partitions:
        yield _Piece(disk, disk, stream)
        return
    numbers = _numbers(stream, partitions)
    for partition in partitions:
        if not isinstance(partition.type, int) or partition.type not in (0x05, 0x0F, 0x85, 0xEE):
            part = Part(stream, partition.offset, partition.size)
            name = _numbered(disk, numbers[partition.offset])
            yield _Piece(name, disk, part, _partition_ids(partition), str(partition.type_str or ""))


def _numbers(stream: Stream, partitions: Sequence[Any]) -> dict[int, int]:
    """By the places where they begin. In an MBR the logical ones count from 5; dissect.volume 3.18 goes on counting."""
    if not any(isinstance(partition.type, int) for partition in partitions):
        return {partition.offset: partition.number for partition in partitions}
    table = stream.read_at(446, 64)
    primary = {
        struct.unpack_from("<I", table, 16 * entry + 8)[0] * 512: entry + 1
        for entry in range(len(table) // 16)
    }
    found: dict[int, int] = {}
    logical = 5
    for partition in partitions:
        if partition.offset in primary:
            found[partition.offset] = primary[partition.offset]
        else:
            found[partition.offset] = logical
            logical += 1
    return found


def _with_large_sectors(stream: Stream) -> list[Any]:
    try:
        from dissect.volume.disk import Disk

        return list(Disk(stream, sector_size=4096).partitions)
    except Exception:  # noqa: BLE001 - as above
        return []


def _numbered(disk: str, number: int) -> str:
    """As the kernel does: sda1, but nvme0n1p1, and so scsi0p1."""
    return f"{disk}p{number}" if disk[-1:].isdigit() else f"{disk}{number}"


def _partition_ids(partition: Any) -> tuple[str, ...]:
    ids = []
    if partition.guid:
        ids.append(f"PARTUUID={str(partition.guid).lower()}")
    if partition.name:
        ids.append(f"PARTLABEL={partition.name}")
    return tuple(ids)


def _logical(physical: list[_Piece]) -> list[Found]:
    if not physical:
        return []
    found: list[Found] = []
    groups = LogicalVolumes([piece.stream for piece in physical])
    for piece, note in zip(physical, groups.notes, strict=True):
        volume = Volume(piece.name, piece.disk, "lvm", piece.stream.size, note=note)
        found.append(Found(volume, piece.stream, piece.ids))
    for logical in groups.volumes:
        disk = physical[logical.first].disk
        name = f"{logical.group}-{logical.name}"
        mapper = f"/dev/mapper/{logical.group.replace('-', '--')}-{logical.name.replace('-', '--')}"
        ids = (f"/dev/{logical.group}/{logical.name}", mapper)
        if logical.stream is None:
            found.append(
                Found(
                    Volume(name, disk, "unknown", logical.size, note=logical.note),
                    Part(physical[0].stream, 0, 0),
                    ids,
                )
            )
        else:
            found.append(_look(_Piece(name, disk, logical.stream, ids)))
    return found


def _look(piece: _Piece) -> Found:
    """The piece with its file system, if it has one that can be read."""
    volume = Volume(piece.name, piece.disk, "unknown", piece.stream.size, note=piece.hint)
    try:
        kind = _kind_of(piece.stream)
    except (EOFError, OSError, ValueError):
        kind = None
    if kind is None:
        return Found(volume, piece.stream, piece.ids)
    volume = replace(volume, kind=kind.name, note=kind.note)
    if kind.open is None:
        return Found(volume, piece.stream, (*piece.ids, *_swap_ids(kind.name, piece.stream)))
    try:
        opened = kind.open(piece.stream)
        opened.facts(opened.root)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a hostile or damaged file system may break anything
        reason = str(error) or type(error).__name__
        return Found(replace(volume, note=f"It cannot be read: {reason[:200]}."), piece.stream, piece.ids)
    volume = replace(
        volume, kind=opened.kind, label=opened.label, uuid=opened.uuid, readable=True, note=opened.note
    )
    ids = [*piece.ids, *([f"LABEL={opened.label}"] if opened.label else []), f"UUID={opened.uuid.lower()}"]
    return Found(volume, piece.stream, tuple(ids), opened)


def _swap_ids(kind: str, stream: Stream) -> tuple[str, ...]:
    if kind != "swap":
        return ()
    return (f"UUID={stream.read_at(1036, 16).hex()}",)


def _is_physical_volume(stream: Stream) -> bool:
    start = stream.read_at(0, 2048)
    return any(
        start[at : at + 8] == b"LABELONE" and start[at + 24 : at + 32] == b"LVM2 001"
        for at in range(0, 2048, 512)
    )


def _ext(stream: Stream) -> FileSystem:
    from vmconsole.guestfs.filesystems.ext import Ext

    return Ext(stream)


def _xfs(stream: Stream) -> FileSystem:
    from vmconsole.guestfs.filesystems.xfs import Xfs

    return Xfs(stream)


def _btrfs(stream: Stream) -> FileSystem:
    from vmconsole.guestfs.filesystems.btrfs import Btrfs

    return Btrfs(stream)


def _ntfs(stream: Stream) -> FileSystem:
    from vmconsole.guestfs.filesystems.ntfs import Ntfs

    return Ntfs(stream)


def _fat(stream: Stream) -> FileSystem:
    from vmconsole.guestfs.filesystems.fat import Fat

    return Fat(stream)


def _exfat(stream: Stream) -> FileSystem:
    from vmconsole.guestfs.filesystems.exfat import ExFat

    return ExFat(stream)


_ENCRYPTED = "It is encrypted, and the key is in the guest: restore the disk to look inside."
KINDS = (
    _Kind("encrypted", 0, b"LUKS\xba\xbe", note=f"LUKS. {_ENCRYPTED}"),
    _Kind("encrypted", 3, b"-FVE-FS-", note=f"BitLocker. {_ENCRYPTED}"),
    _Kind("ext", 1080, b"\x53\xef", _ext),
    _Kind("xfs", 0, b"XFSB", _xfs),
    _Kind("btrfs", 65536 + 64, b"_BHRfS_M", _btrfs),
    _Kind("ntfs", 3, b"NTFS    ", _ntfs),
    _Kind("exfat", 3, b"EXFAT   ", _exfat),
    _Kind("fat", 54, b"FAT1", _fat, also={510: b"\x55\xaa"}),
    _Kind("fat", 82, b"FAT32   ", _fat, also={510: b"\x55\xaa"}),
    _Kind("swap", 4086, b"SWAPSPACE2"),
    _Kind("swap", 65526, b"SWAPSPACE2"),
    _Kind(
        "zfs",
        128 * 1024,
        struct.pack("<Q", 0x00BAB10C),
        note="ZFS is not read here: restore the disk to look inside.",
    ),
    _Kind("raid", 4096, b"\xfc\x4e\x2b\xa9", note="Part of a Linux RAID, which is not put together here."),
    _Kind("raid", 0, b"\xfc\x4e\x2b\xa9", note="Part of a Linux RAID, which is not put together here."),
)


def _kind_of(stream: Stream) -> _Kind | None:
    for kind in KINDS:
        places = {kind.offset: kind.magic, **kind.also}
        if all(stream.read_at(at, len(magic)) == magic for at, magic in places.items()):
            return kind
    return None
