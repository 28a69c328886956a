"""The numbers and structures of a VMA v1 stream.

A header (header.py), then extents to the end of the stream. An extent is 512 bytes with 59 slots,
then blocks of 4 KiB. A slot is one cluster, 64 KiB of one device: bit i of its mask says that block
i of the cluster follows; the others read as zeros. Blocks follow in the order of slots, then bits.

Source: vma_spec.txt of https://git.proxmox.com/?p=pve-qemu.git, corrected by what QEMU's `vma` does:
everything is big-endian, except the sizes of blobs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

from vmconsole.errors import ProtocolError

MAGIC: Final = b"VMA\0"
EXTENT_MAGIC: Final = b"VMAE"
VERSION: Final = 1

BLOCK: Final = 4096
CLUSTER: Final = 65536
SECTOR: Final = 512
"""QEMU counts devices in whole sectors; what is beyond the last one is not restored."""
STEP: Final = 512
"""The header's size is a multiple of this."""

HEAD_SIZE: Final = 12288
"""The header without its blobs."""
MAX_HEADER: Final = 512 * 1024
MAX_BLOB: Final = 65535
MAX_CONFIGS: Final = 256
MAX_DEVICES: Final = 254
MAX_CLUSTERS: Final = 2**32

EXTENT_HEAD: Final = 512
SLOTS: Final = 59
MAX_BLOCKS: Final = SLOTS * (CLUSTER // BLOCK)
FULL: Final = 0xFFFF
"""The mask of a cluster of which every block follows."""

VMSTATE: Final = "vmstate"
"""A device of this name is a guest's memory: a stream whose length its size need not be."""

# magic, version, uuid, ctime, md5, offset and size of the blobs, size of the header, reserved; then
# from 2044 the pointers to names and contents of configs, reserved, and from 4096 the devices.
HEAD: Final = Struct(">4sI16sq16sIII1984s")
POINTERS: Final = Struct(">256I")
NAMES_AT: Final = 2044
CONTENTS_AT: Final = 3068
RESERVED_AT: Final = 4092
DEVICES_AT: Final = 4096
DEVICE: Final = Struct(">IIQQQ")
"""Pointer to the name, reserved, size in bytes, reserved, reserved."""
BLOB_SIZE: Final = Struct("<H")
HEAD_MD5_AT: Final = 32

EXTENT: Final = Struct(">4sHH16s16s")
"""Magic, reserved, blocks that follow, uuid, md5."""
SLOT_TABLE: Final = Struct(">59Q")
"""A slot: mask << 48 | reserved << 40 | device << 32 | cluster; 0 is an empty one."""
EXTENT_MD5_AT: Final = 24

_MD5_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the stream. dev_id: 1 to 254; name: `drive-scsi0`; size: bytes, more than 0."""

    dev_id: int
    name: str
    size: int

    @property
    def clusters(self) -> int:
        return -(-self.size // CLUSTER)

    @property
    def is_vmstate(self) -> bool:
        return self.name == VMSTATE


def checksum(data: bytes | bytearray, md5_at: int) -> bytes:
    """The MD5 of a header whose own field, at md5_at, counts as zeros."""
    view = memoryview(data)
    digest = hashlib.md5(view[:md5_at], usedforsecurity=False)
    digest.update(bytes(_MD5_SIZE))
    digest.update(view[md5_at + _MD5_SIZE :])
    return digest.digest()


@lru_cache(maxsize=1024)
def runs(mask: int) -> tuple[tuple[int, int, bool], ...]:
    """(first block, blocks, whether they follow) of the stretches of a cluster, in order."""
    found: list[tuple[int, int, bool]] = []
    first, total = 0, CLUSTER // BLOCK
    while first < total:
        present = bool(mask >> first & 1)
        end = first + 1
        while end < total and bool(mask >> end & 1) is present:
            end += 1
        found.append((first, end - first, present))
        first = end
    return tuple(found)


def damaged(what: str) -> ProtocolError:
    """what: the end of a sentence."""
    return ProtocolError(
        f"The VMA stream is damaged: {what}.",
        hint="Read vzdump's log on the host, then run the backup again.",
    )


def cut_short(what: str) -> ProtocolError:
    """what: the end of a sentence."""
    return ProtocolError(
        f"The VMA stream ended too early: {what}.",
        hint="vzdump failed or the connection broke. Read vzdump's log on the host, then run the backup again.",
    )
