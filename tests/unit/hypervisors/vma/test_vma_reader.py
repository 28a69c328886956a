"""Reading: every byte once whatever the order, and a clean refusal of everything else."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from contextlib import suppress

import pytest
import vma_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from vma_oracle import BLOCK, CLUSTER, Slot

from vmconsole.errors import HostUnreachable, ProtocolError
from vmconsole.hypervisors.vma.reader import ZERO_PIECE, Piece, Reader

KIB = 1024
MIB = 1024 * KIB


def content(size: int, seed: int, zeros: float = 0.5) -> bytes:
    """Blocks of noise and of zeros; some end in zeros, some in a single byte."""
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        kind = rng.random()
        out += (
            bytes(BLOCK) if kind < zeros else bytes(BLOCK - 1) + b"\1" if kind < 0.6 else rng.randbytes(BLOCK)
        )
    return bytes(out[:size])


def one(size: int) -> bytes:
    return oracle.header([], {1: ("drive-scsi0", size)})


def short_reads(raw: bytes, seed: int, most: int = 70_000) -> Callable[[int], bytes]:
    source, rng = io.BytesIO(raw), random.Random(seed)
    return lambda size: source.read(rng.randint(1, max(1, min(size, most))))


def restored(reader: Reader) -> dict[str, bytes]:
    """What the pieces say; each byte must come exactly once."""
    disks = {device.dev_id: bytearray(b"\xee" * device.size) for device in reader.header.devices}
    seen = {device.dev_id: bytearray(device.size) for device in reader.header.devices}
    for dev_id, offset, data, length in reader.pieces():
        assert length > 0
        assert data is None or (data.readonly and data.nbytes == length)
        assert offset + length <= len(disks[dev_id])
        assert not any(seen[dev_id][offset : offset + length])
        seen[dev_id][offset : offset + length] = b"\1" * length
        disks[dev_id][offset : offset + length] = bytes(length) if data is None else data
    assert all(all(each) for each in seen.values())
    return {device.name: bytes(disks[device.dev_id]) for device in reader.header.devices}


def read(raw: bytes) -> list[Piece]:
    return list(Reader(io.BytesIO(raw).read).pieces())


def refused(raw: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason) as caught:
        read(raw)
    assert caught.value.hint


SIZES = st.one_of(
    st.integers(1, 5 * CLUSTER),
    st.sampled_from([1, 511, 512, BLOCK, BLOCK + 1, CLUSTER - 1, CLUSTER, CLUSTER + 1, 540672, 2 * CLUSTER]),
)


@settings(deadline=None, max_examples=120)
@given(
    st.lists(SIZES, max_size=4),
    st.randoms(use_true_random=False),
    st.lists(st.integers(1, 59), max_size=6),
    st.booleans(),
)
def test_any_order_of_any_clusters(
    sizes: list[int], rng: random.Random, extents: list[int], shuffle: bool
) -> None:
    disks = {dev: content(size, rng.randrange(2**32)) for dev, size in enumerate(sizes, start=1)}
    slots = [slot for dev, data in disks.items() for slot in oracle.slots_of(dev, data)]
    if shuffle:
        rng.shuffle(slots)
    names = {dev: (f"drive-scsi{dev}", len(data)) for dev, data in disks.items()}
    raw = oracle.stream(oracle.header([], names), slots, extents)
    reader = Reader(short_reads(raw, rng.randrange(2**32)))
    assert restored(reader) == {f"drive-scsi{dev}": data for dev, data in disks.items()}
    assert reader.bytes_read == len(raw)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 0xFFFF), st.integers(1, CLUSTER))
def test_any_mask(mask: int, size: int) -> None:
    """Also one that gives blocks of zeros, and garbage in the padding of the last block."""
    mask &= (1 << -(-size // BLOCK)) - 1
    blocks = [b"\1" * BLOCK if mask >> bit & 1 else bytes(BLOCK) for bit in range(16)]
    data = b"".join(block for block in blocks if any(block))
    raw = oracle.stream(one(size), [Slot(1, 0, mask, data)])
    assert restored(Reader(io.BytesIO(raw).read)) == {"drive-scsi0": b"".join(blocks)[:size]}


def test_neighbours_are_joined() -> None:
    disk = b"\1" * (2 * CLUSTER + 3 * BLOCK) + bytes(CLUSTER - 3 * BLOCK) + bytes(5 * CLUSTER) + b"\2" * 100
    raw = oracle.stream(one(len(disk)), oracle.slots_of(1, disk))
    pieces = read(raw)
    cut = 2 * CLUSTER + 3 * BLOCK
    assert [(offset, length, data is None) for _, offset, data, length in pieces] == [
        (0, cut, False),
        (cut, 8 * CLUSTER - cut, True),
        (8 * CLUSTER, 100, False),
    ]


def test_an_extent_is_put_into_order() -> None:
    """Zeros are joined wherever they came in the extent; data only where it lies together."""
    disk = b"\1" * CLUSTER + b"\2" * CLUSTER + bytes(2 * CLUSTER)
    slots = oracle.slots_of(1, disk)
    pieces = read(oracle.stream(one(len(disk)), [slots[3], slots[1], slots[2], slots[0]]))
    assert [(piece.offset, piece.length) for piece in pieces] == [
        (0, CLUSTER),
        (CLUSTER, CLUSTER),
        (2 * CLUSTER, 2 * CLUSTER),
    ]


def test_zeros_are_joined_across_extents_but_not_for_ever() -> None:
    size = 3 * ZERO_PIECE + 5
    slots = [Slot(1, cluster, 0) for cluster in range(-(-size // CLUSTER))]
    pieces = read(oracle.stream(one(size), slots))
    assert sum(piece.length for piece in pieces) == size
    assert len(pieces) == 3
    assert max(piece.length for piece in pieces) < ZERO_PIECE + 59 * CLUSTER


def test_zeros_of_two_devices_are_not_joined() -> None:
    """Where one ends the other goes on, in one extent and across two."""
    sizes = {1: ("drive-scsi0", CLUSTER), 2: ("drive-scsi1", 2 * CLUSTER)}
    slots = [Slot(1, 0, 0), Slot(2, 1, 0), Slot(2, 0, 1, b"\1" * BLOCK)]
    for extents in ([2], [1, 1]):
        reader = Reader(io.BytesIO(oracle.stream(oracle.header([], sizes), slots, extents)).read)
        assert restored(reader) == {
            "drive-scsi0": bytes(CLUSTER),
            "drive-scsi1": b"\1" * BLOCK + bytes(2 * CLUSTER - BLOCK),
        }


def test_zeros_apart_are_not_joined() -> None:
    slots = [Slot(1, 0, 0), Slot(1, 2, 0), Slot(1, 1, 1, b"\1" * BLOCK)]
    for extents in ([2], [1, 1]):
        reader = Reader(io.BytesIO(oracle.stream(one(3 * CLUSTER), slots, extents)).read)
        expected = bytes(CLUSTER) + b"\1" * BLOCK + bytes(2 * CLUSTER - BLOCK)
        assert restored(reader) == {"drive-scsi0": expected}


def test_data_is_not_copied_when_it_comes_whole() -> None:
    disk = content(59 * CLUSTER, 1, zeros=0)
    pieces = read(oracle.stream(one(len(disk)), oracle.slots_of(1, disk)))
    assert len(pieces) == 1
    assert pieces[0].data is not None
    assert isinstance(pieces[0].data.obj, bytes)


def test_a_full_mask_on_the_last_cluster() -> None:
    """QEMU's reader cuts it to the device's size; any other block beyond the end it refuses."""
    size = CLUSTER + 3 * BLOCK
    slots = [Slot(1, 0, 0), Slot(1, 1, 0xFFFF, b"\5" * CLUSTER)]
    assert restored(Reader(io.BytesIO(oracle.stream(one(size), slots)).read)) == {
        "drive-scsi0": bytes(CLUSTER) + b"\5" * 3 * BLOCK
    }
    for mask in (0b1000, 0x8000, 0x7FFF):
        slots[1] = Slot(1, 1, mask, b"\5" * BLOCK * mask.bit_count())
        refused(oracle.stream(one(size), slots), "beyond the end")


def test_no_disks() -> None:
    """QEMU then writes one extent without clusters."""
    head = oracle.header([("qemu-server.conf", b"a")], {})
    assert read(head) == []
    assert read(head + oracle.extent([])) == []
    refused(head + oracle.extent([]) * 100, "without content")


def test_the_guests_memory_is_skipped() -> None:
    """Its size says nothing about how much there is; it must be in order."""
    head = oracle.header([], {1: ("vmstate", 512), 2: ("drive-scsi0", CLUSTER)})
    disk = b"\7" * CLUSTER
    memory = [Slot(1, index, 1 << index, b"\1" * BLOCK) for index in range(4)]
    slots = [*memory[:2], *oracle.slots_of(2, disk), *memory[2:]]
    [piece] = read(oracle.stream(head, slots, [2]))
    assert (piece.dev_id, piece.data) == (2, disk)
    assert len(read(oracle.stream(head, oracle.slots_of(2, disk)))) == 1
    refused(oracle.stream(head, [memory[1], *oracle.slots_of(2, disk)]), "not in order")


def test_a_cluster_twice() -> None:
    slots = [Slot(1, cluster, 0) for cluster in range(100)]
    refused(oracle.stream(one(100 * CLUSTER), [*slots, slots[7]]), "458752 of “drive-scsi0” come twice")
    refused(oracle.stream(one(100 * CLUSTER), [*slots[:5], slots[4], *slots[5:]]), "come twice")


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 100])
def test_a_cluster_missing(count: int) -> None:
    size = count * CLUSTER - 1000
    head = oracle.header([], {1: ("drive-scsi0", size), 9: ("drive-scsi1", 1)})
    slots = [Slot(9, 0, 0), *(Slot(1, cluster, 0) for cluster in range(count))]
    assert read(oracle.stream(head, slots))
    for gone in range(count):
        left = [slot for slot in slots if (slot.dev, slot.cluster) != (1, gone)]
        refused(
            oracle.stream(head, left),
            f"lacks 1 of its {count} pieces of 64 KiB, the first at {gone * CLUSTER}\\.$",
        )
    refused(oracle.stream(head, slots[1:]), "“drive-scsi1” lacks")
    refused(head, "lacks")


DISK = content(3 * CLUSTER + 700, 3)
HEAD = one(len(DISK))
SLOTS = oracle.slots_of(1, DISK)
GOOD = oracle.stream(HEAD, SLOTS, [2])


def test_cut_anywhere() -> None:
    for length in (*range(len(HEAD), len(HEAD) + 600), *range(len(HEAD), len(GOOD), 509), len(GOOD) - 1):
        refused(GOOD[:length], "ended too early")


def test_something_follows() -> None:
    refused(GOOD + b"\n", "ended too early")
    refused(GOOD + bytes(512), "does not start where it should")
    refused(GOOD + GOOD[len(HEAD) :], "come twice")


def test_every_byte_of_an_extent_header_flipped() -> None:
    for at in range(512):
        for bits in (0x01, 0x80, 0xFF):
            bad = bytearray(GOOD)
            bad[len(HEAD) + at] ^= bits
            refused(bytes(bad), "VMA stream")


@settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 7), st.integers(40, 40 + 8 * 4), st.integers(0, 504)),
            st.binary(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_liar_with_a_right_checksum(edits: list[tuple[int, bytes]]) -> None:
    bad = bytearray(GOOD)
    for at, data in edits:
        bad[len(HEAD) + at : len(HEAD) + at + len(data)] = data
    bad[len(HEAD) : len(HEAD) + 512] = oracle.sealed(bad[len(HEAD) : len(HEAD) + 512], 24)
    with suppress(ProtocolError):
        assert len(restored(Reader(io.BytesIO(bytes(bad)).read))["drive-scsi0"]) == len(DISK)


def test_lies_of_an_extent() -> None:
    first = SLOTS[0]
    for raw, reason in (
        (oracle.extent([first], blocks=first.mask.bit_count() + 1), "number of blocks"),
        (oracle.extent([first], blocks=0xFFFF), "number of blocks"),
        (oracle.extent([first], uuid=bytes(16)), "another stream"),
        (oracle.sealed(b"VMAE\0\1" + oracle.extent([Slot(1, 0, 0)])[6:], 24), "start where it should"),
        (oracle.extent([Slot(2, 0, 0)]), "unknown disk 2"),
        (oracle.extent([Slot(0, 0, 1, bytes(BLOCK))]), "unknown disk 0"),
        (oracle.extent([Slot(255, 0, 0)]), "unknown disk 255"),
        (oracle.extent([Slot(1, 0, 0, reserved=1)]), "unknown disk"),
        (oracle.extent([Slot(1, 4, 0)]), "beyond the end"),
        (oracle.extent([Slot(1, 2**32 - 1, 0)]), "beyond the end"),
    ):
        refused(HEAD + raw, reason)


def test_nothing_of_a_wrong_extent_is_used() -> None:
    raw = HEAD + oracle.extent([SLOTS[0], SLOTS[1], Slot(1, 99, 0)])
    pieces = Reader(io.BytesIO(raw).read).pieces()
    with pytest.raises(ProtocolError):
        next(pieces)


def test_claims_cost_nothing_before_content_is_asked_for() -> None:
    head = oracle.header([], {dev: (f"drive-{dev}", 2**48) for dev in range(1, 255)})
    assert len(Reader(io.BytesIO(head).read, limit=2**60).header.devices) == 254


def test_a_stream_is_read_once() -> None:
    reader = Reader(io.BytesIO(GOOD).read)
    list(reader.pieces())
    with pytest.raises(ValueError, match="once"):
        reader.pieces()


def test_what_read_raises_passes_through() -> None:
    source = io.BytesIO(GOOD)

    def broken(size: int) -> bytes:
        if source.tell() > len(HEAD) + 600:
            raise HostUnreachable("gone")
        return source.read(min(size, 500))

    reader = Reader(broken)
    with pytest.raises(HostUnreachable, match="gone"):
        list(reader.pieces())


def test_read_must_not_give_more_than_asked_for() -> None:
    with pytest.raises(ValueError, match="more than it was asked for"):
        Reader(lambda size: bytes(size + 1))
