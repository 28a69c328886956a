"""Sparse files: right bytes, holes where nothing is, and nothing overwritten."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.disks.sparse import BLOCK, SparseFile, zero_runs
from vmconsole.errors import GuestExists, RestoreFailed

MIB = 1024 * 1024


def test_a_disk_with_holes(tmp_path: Path) -> None:
    path, content = tmp_path / "disk.raw", bytearray(64 * MIB)
    content[5 * MIB : 6 * MIB] = random.Random(1).randbytes(MIB)
    content[20 * MIB + 100] = 1
    with SparseFile(path, len(content)) as file:
        for offset in range(0, len(content), MIB):
            file.write(offset, content[offset : offset + MIB])
        assert file.bytes_written == MIB + BLOCK
    assert path.read_bytes() == content
    assert path.stat().st_blocks * 512 <= 2 * MIB
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_and_an_untouched_disk(tmp_path: Path) -> None:
    for size in (0, 1, 12345):
        with SparseFile(tmp_path / f"{size}", size):
            pass
        assert (tmp_path / f"{size}").read_bytes() == bytes(size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5 * BLOCK), st.integers(0, 3 * BLOCK), st.booleans()), max_size=12),
    st.integers(0, 2**32),
)
def test_any_writes_in_any_order(tmp_path: Path, writes: list[tuple[int, int, bool]], name: int) -> None:
    """Also zeros over what was written before."""
    size, path = 8 * BLOCK, tmp_path / f"disk-{name}"
    path.unlink(missing_ok=True)
    model = bytearray(size)
    with SparseFile(path, size) as file:
        for offset, length, zero in writes:
            data = bytes(length) if zero else b"\1" * length
            model[offset : offset + length] = data
            file.write(offset, memoryview(data))
    assert path.read_bytes() == model


@given(st.integers(0, 2 * BLOCK), st.lists(st.tuples(st.booleans(), st.integers(1, 2 * BLOCK)), max_size=6))
def test_zero_runs(offset: int, parts: list[tuple[bool, int]]) -> None:
    data = b"".join((b"\0" if zero else b"\1") * length for zero, length in parts)
    position = offset
    previous = None
    for start, length, is_zero in zero_runs(offset, data):
        assert start == position
        assert length > 0
        assert is_zero is not previous
        part = data[start - offset : start - offset + length]
        assert not is_zero or part == bytes(length)
        blocks = range(start - start % BLOCK, start + length, BLOCK)
        for block in blocks:
            inside = data[max(block - offset, 0) : block - offset + BLOCK]
            assert is_zero is (inside == bytes(len(inside)))
        position, previous = start + length, is_zero
    assert position == offset + len(data)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_text("precious")
    with pytest.raises(GuestExists, match="never overwrites"):
        SparseFile(path, 10)
    link = tmp_path / "link.raw"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GuestExists):
        SparseFile(link, 10)
    assert path.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RestoreFailed, match="No such file") as caught:
        SparseFile(tmp_path / "a folder" / "disk.raw", 10)
    assert caught.value.hint == f"Make the folder first: mkdir -p '{tmp_path}/a folder'"


def test_an_error_removes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"

    def work() -> None:
        with SparseFile(path, MIB) as file:
            file.write(0, b"x")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert not path.exists()


def test_a_file_that_took_its_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    file = SparseFile(path, MIB)
    path.unlink()
    path.write_text("precious")
    file.abort()
    file.abort()
    file.close()
    assert path.read_text() == "precious"


def test_writes_outside_are_a_mistake_of_ours(tmp_path: Path) -> None:
    with SparseFile(tmp_path / "disk.raw", 10) as file:
        for offset, length in ((-1, 1), (10, 1), (0, 11)):
            with pytest.raises(ValueError, match="outside"):
                file.write(offset, bytes(length))
    with pytest.raises(ValueError, match="negative"):
        SparseFile(tmp_path / "other.raw", -1)


def test_a_full_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "disk.raw"
    file = SparseFile(path, MIB)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RestoreFailed, match="No space left on device") as caught:
        file.write(0, b"x")
    assert "df -h" in caught.value.hint
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RestoreFailed, match="No space left"):
        file.close()
    assert not path.exists()


def test_a_disk_larger_than_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with pytest.raises(RestoreFailed, match="cannot be written"):
        SparseFile(path, 2**63 - 1)
    assert not path.exists()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:1000], offset))
    content = random.Random(2).randbytes(10_000)
    with SparseFile(tmp_path / "disk.raw", 10_000) as file:
        file.write(0, content)
    assert (tmp_path / "disk.raw").read_bytes() == content
