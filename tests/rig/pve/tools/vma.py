"""VMA version 1, written from its description: header, blobs, extents of 64 KiB clusters.

Independent of the product's own code on purpose, and strict: a stream that Proxmox would refuse dies here.
"""

from __future__ import annotations

import hashlib
import random
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from pve.tools.says import Died

CLUSTER = 65536
BLOCK = 4096
_HEADER = 12288
_BLOCKS = CLUSTER // BLOCK
_SLOTS = 59
_FILLED = 58
"""Slots that Proxmox's writer fills; readers take 59."""
_ZERO = bytes(BLOCK)


@dataclass
class Image:
    """One device of a stream. read(offset, length): its bytes, short at its end."""

    name: str
    size: int
    read: Callable[[int, int], bytes]

    @property
    def clusters(self) -> int:
        return -(-self.size // CLUSTER)


# --- writing ---


def write(out: BinaryIO, configs: Mapping[str, bytes], images: list[Image], seed: int = 0) -> None:
    """The clusters come as from a running guest: in order by and large, the disks in turns, some far ahead of
    their place because the guest was about to overwrite them."""
    number = uuid.uuid4().bytes
    out.write(_header(number, configs, images))
    slots: list[tuple[int, int, int]] = []
    data: list[bytes] = []
    for device, cluster in _order(images, random.Random(seed)):
        mask, blocks = _cluster(images[device - 1], cluster)
        slots.append((mask, device, cluster))
        data += blocks
        if len(slots) == _FILLED:
            out.write(_extent(number, slots, data))
            slots, data = [], []
    if slots:
        out.write(_extent(number, slots, data))
    out.flush()


def _order(images: list[Image], chance: random.Random) -> Iterator[tuple[int, int]]:
    waiting = {device: list(range(image.clusters)) for device, image in enumerate(images, 1)}
    while any(waiting.values()):
        device = chance.choice([device for device, left in waiting.items() if left])
        left = waiting[device]
        if chance.random() < 0.1:
            yield device, left.pop(chance.randrange(len(left)))
        else:
            run = chance.randint(1, 8)
            for cluster in left[:run]:
                yield device, cluster
            del left[:run]


def _cluster(image: Image, cluster: int) -> tuple[int, list[bytes]]:
    data = image.read(cluster * CLUSTER, min(CLUSTER, image.size - cluster * CLUSTER))
    mask, blocks = 0, []
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK].ljust(BLOCK, b"\0")
        if block != _ZERO:
            mask |= 1 << (at // BLOCK)
            blocks.append(block)
    return mask, blocks


def _extent(number: bytes, slots: list[tuple[int, int, int]], blocks: list[bytes]) -> bytes:
    head = bytearray(512)
    struct.pack_into(">4sHH16s", head, 0, b"VMAE", 0, len(blocks), number)
    for place, (mask, device, cluster) in enumerate(slots):
        struct.pack_into(">HBBI", head, 40 + 8 * place, mask, 0, device, cluster)
    head[24:40] = hashlib.md5(head).digest()
    return bytes(head) + b"".join(blocks)


def _header(number: bytes, configs: Mapping[str, bytes], images: list[Image]) -> bytes:
    blobs = bytearray(1)

    def blob(data: bytes) -> int:
        place = len(blobs)
        blobs.extend(struct.pack("<H", len(data)) + data)
        return place

    head = bytearray(_HEADER)
    for place, (name, data) in enumerate(configs.items()):
        struct.pack_into(">I", head, 2044 + 4 * place, blob(name.encode() + b"\0"))
        struct.pack_into(">I", head, 3068 + 4 * place, blob(data))
    for device, image in enumerate(images, 1):
        struct.pack_into(">IIQ", head, 4096 + 32 * device, blob(image.name.encode() + b"\0"), 0, image.size)
    size = -(-(_HEADER + len(blobs)) // 512) * 512
    struct.pack_into(">4sI16sq", head, 0, b"VMA\0", 1, number, int(time.time()))
    struct.pack_into(">III", head, 48, _HEADER, len(blobs), size)
    whole = bytearray((bytes(head) + bytes(blobs)).ljust(size, b"\0"))
    whole[32:48] = hashlib.md5(whole).digest()
    return bytes(whole)


# --- reading ---


@dataclass
class Header:
    number: bytes
    configs: dict[str, bytes]
    devices: dict[int, tuple[str, int]]
    """Device number → name, size."""


def read_header(source: BinaryIO) -> Header:
    head = _exactly(source, _HEADER)
    magic, version, number = struct.unpack_from(">4sI16s", head)
    if magic != b"VMA\0":
        raise Died("not a vma file - wrong magic number")
    if version != 1:
        raise Died(f"wrong vma version {version}")
    offset, used, size = struct.unpack_from(">III", head, 48)
    if not _HEADER <= size < 524288 or offset != _HEADER or offset + used > size:
        raise Died(f"wrong vma header size {size}")
    whole = bytearray(head + _exactly(source, size - _HEADER))
    told, whole[32:48] = bytes(whole[32:48]), bytes(16)
    if hashlib.md5(whole).digest() != told:
        raise Died("wrong vma header checksum")

    def blob(place: int) -> bytes:
        if not 0 < place < used - 2:
            raise Died("vma header has a wrong blob offset")
        (length,) = struct.unpack_from("<H", whole, offset + place)
        return bytes(whole[offset + place + 2 : offset + place + 2 + length])

    configs = {}
    for place in range(256):
        name, data = (struct.unpack_from(">I", whole, start + 4 * place)[0] for start in (2044, 3068))
        if name and data:
            configs[blob(name).rstrip(b"\0").decode()] = blob(data)
    devices = {}
    for device in range(1, 255):
        name, _, length = struct.unpack_from(">IIQ", whole, 4096 + 32 * device)
        if name:
            devices[device] = blob(name).rstrip(b"\0").decode(), length
    return Header(number, configs, devices)


def read_clusters(source: BinaryIO, header: Header) -> Iterator[tuple[int, int, bytes]]:
    """(device, offset, bytes) of each cluster, cut at the device's end. Dies of one that is missing or twice."""
    missing = {device: set(range(-(-size // CLUSTER))) for device, (_, size) in header.devices.items()}
    while head := source.read(512):
        head = head if len(head) == 512 else head + _exactly(source, 512 - len(head))
        magic, reserved, count, number = struct.unpack_from(">4sHH16s", head)
        plain = bytearray(head)
        plain[24:40] = bytes(16)
        if magic != b"VMAE" or reserved or number != header.number:
            raise Died("wrong vma extent header")
        if hashlib.md5(plain).digest() != head[24:40]:
            raise Died("wrong vma extent header chechsum")
        seen = 0
        for place in range(_SLOTS):
            mask, zero, device, cluster = struct.unpack_from(">HBBI", head, 40 + 8 * place)
            if not device:
                continue
            if device not in missing or zero:
                raise Died(f"got wrong dev id {device}")
            if cluster not in missing[device]:
                raise Died(f"cluster {cluster} of device {device} is there twice, or beyond its end")
            missing[device].discard(cluster)
            data = bytearray(CLUSTER)
            for block in range(_BLOCKS):
                if mask >> block & 1:
                    data[block * BLOCK : (block + 1) * BLOCK] = _exactly(source, BLOCK)
                    seen += 1
            offset = cluster * CLUSTER
            yield device, offset, bytes(data[: header.devices[device][1] - offset])
        if seen != count:
            raise Died(f"wrong vma extent block count {count}")
    if any(missing.values()):
        raise Died("detected missing cluster")


def _exactly(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) != length:
        raise Died("short vma extent (too few data)")
    return data
