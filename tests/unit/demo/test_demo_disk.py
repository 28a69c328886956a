from __future__ import annotations

import hashlib
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.demo import partition
from vmconsole.demo.backup_job import granule_map
from vmconsole.demo.disk import GRANULE, VirtualDisk, cut, granules, runs

SIZE = 20 * GRANULE + 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[VirtualDisk]:
    made = VirtualDisk(tmp_path / "disk", SIZE)
    yield made
    made.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CHANGES = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"), st.integers(0, SIZE - 1), st.integers(1, 3 * GRANULE), st.integers(1, 255)
        ),
        st.tuples(st.just("zero"), st.integers(0, SIZE - 1), st.integers(1, 5 * GRANULE), st.just(0)),
    ),
    max_size=12,
)


def apply(disk: VirtualDisk, model: bytearray, changes: list[tuple[str, int, int, int]]) -> set[int]:
    touched: set[int] = set()
    for kind, offset, length, value in changes:
        length = min(length, len(model) - offset)
        if kind == "write":
            disk.write_many([(offset, bytes([value]) * length)])
        else:
            disk.zero(offset, length)
        model[offset : offset + length] = bytes([value]) * length
        touched.update(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))
    return touched


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=CHANGES, between=CHANGES, after=CHANGES)
def test_a_snapshot_is_the_disk_at_the_cut(
    before: list[tuple[str, int, int, int]],
    between: list[tuple[str, int, int, int]],
    after: list[tuple[str, int, int, int]],
    tmp_path: Path,
) -> None:
    (tmp_path / "any").unlink(missing_ok=True)
    disk = VirtualDisk(tmp_path / "any", SIZE)
    try:
        model = bytearray(SIZE)
        apply(disk, model, before)
        [(first, witness)] = cut([(disk, "", tmp_path / "s1")], tmp_path, new_bitmap="n1", tracked=[disk])
        witness.sha256()
        first.close()
        parent = bytes(model)
        touched = apply(disk, model, between)
        frozen = bytes(model)
        [(snapshot, witness)] = cut([(disk, "n1", tmp_path / "s2")], tmp_path)
        apply(disk, model, after)
        assert disk.read_at(0, SIZE) == bytes(model)
        assert snapshot.read_at(0, SIZE) == frozen
        assert snapshot.read_at(GRANULE - 7, GRANULE + 9) == frozen[GRANULE - 7 : 2 * GRANULE + 2]
        assert witness.sha256() == sha256(frozen)
        dirty = {number for number, flag in enumerate(snapshot.dirty) if flag}
        assert dirty == touched
        # What an increment stores: the dirty granules over the parent's.
        rebuilt = bytearray(parent)
        for number in dirty:
            rebuilt[number * GRANULE : (number + 1) * GRANULE] = snapshot.read_at(number * GRANULE, GRANULE)
        assert bytes(rebuilt) == frozen
        for number, flag in enumerate(snapshot.allocated):
            assert flag or not any(frozen[number * GRANULE : (number + 1) * GRANULE])
        snapshot.close()
        assert not (tmp_path / "s2").exists()
    finally:
        disk.close()


def test_a_snapshot_stays_while_another_thread_writes(disk: VirtualDisk, tmp_path: Path) -> None:
    disk.write_many([(0, b"a" * SIZE)])
    [(snapshot, witness)] = cut([(disk, "", tmp_path / "s")], tmp_path)
    end = threading.Event()
    rounds = 0

    def write() -> None:
        nonlocal rounds
        while not end.is_set():
            rounds += 1
            disk.write_many([(rounds * 4096 % (SIZE - 4096), b"b" * 4096)])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        digests = {sha256(snapshot.read_at(0, SIZE)) for _ in range(30)}
    finally:
        end.set()
        thread.join()
    assert rounds > 0
    assert digests == {sha256(b"a" * SIZE)} == {witness.sha256()}
    assert snapshot.scratch_bytes
    snapshot.close()
    with pytest.raises(OSError, match="gone"):
        snapshot.read_at(0, 1)


def test_growing_leaves_the_new_part_clean(disk: VirtualDisk, tmp_path: Path) -> None:
    disk.write_many([(0, b"x")])
    disk.bitmaps["n"] = bytearray(granules(SIZE))
    [(snapshot, witness)] = cut([(disk, "n", tmp_path / "s")], tmp_path)
    disk.resize(2 * SIZE)
    assert len(disk.bitmaps["n"]) == granules(2 * SIZE)
    assert disk.dirty_bytes("n") == 0
    assert snapshot.size == SIZE
    disk.write_many([(SIZE + GRANULE, b"y")])
    assert disk.dirty_bytes("n") == GRANULE
    assert snapshot.read_at(SIZE - 10, 100) == bytes(10)
    assert witness.sha256() == sha256(b"x" + bytes(SIZE - 1))
    with pytest.raises(ValueError, match="grows"):
        disk.resize(SIZE)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2)])
def test_a_write_outside_is_refused(disk: VirtualDisk, offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        disk.write_many([(offset, bytes(length))])


@given(st.binary(max_size=60).map(lambda raw: bytes(byte & 1 for byte in raw)), st.integers(0, GRANULE - 1))
def test_a_map_covers_the_disk(flags: bytes, short: int) -> None:
    size = max(len(flags) * GRANULE - short, 0) if flags else 0
    position = 0
    for offset, length, state in granule_map(flags, size, 1, 0):
        assert offset == position
        assert length > 0
        assert set(flags[offset // GRANULE : -(-(offset + length) // GRANULE)]) == {state}
        position += length
    assert position == size
    assert sum(end - first for first, end in runs(flags, 1)) == flags.count(1)


def test_the_partition_table_and_its_copy_agree() -> None:
    size = 64 * 1024 * 1024
    image = bytearray(size)
    for offset, data in partition.table(size, uuid.UUID(int=7), "root"):
        image[offset : offset + len(data)] = data
    assert image[510:512] == b"\x55\xaa"
    last = size // 512 - 1
    for mine, other in ((1, last), (last, 1)):
        header = bytearray(image[mine * 512 : mine * 512 + 92])
        fields = struct.unpack("<8sIIIIQQQQ16sQIII", header)
        assert fields[0] == b"EFI PART"
        assert (fields[5], fields[6]) == (mine, other)
        header[16:20] = bytes(4)
        assert zlib.crc32(header) == fields[3]
        entries = image[fields[10] * 512 : fields[10] * 512 + 128 * 128]
        assert zlib.crc32(entries) == fields[13]
        start, end = struct.unpack_from("<QQ", entries, 32)
        assert start * 512 == partition.START
        assert (end - start + 1) * 512 == partition.partition_size(size)
        assert end <= fields[8]
