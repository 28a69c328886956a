"""A GUID partition table with one Linux partition, as installers make it.

After the UEFI specification, chapter 5. Sectors of 512 bytes.
"""

from __future__ import annotations

import struct
import uuid
import zlib

SECTOR = 512
START = 1024 * 1024
"""Where the partition begins: installers align to 1 MiB."""

_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_ENTRIES, _ENTRY_SIZE = 128, 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR


def partition_size(disk_size: int) -> int:
    """Bytes of the one partition on a disk: whole MiB, up to the table's copy at the end."""
    usable = disk_size - START - (_TABLE_SECTORS + 1) * SECTOR
    return usable // START * START


def table(disk_size: int, disk_id: uuid.UUID, label: str) -> list[tuple[int, bytes]]:
    """(offset, bytes) of the protective MBR, the table, and the table's copy at the end."""
    sectors = disk_size // SECTOR
    first = START // SECTOR
    last = first + partition_size(disk_size) // SECTOR - 1
    part_id = uuid.uuid5(disk_id, "part1")
    entry = struct.pack("<16s16sQQQ", _LINUX.bytes_le, part_id.bytes_le, first, last, 0)
    entries = (entry + label.encode("utf-16-le")[:72]).ljust(_ENTRIES * _ENTRY_SIZE, b"\0")

    def header(mine: int, other: int, table_at: int) -> bytes:
        def pack(checksum: int) -> bytes:
            return struct.pack(
                "<8sIIIIQQQQ16sQIII",
                b"EFI PART",
                0x10000,
                92,
                checksum,
                0,
                mine,
                other,
                _TABLE_SECTORS + 2,
                sectors - _TABLE_SECTORS - 2,
                disk_id.bytes_le,
                table_at,
                _ENTRIES,
                _ENTRY_SIZE,
                zlib.crc32(entries),
            )

        return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")

    protective = struct.pack(
        "<446xB3sB3sII48x2s", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff",
        1, min(sectors - 1, 0xFFFFFFFF), b"\x55\xaa",
    )  # fmt: skip
    copy_at = sectors - 1 - _TABLE_SECTORS
    return [
        (0, protective + header(1, sectors - 1, 2) + entries),
        (copy_at * SECTOR, entries + header(sectors - 1, 1, copy_at)),
    ]
