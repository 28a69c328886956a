"""Random access to disks inside archives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from borg_lab import CHUNK, CUT, DISK, Lab, name, noise, point

from vmconsole.borg.engine.fetching import ChunkCache
from vmconsole.errors import PointNotFound, RepositoryDamaged
from vmconsole.interfaces import DiskWriter
from vmconsole.model.extent import Content, Extent
from vmconsole.model.point import RestorePoint

SIZE = 20 * CHUNK + 999
IMAGE = noise(8 * CHUNK) + bytes(6 * CHUNK) + noise(SIZE - 14 * CHUNK, 1)


@pytest.fixture
def filled(lab: Lab) -> Lab:
    lab.write(name(0), SIZE, lambda disk: disk.data(0, IMAGE))
    return lab


def test_any_range(filled: Lab) -> None:
    source = random.Random(1)
    with filled.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        assert disk.size == SIZE
        for _ in range(300):
            offset = source.choice([source.randrange(SIZE), source.randrange(20) * CHUNK])
            length = source.choice([0, 1, 512, CHUNK, 3 * CHUNK + 5, SIZE])
            assert disk.read_at(offset, length) == IMAGE[offset : offset + length]
        assert disk.read_at(SIZE, 10) == disk.read_at(SIZE + 10**9, 10) == b""
        assert disk.read_at(SIZE - 3, 10) == IMAGE[-3:]
        with pytest.raises(ValueError, match="negative"):
            disk.read_at(-1, 10)


def test_many_threads(filled: Lab) -> None:
    with filled.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)

        def read(seed: int) -> bool:
            source = random.Random(seed)
            ranges = [(source.randrange(SIZE), source.randrange(3 * CHUNK)) for _ in range(40)]
            return all(
                disk.read_at(offset, length) == IMAGE[offset : offset + length] for offset, length in ranges
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(8)))


def test_zero_chunks_are_not_fetched_and_others_once(filled: Lab) -> None:
    with filled.repository.reader() as reader:
        cache: ChunkCache = reader._cache  # type: ignore[attr-defined] - the engine's own reader
        disk = reader.open_disk(name(0), DISK)
        before = cache.fetched
        assert disk.read_at(8 * CHUNK, 6 * CHUNK) == bytes(6 * CHUNK)
        assert cache.fetched == before
        for _ in range(3):
            assert disk.read_at(2 * CHUNK, 2 * CHUNK) == IMAGE[2 * CHUNK : 4 * CHUNK]
        assert cache.fetched == before + 2
        for offset in range(0, SIZE, 10_000):
            assert disk.read_at(offset, 10_000) == IMAGE[offset : offset + 10_000]
        assert cache.fetched <= before + 21 - 6


def test_memory_is_bounded(filled: Lab) -> None:
    with filled.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        small = ChunkCache(reader._access, limit=3 * CHUNK)  # type: ignore[attr-defined] - the engine's own reader
        try:
            disk._cache = small  # type: ignore[attr-defined]
            assert disk.read_at(0, SIZE) == IMAGE
            assert small._bytes <= 3 * CHUNK
            assert disk.read_at(0, SIZE) == IMAGE
        finally:
            small.close()


def test_a_chunk_that_fails_is_tried_again(filled: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        access = reader._access  # type: ignore[attr-defined] - the engine's own reader
        get_many = access.repository.get_many

        def broken(ids: list[bytes]) -> list[bytes]:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(access.repository, "get_many", broken)
        for _ in range(2):
            with pytest.raises(Exception, match="Input/output error"):
                disk.read_at(0, 2 * CHUNK)
        monkeypatch.setattr(access.repository, "get_many", get_many)
        assert disk.read_at(0, 2 * CHUNK) == IMAGE[: 2 * CHUNK]


def test_extents_and_changes_come_from_the_lists(filled: Lab) -> None:
    def fill(disk: DiskWriter) -> None:
        disk.reuse(0, CHUNK)
        disk.zero(CHUNK, CHUNK)
        disk.data(2 * CHUNK, noise(CHUNK, 5))
        disk.reuse(3 * CHUNK, SIZE - 3 * CHUNK)

    filled.write(name(1), SIZE, fill, parent=name(0))
    with filled.repository.reader() as reader:
        old, new = reader.open_disk(name(0), DISK), reader.open_disk(name(1), DISK)
        assert list(old.extents()) == [
            Extent(0, 8 * CHUNK, Content.DATA),
            Extent(8 * CHUNK, 6 * CHUNK, Content.ZERO),
            Extent(14 * CHUNK, SIZE - 14 * CHUNK, Content.DATA),
        ]
        assert list(new.changed_since(old)) == [  # type: ignore[attr-defined] - the engine's own reader
            Extent(CHUNK, CHUNK, Content.ZERO),
            Extent(2 * CHUNK, CHUNK, Content.DATA),
        ]
        assert reader._cache.fetched == 0  # type: ignore[attr-defined]


def test_what_is_not_there(filled: Lab) -> None:
    with filled.repository.reader() as reader:
        for archive, path in ((name(5), DISK), (name(0), "disks/sda.raw")):
            with pytest.raises(PointNotFound):
                reader.open_disk(archive, path)
        with pytest.raises(PointNotFound):
            reader.files(name(5))


# --- restore points ------------------------------------------------------------------------------


def test_points_are_newest_first_and_foreign_archives_left_out(lab: Lab) -> None:
    lab.borg("create", "::somebody-elses", "/etc/hostname")
    lab.borg("create", "--stdin-name", "guest.json", "::looks-like-ours", "-")
    for day in (3, 1, 2):
        lab.write(name(day), CHUNK, lambda disk: disk.zero(0, CHUNK))
    with lab.repository.reader() as reader:
        found = reader.points()
        assert [made.archive for made in found] == [name(3), name(2), name(1)]
        assert all(made.archive_id for made in found)
        assert found[0].disks == point(name(3), {DISK: CHUNK}).disks
        assert reader.files("somebody-elses") == {"etc/hostname": Path("/etc/hostname").read_bytes()}


def test_a_renamed_archive_is_known_by_its_present_name(lab: Lab) -> None:
    lab.write(name(0), CHUNK, lambda disk: disk.zero(0, CHUNK))
    lab.borg("rename", f"::{name(0)}", "renamed")
    with lab.repository.reader() as reader:
        (found,) = reader.points()
        assert found.archive == "renamed"
        assert reader.open_disk("renamed", DISK).size == CHUNK


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda document: document | {"schema": 99}, "schema version 99"),
        (lambda document: document | {"time": "2026-01-01T00:00:00"}, "time without zone"),
        (lambda document: {"schema": 1}, "cannot be read"),
        (lambda document: [document], "cannot be read"),
    ],
)
def test_an_unreadable_point_hides_no_other(
    lab: Lab, spoil: Callable[[object], object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab.write(name(0), CHUNK, lambda disk: disk.zero(0, CHUNK))
    real = RestorePoint.to_json
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RestorePoint, "to_json", lambda point: spoil(real(point)))
        lab.write(name(1), CHUNK, lambda disk: disk.zero(0, CHUNK))
    with lab.repository.reader() as reader:
        assert [made.archive for made in reader.points()] == [name(0)]
    assert said in caplog.text


def test_a_repaired_disk_is_no_restore(filled: Lab) -> None:
    """borg check --repair puts zeros where a chunk was lost; nobody may take that for the disk."""
    filled.borg("debug", "delete-obj", filled.settings.target, lost_chunk(filled))
    filled.borg_repair()
    with filled.repository.reader() as reader, pytest.raises(RepositoryDamaged, match="lost data"):
        reader.open_disk(name(0), DISK)


def lost_chunk(lab: Lab) -> str:
    with lab.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        id_: bytes = disk.chunks.id_at(3)  # type: ignore[attr-defined] - the engine's own reader
        return id_.hex()


def test_time_of_the_archive_is_the_cut(filled: Lab) -> None:
    listing = json.loads(filled.borg("list", "--json", filled.settings.target).stdout)
    assert listing["archives"][0]["time"].startswith(CUT.astimezone().strftime("%Y-%m-%dT%H:%M:%S"))
