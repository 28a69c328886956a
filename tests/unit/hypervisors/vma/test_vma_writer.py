"""Writing: what an independent decoder reads back, in few bytes and little memory."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Iterator
from uuid import UUID

import pytest
import vma_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from vma_oracle import BLOCK, CLUSTER

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.vma.reader import Reader
from vmconsole.hypervisors.vma.writer import Writer

UUID_ = UUID(bytes=oracle.UUID)
MIB = 1024 * 1024
CONFIGS = {"qemu-server.conf": b"name: web\n", "qemu-server.fw": b"[OPTIONS]\n"}


def writer(out: io.BytesIO, *sizes: int) -> Writer:
    devices = [(f"drive-scsi{index}", size) for index, size in enumerate(sizes)]
    return Writer(out.write, uuid=UUID_, ctime=oracle.CTIME, configs=CONFIGS, devices=devices)


def whole(size: int) -> int:
    return -(-size // 512) * 512


SIZES = st.one_of(
    st.integers(1, 5 * CLUSTER), st.sampled_from([1, 512, BLOCK, CLUSTER, CLUSTER + 512, 540672])
)
STRETCHES = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 40).map(lambda blocks: blocks * BLOCK),
            st.sampled_from([1, 511, CLUSTER, 3 * CLUSTER]),
            st.integers(0, 3 * CLUSTER),
        ),
        st.sampled_from(["data", "zeros as data", "hole", "sparse"]),
    ),
    max_size=10,
)


def ranges(
    size: int, stretches: list[tuple[int, str]], rng: random.Random
) -> Iterator[tuple[int, int, bytes | bytearray | memoryview | None]]:
    """Ranges that cover a disk."""
    offset = 0
    for length, kind in [*stretches, (size, "data")]:
        length = min(length, size - offset)
        if kind == "hole":
            yield offset, length, None
        elif kind == "zeros as data":
            yield offset, length, memoryview(bytes(length))
        elif kind == "sparse":
            yield offset, length, bytearray(rng.choice([0, 0, 0, 7]) for _ in range(length))
        else:
            yield offset, length, rng.randbytes(length)
        offset += length


def content(size: int, pieces: list[tuple[int, int, bytes | bytearray | memoryview | None]]) -> bytes:
    disk = bytearray(size)
    for offset, length, data in pieces:
        if data is not None:
            disk[offset : offset + length] = data
    return bytes(disk)


@settings(deadline=None, max_examples=120)
@given(st.lists(st.tuples(SIZES, STRETCHES), max_size=3), st.randoms(use_true_random=False), st.booleans())
def test_any_ranges(disks: list[tuple[int, list[tuple[int, str]]]], rng: random.Random, mixed: bool) -> None:
    """Read back by the oracle and by the reader; devices one after another, and mixed."""
    out = io.BytesIO()
    stream = writer(out, *(size for size, _ in disks))
    given_ = [list(ranges(size, stretches, rng)) for size, stretches in disks]
    if mixed:
        left = {dev: iter(pieces) for dev, pieces in enumerate(given_, start=1)}
        while left:
            dev = rng.choice(list(left))
            piece = next(left[dev], None)
            if piece is None:
                del left[dev]
            elif piece[2] is None:
                stream.zero(dev, piece[0], piece[1])
            else:
                stream.data(dev, piece[0], piece[2])
    else:
        for dev, pieces in enumerate(given_, start=1):
            stream.disk(dev, iter(pieces))
    stream.finish()
    raw = out.getvalue()
    assert stream.bytes_written == len(raw)
    found = oracle.decode(raw)
    wanted = {
        f"drive-scsi{index}": content(size, pieces) + bytes(whole(size) - size)
        for index, ((size, _), pieces) in enumerate(zip(disks, given_, strict=True))
    }
    assert (found.uuid, found.ctime, found.configs) == (oracle.UUID, oracle.CTIME, CONFIGS)
    assert found.disks == wanted
    blocks = [disk[at : at + BLOCK] for disk in wanted.values() for at in range(0, len(disk), BLOCK)]
    assert found.data == sum(1 for block in blocks if any(block))
    assert found.slots[:-1] == [59] * (len(found.slots) - 1)
    reader = Reader(io.BytesIO(raw).read)
    again = {device.dev_id: bytearray(b"\xee" * device.size) for device in reader.header.devices}
    for dev_id, offset, data, length in reader.pieces():
        again[dev_id][offset : offset + length] = bytes(length) if data is None else data
    assert [bytes(disk) for disk in again.values()] == list(wanted.values())


def test_the_clusters_of_a_device_are_in_order() -> None:
    out = io.BytesIO()
    stream = writer(out, 130 * CLUSTER, CLUSTER)
    stream.disk(2, [(0, CLUSTER, b"\1" * CLUSTER)])
    stream.disk(1, [(0, 70 * CLUSTER, b"\1" * 70 * CLUSTER), (70 * CLUSTER, 60 * CLUSTER, None)])
    stream.finish()
    found = oracle.decode(out.getvalue())
    assert found.order == [(2, 0), *((1, cluster) for cluster in range(130))]
    assert found.slots == [59, 59, 13]


def test_zeros_are_cheap_to_send() -> None:
    out = io.BytesIO()
    stream = writer(out, 2**40)
    head = out.tell()
    stream.disk(1, [(0, 2**39, None), *((at, MIB, None) for at in range(2**39, 2**39 + 100 * MIB, MIB)),
                    (2**39 + 100 * MIB, 2**39 - 100 * MIB, None)])  # fmt: skip
    stream.finish()
    assert out.tell() - head == -(-(2**40 // CLUSTER) // 59) * 512


def test_the_header_goes_out_at_once() -> None:
    """qmrestore waits 60 seconds for it."""
    out = io.BytesIO()
    stream = writer(out, CLUSTER)
    assert out.getvalue() == oracle.header(list(CONFIGS.items()), {1: ("drive-scsi0", CLUSTER)})
    assert [(device.dev_id, device.name, device.size) for device in stream.devices] == [
        (1, "drive-scsi0", CLUSTER)
    ]


def test_no_disks() -> None:
    out = io.BytesIO()
    writer(out).finish()
    assert out.getvalue() == oracle.header(list(CONFIGS.items()), {})


def test_a_size_that_is_no_whole_sector() -> None:
    out = io.BytesIO()
    stream = writer(out, 1000)
    assert stream.devices[0].size == 1024
    stream.disk(1, [(0, 1000, b"\1" * 1000)])
    stream.finish()
    assert oracle.decode(out.getvalue()).disks == {"drive-scsi0": b"\1" * 1000 + bytes(24)}


def test_a_buffer_may_be_used_again() -> None:
    out, buffer = io.BytesIO(), bytearray(b"\1" * CLUSTER)
    stream = writer(out, 2 * CLUSTER)
    stream.data(1, 0, buffer)
    buffer[:] = b"\2" * CLUSTER
    stream.data(1, CLUSTER, memoryview(buffer))
    buffer[:] = b"\3" * CLUSTER
    stream.finish()
    assert oracle.decode(out.getvalue()).disks == {"drive-scsi0": b"\1" * CLUSTER + b"\2" * CLUSTER}


def test_memory_is_bounded() -> None:
    """Chunks of 4 MiB of which one block is data: none may be kept for the sake of that block."""
    count, largest = 64, 0

    def write(data: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(data))

    stream = Writer(write, uuid=UUID_, ctime=0, configs={}, devices=[("drive-scsi0", count * 4 * MIB)])
    tracemalloc.start()
    try:
        for index in range(count):
            chunk = bytearray(4 * MIB)
            chunk[index * CLUSTER % len(chunk)] = 1
            stream.data(1, index * 4 * MIB, chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stream.finish()
    assert peak < 20 * MIB
    assert largest < 5 * MIB


def test_ranges_that_do_not_fit() -> None:
    for pieces, reason in (
        ([], "ends at 0 instead of 131072"),
        ([(0, CLUSTER, None)], "ends at 65536"),
        ([(1, CLUSTER, None)], "starts at 1 where 0"),
        ([(0, CLUSTER, None), (CLUSTER + 1, 1, b"a")], "starts at 65537"),
        ([(0, CLUSTER, None), (0, CLUSTER, None)], "starts at 0 where 65536"),
        ([(0, 2 * CLUSTER + 1, None)], "goes on to 131073"),
        ([(0, 2 * CLUSTER, None), (2 * CLUSTER, 1, b"a")], "goes on to"),
        ([(0, 4, b"abc")], "3 bytes came where 4"),
        ([(0, -1, None)], "starts at 0"),
    ):
        stream = writer(io.BytesIO(), 2 * CLUSTER)
        with pytest.raises(ProtocolError, match=reason) as caught:
            stream.disk(1, pieces)
        assert caught.value.hint


def test_finishing() -> None:
    out = io.BytesIO()
    stream = writer(out, 100)
    with pytest.raises(ProtocolError, match=r"drive-scsi0.*ends at 0"):
        stream.finish()
    stream.disk(1, [(0, 100, None)])
    stream.finish()
    size = out.tell()
    stream.finish()
    assert out.tell() == size
    with pytest.raises(ValueError, match="finished"):
        stream.zero(1, 100, 0)


def test_wrong_devices() -> None:
    with pytest.raises(ValueError, match="no device 2"):
        writer(io.BytesIO(), 1).zero(2, 0, 1)
    with pytest.raises(ProtocolError, match="no content"):
        writer(io.BytesIO(), 0)
    with pytest.raises(ValueError, match="memory"):
        Writer(io.BytesIO().write, uuid=UUID_, ctime=0, configs={}, devices=[("vmstate", 1)])
    with pytest.raises(ProtocolError, match="two disks"):
        Writer(io.BytesIO().write, uuid=UUID_, ctime=0, configs={}, devices=[("a", 1), ("a", 1)])
