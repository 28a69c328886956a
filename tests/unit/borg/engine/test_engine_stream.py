"""Members of unknown length."""

from __future__ import annotations

import io
import random
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from borg.chunker import Chunker
from borg.constants import CHUNKER_PARAMS
from borg_lab import Lab, name, noise, point, sha, wait_until

from vmconsole.borg.engine import streamwriter
from vmconsole.errors import BackupFailed, Cancelled
from vmconsole.model.extent import Content

TAR = "container/rootfs.tar"
MIB = 1024 * 1024


def write(lab: Lab, archive: str, content: bytes, *, seed: int = 0, path: str = TAR) -> tuple[str, int]:
    """One archive with one stream, written in pieces of all sizes. Returns (sha256, bytes stored)."""
    source = random.Random(seed)
    with lab.repository.writer(lab.context) as writer:
        made = writer.archive(archive)
        stream = made.stream(path)
        position = 0
        while position < len(content):
            length = source.choice([1, 511, 4096, 65536, 700_001, 3 * MIB])
            stream.write(content[position : position + length])
            position += length
        stream.close()
        assert stream.size == len(content)
        made.commit(point(archive, {path: stream.size}), {"config/pct.conf": b"arch: amd64\n"})
        return stream.sha256, stream.bytes_stored


@pytest.mark.parametrize("size", [0, 1, 511, 512 * 1024, 9 * MIB + 17])
def test_comes_back_as_it_was(lab: Lab, size: int) -> None:
    content = noise(size)
    digest, stored = write(lab, name(1), content)
    assert digest == sha(content)
    assert stored >= size
    lab.assert_clean()
    assert lab.read(name(1), TAR) == content
    assert lab.extracted(name(1), TAR) == content


@pytest.mark.parametrize("encryption", ["repokey", "authenticated-blake2"])
def test_other_encryption_modes(make_lab: Any, encryption: str) -> None:
    lab = make_lab(encryption)
    write(lab, name(1), noise(5 * MIB))
    lab.assert_clean()
    assert lab.read(name(1), TAR) == noise(5 * MIB)


def test_the_borg_command_extracts_it(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = noise(4 * MIB) + bytes(20 * MIB) + noise(3 * MIB, 1)
    write(lab, name(1), content)
    monkeypatch.chdir(tmp_path)
    lab.borg("extract", f"::{name(1)}")
    assert (tmp_path / TAR).read_bytes() == content
    lab.borg("check", "--verify-data", lab.settings.target)


def test_is_cut_as_borg_create_does(lab: Lab) -> None:
    content = noise(30 * MIB)
    write(lab, name(1), content)
    with lab.repository.reader() as reader:
        chunks = reader.open_disk(name(1), TAR).chunks
        seed = reader._access.key.chunk_seed
    assert seed
    stock = Chunker(seed, *CHUNKER_PARAMS[1:]).chunkify(io.BytesIO(content))
    wanted = [chunk.meta["size"] for chunk in stock]
    assert [chunks.length_at(index) for index in range(chunks.count)] == wanted
    assert len(wanted) > 3


def test_any_part_can_be_read(lab: Lab) -> None:
    content = noise(7 * MIB) + bytes(17 * MIB) + noise(6 * MIB, 5)
    write(lab, name(1), content)
    source = random.Random(1)
    with lab.repository.reader() as reader:
        disk = reader.open_disk(name(1), TAR)
        for _ in range(50):
            offset = source.randrange(len(content))
            length = source.choice([1, 512, 4096, 3 * MIB])
            assert disk.read_at(offset, length) == content[offset : offset + length]
        (extent,) = disk.extents()
        assert (extent.offset, extent.length, extent.content) == (0, len(content), Content.DATA)


def test_what_moved_is_found_again(lab: Lab) -> None:
    content = noise(24 * MIB)
    _, first = write(lab, name(1), content)
    _, again = write(lab, name(2), content, seed=7)
    _, moved = write(lab, name(3), noise(300_001, 9) + content)
    assert first > 24 * MIB
    assert again == 0
    assert moved < first / 2
    lab.assert_clean()


def test_zeros_cost_next_to_nothing(lab: Lab) -> None:
    _, stored = write(lab, name(1), bytes(40 * MIB))
    assert stored < 100_000
    assert lab.read(name(1), TAR) == bytes(40 * MIB)


def test_disks_and_streams_in_one_archive(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        made = writer.archive(name(1))
        disk, tar, index = made.disk("disks/vda.raw", 5), made.stream(TAR), made.stream("container/index")
        tar.write(b"tar")
        disk.data(0, b"disk!")
        index.write(b"index")
        made.commit(point(name(1), {"disks/vda.raw": 5, TAR: 3}), {"config/x": b"x"})
    lab.assert_clean()
    assert lab.read(name(1), "container/index") == b"index"
    with lab.repository.reader() as reader:
        assert sorted(reader.files(name(1))) == ["config/x", "guest.json"]


def test_a_point_with_another_size_is_refused(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        made = writer.archive(name(1))
        made.stream(TAR).write(b"abc")
        with pytest.raises(BackupFailed, match="would not describe"):
            made.commit(point(name(1), {TAR: 4}), {})
        made.abort()
    lab.assert_clean()
    assert lab.archives() == []


def test_no_path_twice(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        made = writer.archive(name(1))
        made.stream(TAR)
        with pytest.raises(BackupFailed, match="twice"):
            made.stream(TAR)
        with pytest.raises(BackupFailed, match="cannot be added"):
            made.disk(TAR, 5)
        with pytest.raises(BackupFailed, match="path"):
            made.stream("../x")
        made.abort()


def test_an_abort_leaves_nothing_and_no_thread(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        made = writer.archive(name(1))
        made.stream(TAR).write(noise(20 * MIB))
        made.abort()
        assert "borg-stream" not in {thread.name for thread in threading.enumerate()}
    lab.assert_clean()
    assert lab.archives() == []


def test_a_checkpoint_covers_what_is_unfinished(lab: Lab) -> None:
    """Another archive commits in the middle of a stream, and the process dies then."""

    def interrupted() -> None:
        with lab.repository.writer(lab.context) as writer:
            stream = writer.archive(name(1)).stream(TAR)
            stream.write(noise(20 * MIB))
            wait_until(lambda: stream.bytes_stored > 8 * MIB)
            other = writer.archive(name(2, "db"))
            other.stream(TAR).write(b"small")
            other.commit(point(name(2, "db"), {TAR: 5}), {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    lab.assert_clean()


def test_a_cancelled_run_stops_it(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        stream = writer.archive(name(1)).stream(TAR)
        stream.write(noise(3 * MIB))
        lab.cancel.set()
        with pytest.raises(Cancelled):
            stream.write(b"more")
    lab.cancel = type(lab.cancel)()
    lab.assert_clean()


def test_an_error_of_a_worker_reaches_the_writer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.repository.writer(lab.context) as writer:
        made = writer.archive(name(1))
        stream = made.stream(TAR)

        def fail(*_: object) -> tuple[bytes, int]:
            raise BackupFailed("no more")

        monkeypatch.setattr(stream._session, "store", fail)
        stream.write(noise(20 * MIB))
        with pytest.raises(BackupFailed, match="no more"):
            stream.close()
        with pytest.raises(BackupFailed, match="no more"):
            stream.write(b"x")
        made.abort()
    lab.assert_clean()


def test_memory_stays_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamwriter, "WITH_WORKERS", 8 * MIB)
    lab = lab.with_settings(compression="none")
    piece = noise(MIB)
    with lab.repository.writer(lab.context) as writer:
        made = writer.archive(name(1))
        stream = made.stream(TAR)
        tracemalloc.start()
        for number in range(160):
            stream.write(bytes([number]) + piece[1:])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        made.abort()
    assert peak < 64 * MIB


def test_a_member_of_one_chunk_reads_like_others(lab: Lab) -> None:
    write(lab, name(1), b"")
    with lab.repository.reader() as reader:
        disk = reader.open_disk(name(1), TAR)
        assert disk.size == 0
        assert list(disk.extents()) == []
        assert replace(reader.points()[0]).disks[0].path == TAR
