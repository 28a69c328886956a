"""VMA once more, as simply as can be and sharing nothing with the product: offsets, bytes and struct.

An encoder that may be told to break any rule, and a decoder that checks every rule.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

UUID = bytes(range(16))
CTIME = 1_700_000_000
BLOCK = 4096
CLUSTER = 65536


@dataclass
class Slot:
    """One cluster of one device; data holds the blocks of the mask, one after another."""

    dev: int
    cluster: int
    mask: int
    data: bytes = b""
    reserved: int = 0


def sealed(head: bytes | bytearray, md5_at: int) -> bytes:
    """With its checksum."""
    bare = bytes(head[:md5_at]) + bytes(16) + bytes(head[md5_at + 16 :])
    return bare[:md5_at] + hashlib.md5(bare).digest() + bare[md5_at + 16 :]


def header(
    configs: Sequence[tuple[str, bytes]],
    devices: dict[int, tuple[str, int]],
    *,
    padded: bool = False,
    uuid: bytes = UUID,
    ctime: int = CTIME,
) -> bytes:
    """padded: the size of the blobs is rounded up, as the specification (not the program) says."""
    table = b"\0"
    names, contents, infos = [0] * 256, [0] * 256, [(0, 0)] * 256
    for index, (name, content) in enumerate(configs):
        names[index] = len(table)
        table += struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
        contents[index] = len(table)
        table += struct.pack("<H", len(content)) + content
    for dev, (name, size) in devices.items():
        infos[dev] = (len(table), size)
        table += struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
    used = len(table)
    table += bytes(-len(table) % 512)
    head = b"VMA\0" + struct.pack(">I", 1) + uuid + struct.pack(">q", ctime) + bytes(16)
    head += struct.pack(">I", 12288) + struct.pack(">I", len(table) if padded else used)
    head += struct.pack(">I", 12288 + len(table))
    head += bytes(2044 - len(head))
    head += b"".join(struct.pack(">I", name) for name in names)
    head += b"".join(struct.pack(">I", content) for content in contents)
    head += bytes(4)
    for name_at, size in infos:
        head += struct.pack(">IIQQQ", name_at, 0, size, 0, 0)
    assert len(head) == 12288
    return sealed(head + table, 32)


def extent(slots: Sequence[Slot], *, uuid: bytes = UUID, blocks: int | None = None) -> bytes:
    assert len(slots) <= 59
    body = b"".join(slot.data for slot in slots)
    count = len(body) // BLOCK if blocks is None else blocks
    head = b"VMAE" + struct.pack(">HH", 0, count) + uuid + bytes(16)
    for slot in slots:
        head += struct.pack(">HBBI", slot.mask, slot.reserved, slot.dev, slot.cluster)
    head += bytes(512 - len(head))
    return sealed(head, 24) + body


def slots_of(dev: int, content: bytes) -> list[Slot]:
    """A device's clusters in order, zero blocks left out."""
    slots = []
    for cluster in range((len(content) + CLUSTER - 1) // CLUSTER):
        piece = content[cluster * CLUSTER : (cluster + 1) * CLUSTER]
        mask, data = 0, b""
        for bit in range(16):
            block = piece[bit * BLOCK : (bit + 1) * BLOCK]
            if block.strip(b"\0"):
                mask |= 1 << bit
                data += block + bytes(BLOCK - len(block))
        slots.append(Slot(dev, cluster, mask, data))
    return slots


def stream(head: bytes, slots: Sequence[Slot], per_extent: Iterable[int] = ()) -> bytes:
    """per_extent: how many slots the first extents have; the others have 59."""
    out, at, sizes = head, 0, iter(per_extent)
    while at < len(slots):
        count = next(sizes, 59)
        out += extent(slots[at : at + count])
        at += count
    return out


@dataclass
class Decoded:
    uuid: bytes = b""
    ctime: int = 0
    configs: dict[str, bytes] = field(default_factory=dict)
    disks: dict[str, bytes] = field(default_factory=dict)
    order: list[tuple[int, int]] = field(default_factory=list)
    """(device, cluster) as they came."""
    slots: list[int] = field(default_factory=list)
    """Of each extent."""
    data: int = 0
    """Blocks that were there."""


def decode(raw: bytes) -> Decoded:
    """Everything in a stream; an AssertionError for what qmrestore refuses, or we should not write."""
    found = Decoded()

    def u32(at: int) -> int:
        return int.from_bytes(raw[at : at + 4], "big")

    def blob(pointer: int) -> bytes:
        at = blobs_at + pointer
        size = raw[at] + raw[at + 1] * 256
        assert pointer > 0
        assert pointer + 2 + size <= blobs_size
        return raw[at + 2 : at + 2 + size]

    def text(pointer: int) -> str:
        name = blob(pointer)
        assert name[-1] == 0
        assert name.count(0) == 1
        return name[:-1].decode()

    assert raw[:4] == b"VMA\0"
    assert u32(4) == 1
    found.uuid, found.ctime = raw[8:24], int.from_bytes(raw[24:32], "big", signed=True)
    blobs_at, blobs_size, size = u32(48), u32(52), u32(56)
    assert blobs_at == 12288
    assert size % 512 == 0
    assert 12288 + blobs_size <= size < 12288 + blobs_size + 512
    assert size <= 512 * 1024
    assert sealed(raw[:size], 32) == raw[:size]
    for index in range(256):
        if name_at := u32(2044 + 4 * index):
            found.configs[text(name_at)] = blob(u32(3068 + 4 * index))
    disks: dict[int, tuple[str, bytearray, set[int]]] = {}
    for dev in range(256):
        at = 4096 + 32 * dev
        if name_at := u32(at):
            length = int.from_bytes(raw[at + 8 : at + 16], "big")
            assert 1 <= dev <= 254
            assert length % 512 == 0
            disks[dev] = (text(name_at), bytearray(length), set())
    at = size
    while at < len(raw):
        head = raw[at : at + 512]
        assert len(head) == 512
        assert head[:6] == b"VMAE\0\0"
        assert head[8:24] == found.uuid
        assert sealed(head, 24) == head
        blocks = int.from_bytes(head[6:8], "big")
        at += 512
        end = at + blocks * BLOCK
        assert end <= len(raw)
        used = 0
        for index in range(59):
            mask, reserved, dev, cluster = struct.unpack(">HBBI", head[40 + 8 * index : 48 + 8 * index])
            if not dev:
                assert mask == reserved == cluster == 0
                continue
            used += 1
            _, content, seen = disks[dev]
            assert not reserved
            assert cluster not in seen
            seen.add(cluster)
            found.order.append((dev, cluster))
            for bit in range(16):
                if mask >> bit & 1:
                    offset = cluster * CLUSTER + bit * BLOCK
                    left = len(content) - offset
                    assert left > 0
                    block = raw[at : at + BLOCK]
                    assert not block[left:].strip(b"\0")
                    content[offset : offset + BLOCK] = block[:left]
                    at += BLOCK
                    found.data += 1
        assert at == end
        assert used
        found.slots.append(used)
    for name, content, seen in disks.values():
        assert seen == set(range((len(content) + CLUSTER - 1) // CLUSTER))
        found.disks[name] = bytes(content)
    return found
