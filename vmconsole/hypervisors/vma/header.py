"""The header of a VMA stream: configuration files, and the devices whose clusters follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.vma import layout
from vmconsole.hypervisors.vma.layout import Device, damaged

MAX_TOTAL: Final = 128 * 2**40
"""Bytes of all devices together that a reader takes by default: it keeps a bit per 64 KiB."""

# Printable ASCII without a slash, so that a name may become a file or an archive member.
_NAME: Final = re.compile(r"[A-Za-z0-9_][ -.0-~]{0,254}")


@dataclass(frozen=True, slots=True)
class Header:
    """uuid: of this stream; ctime: seconds since 1970; configs: name (`qemu-server.conf`) to content."""

    uuid: UUID
    ctime: int
    configs: Mapping[str, bytes]
    devices: tuple[Device, ...]


def declared_size(head: bytes) -> int:
    """Bytes of the whole header, from its first layout.HEAD_SIZE. Raises ProtocolError."""
    magic, version, _, _, _, _, _, size, _ = layout.HEAD.unpack_from(head)
    if magic != layout.MAGIC:
        raise ProtocolError(
            "This is not a VMA stream.",
            hint="Something on the host wrote to vzdump's standard output, or vzdump compressed it: "
            "look into /etc/vzdump.conf and the login scripts of the host.",
        )
    if version != layout.VERSION:
        raise ProtocolError(
            f"The VMA stream has version {version}; only version {layout.VERSION} is known.",
            hint="Look for a newer release of vmconsole.",
        )
    if not layout.HEAD_SIZE < size <= layout.MAX_HEADER or size % layout.STEP:
        raise damaged(f"its header claims {size} bytes")
    return int(size)


def parse(data: bytes, limit: int = MAX_TOTAL) -> Header:
    """The header in data, which is exactly as long as it declares. Raises ProtocolError.

    limit: bytes of all devices together.
    """
    if declared_size(data) != len(data):
        raise damaged("its header has another size than it claims")
    _, _, uuid, ctime, md5, blobs_at, blobs_size, _, reserved = layout.HEAD.unpack_from(data)
    if md5 != layout.checksum(data, layout.HEAD_MD5_AT):
        raise damaged("its header does not match its checksum")
    if any(reserved) or any(data[layout.RESERVED_AT : layout.DEVICES_AT]):
        raise damaged("its header uses fields that are reserved")
    if blobs_at < layout.HEAD_SIZE or blobs_at + blobs_size > len(data):
        raise damaged("its configuration lies outside the header")
    names = layout.POINTERS.unpack_from(data, layout.NAMES_AT)
    contents = layout.POINTERS.unpack_from(data, layout.CONTENTS_AT)
    devices = list(layout.DEVICE.iter_unpack(data[layout.DEVICES_AT : layout.HEAD_SIZE]))
    wanted = {0, *names, *contents, *(device[0] for device in devices)} - {0}
    blobs = _blobs(data[blobs_at : blobs_at + blobs_size], wanted)
    return Header(
        UUID(bytes=uuid), ctime, _parse_configs(names, contents, blobs), _parse_devices(devices, blobs, limit)
    )


def build(header: Header) -> bytes:
    """The header's bytes. Raises ProtocolError for what the format cannot hold."""
    if len(header.configs) > layout.MAX_CONFIGS or len(header.devices) > layout.MAX_DEVICES:
        raise _too_much("too many disks or configuration files")
    if len({device.name for device in header.devices}) != len(header.devices):
        raise _too_much("two disks have the same name")
    table = bytearray(1)  # Pointer 0 means none.
    names, contents = [0] * layout.MAX_CONFIGS, [0] * layout.MAX_CONFIGS
    for index, (name, content) in enumerate(header.configs.items()):
        names[index] = _add_name(table, name)
        contents[index] = _add(table, content, name)
    head = bytearray(layout.HEAD_SIZE)
    for device in header.devices:
        if not 0 < device.dev_id <= layout.MAX_DEVICES or device.size <= 0:
            raise ValueError(f"no such device: {device}")
        if device.clusters > layout.MAX_CLUSTERS:
            raise _too_much(f"“{device.name}” is larger than 256 TiB")
        at = layout.DEVICES_AT + device.dev_id * layout.DEVICE.size
        layout.DEVICE.pack_into(head, at, _add_name(table, device.name), 0, device.size, 0, 0)
    layout.POINTERS.pack_into(head, layout.NAMES_AT, *names)
    layout.POINTERS.pack_into(head, layout.CONTENTS_AT, *contents)
    size = layout.HEAD_SIZE + len(table) + -len(table) % layout.STEP
    if size > layout.MAX_HEADER:
        raise _too_much("the configuration files are larger than 500 KiB together")
    layout.HEAD.pack_into(
        head, 0, layout.MAGIC, layout.VERSION, header.uuid.bytes, header.ctime, b"", layout.HEAD_SIZE, len(table),
        size, b"",
    )  # fmt: skip
    data = head + table + bytes(size - layout.HEAD_SIZE - len(table))
    data[layout.HEAD_MD5_AT : layout.HEAD_MD5_AT + 16] = layout.checksum(data, layout.HEAD_MD5_AT)
    return bytes(data)


def _blobs(table: bytes, wanted: set[int]) -> dict[int, bytes]:
    """The blobs at the wanted places. A pointer into the middle of one finds none."""
    found: dict[int, bytes] = {}
    at = 1
    while at + layout.BLOB_SIZE.size <= len(table):
        (size,) = layout.BLOB_SIZE.unpack_from(table, at)
        end = at + layout.BLOB_SIZE.size + size
        if end > len(table):
            raise damaged("its configuration is longer than the room for it")
        if at in wanted:
            found[at] = table[at + layout.BLOB_SIZE.size : end]
        at = end
    if missing := wanted - found.keys():
        raise damaged(f"its header points to nothing, at {min(missing)}")
    return found


def _parse_configs(
    names: tuple[int, ...], contents: tuple[int, ...], blobs: dict[int, bytes]
) -> dict[str, bytes]:
    configs: dict[str, bytes] = {}
    for name_at, content_at in zip(names, contents, strict=True):
        if not name_at and not content_at:
            continue
        if not name_at or not content_at:
            raise damaged("a configuration file has no name or no content")
        name = _parse_name(blobs[name_at])
        if name in configs:
            raise damaged(f"it has two configuration files “{name}”")
        configs[name] = blobs[content_at]
    return configs


def _parse_devices(
    table: list[tuple[int, int, int, int, int]], blobs: dict[int, bytes], limit: int
) -> tuple[Device, ...]:
    devices: list[Device] = []
    for dev_id, (name_at, reserved, size, *more) in enumerate(table):
        if reserved or any(more):
            raise damaged("its table of disks uses fields that are reserved")
        if not name_at and not size:
            continue
        if not name_at or not size or not 0 < dev_id <= layout.MAX_DEVICES:
            raise damaged(f"disk {dev_id} of {size} bytes cannot be")
        devices.append(Device(dev_id, _parse_name(blobs[name_at]), size))
    if len({device.name for device in devices}) != len(devices):
        raise damaged("two of its disks have the same name")
    if any(device.clusters > layout.MAX_CLUSTERS for device in devices):
        raise damaged("it claims a disk of more than 256 TiB")
    total = sum(device.size for device in devices if not device.is_vmstate)
    if total > limit:
        raise ProtocolError(
            f"The VMA stream claims disks of {total} bytes; {limit} is the most that is read.",
            hint="Check the sizes of the guest's disks on the host.",
        )
    return tuple(devices)


def _parse_name(blob: bytes) -> str:
    """A name is kept with the NUL that ends it."""
    name = blob[:-1].decode("latin-1")
    if blob[-1:] != b"\0" or not _NAME.fullmatch(name):
        raise damaged("a disk or configuration file has no proper name")
    return name


def _add_name(table: bytearray, name: str) -> int:
    if not _NAME.fullmatch(name):
        raise _too_much(f"“{name}” cannot be the name of a disk or configuration file")
    return _add(table, name.encode("ascii") + b"\0", name)


def _add(table: bytearray, blob: bytes, name: str) -> int:
    if len(blob) > layout.MAX_BLOB:
        raise _too_much(f"“{name}” has {len(blob)} bytes, more than {layout.MAX_BLOB}")
    at = len(table)
    table += layout.BLOB_SIZE.pack(len(blob)) + blob
    return at


def _too_much(what: str) -> ProtocolError:
    return ProtocolError(
        f"A VMA stream cannot hold this guest: {what}.",
        hint="Restore the guest's disks one by one instead.",
    )
