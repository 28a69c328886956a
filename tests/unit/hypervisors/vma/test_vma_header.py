"""The header: byte for byte what QEMU writes, and nothing hostile gets through."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from uuid import UUID

import pytest
import vma_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.vma.header import MAX_TOTAL, Header, build, declared_size, parse
from vmconsole.hypervisors.vma.layout import Device
from vmconsole.hypervisors.vma.reader import Reader

GIB = 2**30
CONF = b"bios: ovmf\nname: web\n" * 20
CONFIGS = [("qemu-server.conf", CONF), ("qemu-server.fw", b"")]
DEVICES = {1: ("drive-efidisk0", 540672), 2: ("drive-scsi0", 32 * GIB)}
GOOD = oracle.header(CONFIGS, DEVICES)
UUID_ = UUID(bytes=oracle.UUID)


def as_header() -> Header:
    devices = tuple(Device(dev, name, size) for dev, (name, size) in DEVICES.items())
    return Header(UUID_, oracle.CTIME, dict(CONFIGS), devices)


def test_a_golden_header() -> None:
    """Every field where the program has it; the sizes of blobs alone are little-endian."""
    header = Header(UUID_, 0x0102030405, {"a.conf": b"x" * 0x0102}, (Device(3, "drive-scsi0", 0x010203),))
    data = build(header)
    assert len(data) == 12288 + 512
    assert data[:8] == b"VMA\0\0\0\0\1"
    assert data[8:24] == oracle.UUID
    assert data[24:32] == bytes.fromhex("0000000102030405")
    assert data[48:60] == struct.pack(">III", 12288, 1 + 9 + 260 + 14, 12800)
    assert not any(data[60:2044])
    assert data[2044:2052] == struct.pack(">II", 1, 0)
    assert data[3068:3076] == struct.pack(">II", 10, 0)
    assert not any(data[4092 : 4096 + 3 * 32])
    assert data[4192:4224] == struct.pack(">IIQQQ", 270, 0, 0x010203, 0, 0)
    assert not any(data[4224:12288])
    blobs = data[12288:]
    assert blobs[:10] == b"\0" + b"\x07\0" + b"a.conf\0"
    assert blobs[10:12] == b"\x02\x01"
    assert blobs[12:270] == b"x" * 0x0102
    assert blobs[270:284] == b"\x0c\0" + b"drive-scsi0\0"
    assert not any(blobs[284:])
    assert oracle.sealed(data, 32) == data


def test_the_oracle_agrees() -> None:
    assert build(as_header()) == GOOD
    assert parse(GOOD) == as_header()
    assert declared_size(GOOD[:12288]) == len(GOOD)


def test_blobs_padded_as_the_specification_says() -> None:
    assert parse(oracle.header(CONFIGS, DEVICES, padded=True)) == as_header()


def test_a_header_without_configuration_or_disks() -> None:
    header = Header(UUID_, -1, {}, ())
    assert len(build(header)) == 12800
    assert parse(build(header)) == header


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,30}", fullmatch=True)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(NAMES, st.binary(max_size=700), max_size=8),
    st.dictionaries(st.integers(1, 254), st.integers(1, 2**42), max_size=8),
    st.uuids(),
    st.integers(-(2**63), 2**63 - 1),
)
def test_round_trips(configs: dict[str, bytes], sizes: dict[int, int], uuid: UUID, ctime: int) -> None:
    devices = {dev: (f"drive-scsi{dev}", size) for dev, size in sorted(sizes.items())}
    data = oracle.header(list(configs.items()), devices, uuid=uuid.bytes, ctime=ctime)
    header = parse(data)
    assert header == Header(uuid, ctime, configs, tuple(Device(dev, *rest) for dev, rest in devices.items()))
    assert build(header) == data


def test_every_byte_flipped() -> None:
    """The checksum covers all of it, so that nothing is ever believed; no other error escapes."""
    for at in range(len(GOOD)):
        for bits in (0x01, 0x80, 0xFF):
            bad = bytearray(GOOD)
            bad[at] ^= bits
            with pytest.raises(ProtocolError) as caught:
                Reader(io.BytesIO(bytes(bad)).read)
            assert caught.value.hint


def test_cut_anywhere() -> None:
    for length in (*range(0, 12288, 97), *range(12280, len(GOOD))):
        with pytest.raises(ProtocolError, match="ended too early"):
            Reader(io.BytesIO(GOOD[:length]).read)


@settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from([48, 52, 56, 2044, 2048, 3068, 4092, 4096, 4128, 4136, 4160, 4168, 12256]),
                st.integers(0, len(GOOD) - 8),
                st.integers(12288, len(GOOD) - 8),
            ),
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.integers(0, 2**32 - 1).map(lambda value: value.to_bytes(4, "big")),
                st.integers(0, 600).map(lambda value: value.to_bytes(4, "big")),
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_liar_with_a_right_checksum(edits: list[tuple[int, bytes]]) -> None:
    bad = bytearray(GOOD)
    for at, data in edits:
        bad[at : at + len(data)] = data
    size = int.from_bytes(bad[56:60], "big")
    bad = bytearray(oracle.sealed(bad[: min(size, len(bad))].ljust(60, b"\0"), 32))
    with suppress(ProtocolError):
        header = Reader(io.BytesIO(bytes(bad)).read).header
        assert sum(device.size for device in header.devices) <= MAX_TOTAL
        assert all(0 < device.dev_id < 255 and device.size > 0 for device in header.devices)
        assert not any("/" in name or "\0" in name or name.startswith(".") for name in header.configs)


def patched(*edits: tuple[int, bytes]) -> bytes:
    bad = bytearray(GOOD)
    for at, data in edits:
        bad[at : at + len(data)] = data
    return oracle.sealed(bad, 32)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


FIRST_NAME = 1
FIRST_CONTENT = 1 + 2 + 17
LIES = {
    "not a VMA stream": (0, b"PK\3\4"),
    "version 2": (4, u32(2)),
    "claims 12288 bytes": (56, u32(12288)),
    "claims 1048576 bytes": (56, u32(2**20)),
    "claims 13000 bytes": (56, u32(13000)),
    "claims 4294967295 bytes": (56, u32(2**32 - 1)),
    "reserved": (60, b"\1"),
    "reserved.": (2043, b"\1"),
    "reserved..": (4095, b"\1"),
    "table of disks uses fields": (4096 + 32 + 4, u32(1)),
    "table of disks uses fields that": (4096 + 32 + 24, u32(1)),
    "outside the header": (48, u32(0)),
    "lies outside the header": (52, u32(len(GOOD) - 12288 + 1)),
    "configuration lies outside": (48, u32(2**32 - 1)),
    "longer than the room": (12288 + FIRST_NAME, b"\xff\xff"),
    "points to nothing, at 2": (2044, u32(2)),
    "points to nothing": (3068, u32(10**6)),
    "points to nothing, at 4294967295": (4096 + 32, u32(2**32 - 1)),
    "no name or no content": (2044, u32(0)),
    "no name or no content.": (3068 + 4, u32(0)),
    "no proper name": (12288 + FIRST_NAME + 2, b"../a"),
    "no proper name.": (12288 + FIRST_NAME + 2, b".\0"),
    "no proper name..": (12288 + FIRST_NAME + 2 + 16, b"x"),
    "no proper name...": (12288 + FIRST_NAME + 2, b"\xc3\xa4"),
    "two configuration files": (2048, u32(FIRST_NAME)),
    "two of its disks have the same name": (4096 + 64, GOOD[4096 + 32 : 4096 + 36]),
    "disk 1 of 0 bytes": (4096 + 32 + 8, bytes(8)),
    "disk 2 of 34359738368 bytes": (4096 + 64, u32(0)),
    "disk 0 of 1 bytes": (4096, struct.pack(">IIQ", FIRST_NAME, 0, 1)),
    "disk 255 of 1 bytes": (4096 + 255 * 32, struct.pack(">IIQ", FIRST_NAME, 0, 1)),
    "more than 256 TiB": (4096 + 32 + 8, struct.pack(">Q", 2**48 + 1)),
    "claims disks of": (4096 + 32 + 8, struct.pack(">Q", 2**48)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie(lie: str) -> None:
    with pytest.raises(ProtocolError, match=lie.rstrip(".")) as caught:
        Reader(io.BytesIO(patched(LIES[lie]) + bytes(2**20)).read)
    assert caught.value.hint


def test_the_limit_is_the_callers() -> None:
    total = sum(size for _, size in DEVICES.values())
    assert parse(GOOD, limit=total) == as_header()
    with pytest.raises(ProtocolError, match="claims disks"):
        parse(GOOD, limit=total - 1)


def test_the_guests_memory_counts_for_nothing() -> None:
    header = parse(oracle.header([], {1: ("vmstate", 2**40)}), limit=0)
    assert header.devices[0].is_vmstate


def test_one_blob_for_two_purposes() -> None:
    data = patched((3072, u32(FIRST_CONTENT)))
    assert parse(data).configs == {"qemu-server.conf": CONF, "qemu-server.fw": CONF}


def test_what_the_format_cannot_hold() -> None:
    def header(configs: dict[str, bytes] | None = None, *sizes: int) -> Header:
        devices = tuple(Device(index, f"drive-{index}", size) for index, size in enumerate(sizes, start=1))
        return Header(UUID_, 0, configs or {}, devices)

    largest = header({"qemu-server.conf": bytes(65535)})
    assert parse(build(largest)) == largest
    many = header({f"{index}": b"" for index in range(256)}, *[512] * 254)
    assert parse(build(many)) == many
    full = header({f"{index}": bytes(62_500) for index in range(8)}, 2**48)
    assert len(build(full)) <= 512 * 1024
    assert parse(build(full), limit=2**48) == full
    for bad, reason in (
        (header({"qemu-server.conf": bytes(65536)}), "65536 bytes"),
        (header({f"{index}": b"" for index in range(257)}), "too many"),
        (header(None, *[512] * 255), "too many"),
        (header({f"{index}": bytes(65535) for index in range(8)}), "larger than 500 KiB"),
        (header(None, 2**48 + 1), "256 TiB"),
        (header({"a/b": b""}), "a/b"),
        (header({"": b""}), "cannot be the name"),
    ):
        with pytest.raises(ProtocolError, match=reason) as caught:
            build(bad)
        assert caught.value.hint
    for wrong in (
        Device(0, "drive-scsi0", 512),
        Device(255, "drive-scsi0", 512),
        Device(1, "drive-scsi0", 0),
    ):
        with pytest.raises(ValueError, match="no such device"):
            build(Header(UUID_, 0, {}, (wrong,)))
