"""What the engine writes, stock borg and the engine read alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from borg_lab import CHUNK, CUT, DISK, Lab, name, noise, point, sha

from vmconsole.borg.settings import ENCRYPTIONS
from vmconsole.errors import BackupFailed
from vmconsole.interfaces import DiskWriter
from vmconsole.model.extent import Content, Extent

SIZE = 9 * CHUNK + 4711
IMAGE = (
    noise(2 * CHUNK)
    + bytes(3 * CHUNK)
    + b"text " * (CHUNK // 5)
    + noise(SIZE - 5 * CHUNK - CHUNK // 5 * 5, 7)
)


def whole(image: bytes) -> Callable[[DiskWriter], None]:
    return lambda disk: disk.data(0, image)


@pytest.mark.slow
@pytest.mark.parametrize("encryption", sorted(ENCRYPTIONS))
def test_every_encryption_mode_passes_borg_check_and_extract(
    make_lab: Callable[..., Lab], encryption: str
) -> None:
    lab = make_lab(encryption)
    lab.write(name(0), SIZE, whole(IMAGE))
    changed = bytearray(IMAGE)
    changed[CHUNK + 5 : CHUNK + 9] = b"here"

    def fill(disk: DiskWriter) -> None:
        disk.reuse(0, CHUNK + 5)
        disk.data(CHUNK + 5, b"here")
        disk.reuse(CHUNK + 9, SIZE - CHUNK - 9)

    lab.write(name(1), SIZE, fill, parent=name(0))
    lab.borg("check", "--verify-data", lab.settings.target)
    assert lab.read(name(0)) == IMAGE
    assert sha(lab.borg("extract", "--stdout", f"::{name(1)}", DISK).stdout) == sha(bytes(changed))


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd,1", "zstd,19", "zlib,6", "auto,zstd,3"])
def test_every_compression_is_read_by_borg_and_by_us(make_lab: Callable[..., Lab], compression: str) -> None:
    lab = make_lab(compression=compression)
    lab.write(name(0), SIZE, whole(IMAGE))
    assert lab.read(name(0)) == IMAGE
    assert sha(lab.extracted(name(0))) == sha(IMAGE)
    lab.assert_clean()


def test_borg_sees_an_ordinary_archive(lab: Lab) -> None:
    files = {"firmware/nvram.fd": bytes(100_000) + b"x", "config/libvirt.xml": b"<domain/>"}
    archive_id, _ = lab.write(name(0), SIZE, whole(IMAGE), files=files)
    listing = [
        json.loads(line) for line in lab.borg("list", "--json-lines", f"::{name(0)}").stdout.splitlines()
    ]
    assert [item["path"] for item in listing] == [
        "guest.json",
        "config/libvirt.xml",
        "firmware/nvram.fd",
        DISK,
    ]
    disk = listing[-1]
    assert (disk["type"], disk["mode"], disk["user"], disk["size"]) == ("-", "-rw-------", "root", SIZE)
    assert datetime.fromisoformat(disk["mtime"]).astimezone(UTC) == CUT
    info = json.loads(lab.borg("info", "--json", f"::{name(0)}").stdout)["archives"][0]
    assert info["id"] == archive_id
    assert info["stats"]["nfiles"] == 4
    assert info["stats"]["original_size"] > SIZE
    assert info["chunker_params"] == ["fixed", CHUNK, 0]
    with lab.repository.reader() as reader:
        assert {path: data for path, data in reader.files(name(0)).items() if path != "guest.json"} == files
        (found,) = reader.points()
        assert found.archive_id == archive_id
        assert json.loads(reader.files(name(0))["guest.json"]) == found.to_json()


def test_borgs_cache_stays_in_step(lab: Lab) -> None:
    """`borg delete` trusts the reference counts we leave behind: nothing lost, nothing left over."""
    lab.write(name(0), SIZE, whole(IMAGE))
    lab.write(name(1), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(0))
    lab.borg("delete", f"::{name(0)}")
    lab.assert_clean()
    assert sha(lab.extracted(name(1))) == sha(IMAGE)
    lab.borg("delete", f"::{name(1)}")
    lab.assert_clean()


def test_an_increment_stores_only_what_changed(lab: Lab) -> None:
    _, first = lab.write(name(0), SIZE, whole(IMAGE))
    assert first > 5 * CHUNK

    def fill(disk: DiskWriter) -> None:
        disk.reuse(0, CHUNK)
        disk.data(CHUNK, noise(CHUNK, 99))
        disk.reuse(2 * CHUNK, SIZE - 2 * CHUNK)

    _, second = lab.write(name(1), SIZE, fill, parent=name(0))
    assert CHUNK < second < CHUNK + 1000
    _, third = lab.write(name(2), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(1))
    assert third == 0
    _, again = lab.write(name(3), SIZE, whole(IMAGE))
    assert again == 0


def test_zeros_over_data_are_zeros(lab: Lab) -> None:
    lab.write(name(0), SIZE, whole(IMAGE))

    def fill(disk: DiskWriter) -> None:
        disk.zero(0, CHUNK + 100)
        disk.reuse(CHUNK + 100, SIZE - CHUNK - 100)

    lab.write(name(1), SIZE, fill, parent=name(0))
    assert lab.read(name(1)) == bytes(CHUNK + 100) + IMAGE[CHUNK + 100 :]


def test_zero_data_is_found_to_be_zero_and_stored_once(lab: Lab) -> None:
    _, stored = lab.write(name(0), SIZE, whole(bytes(SIZE)))
    assert stored == 0
    with lab.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        assert list(disk.extents()) == [Extent(0, SIZE, Content.ZERO)]
        assert disk.read_at(0, SIZE) == bytes(SIZE)
    assert lab.extracted(name(0)) == bytes(SIZE)
    lab.assert_clean()


@pytest.mark.parametrize("grown", [1, CHUNK - 4711, CHUNK, 5 * CHUNK + 13])
def test_a_grown_disk(lab: Lab, grown: int) -> None:
    lab.write(name(0), SIZE, whole(IMAGE))
    tail = noise(grown, 3)

    def fill(disk: DiskWriter) -> None:
        disk.reuse(0, SIZE)
        disk.data(SIZE, tail)

    lab.write(name(1), SIZE + grown, fill, parent=name(0))
    assert lab.read(name(1)) == IMAGE + tail


def test_a_shrunk_disk(lab: Lab) -> None:
    lab.write(name(0), SIZE, whole(IMAGE))
    small = 6 * CHUNK + 100
    lab.write(name(1), small, lambda disk: disk.reuse(0, small), parent=name(0))
    assert lab.read(name(1)) == IMAGE[:small]
    lab.assert_clean()


def test_an_empty_disk_and_no_disk(lab: Lab) -> None:
    lab.write(name(0), 0, lambda disk: None)
    assert lab.read(name(0)) == b""
    with lab.repository.writer(lab.context) as writer:
        writer.archive(name(1)).commit(point(name(1), {}), {"config/libvirt.xml": b"<domain/>"})
        assert [made.archive for made in writer.points()] == [name(1), name(0)]
    lab.assert_clean()


def test_several_disks(lab: Lab) -> None:
    sizes = {f"disks/sd{letter}.raw": CHUNK * (index + 1) for index, letter in enumerate("abc")}
    with lab.repository.writer(lab.context) as writer:
        archive = writer.archive(name(0))
        for index, (path, size) in enumerate(sizes.items()):
            disk = archive.disk(path, size)
            disk.data(0, noise(size, index))
            disk.close()
        archive.commit(point(name(0), sizes), {})
    for index, (path, size) in enumerate(sizes.items()):
        assert lab.read(name(0), path) == noise(size, index)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (lambda disk: disk.data(0, noise(SIZE - 1)), "not given completely"),
        (lambda disk: disk.data(1, noise(SIZE - 1)), "not given completely"),
        (lambda disk: disk.zero(0, CHUNK), "not given completely"),
        (lambda disk: (disk.zero(0, SIZE), disk.zero(CHUNK, CHUNK)), "given twice"),
        (lambda disk: (disk.zero(0, 100), disk.data(50, b"x")), "given twice"),
        (lambda disk: (disk.data(10, b"xx"), disk.zero(0, CHUNK)), "given twice"),
        (lambda disk: disk.data(SIZE - 1, b"xx"), "of a disk of"),
        (lambda disk: disk.zero(-1, 10), "of a disk of"),
        (lambda disk: disk.reuse(0, 1), "cannot be reused"),
    ],
)
def test_ranges_must_cover_the_disk_exactly_once(
    lab: Lab, fill: Callable[[DiskWriter], None], said: str
) -> None:
    with pytest.raises(BackupFailed, match=said):
        lab.write(name(0), SIZE, fill)
    assert lab.archives() == []
    lab.assert_clean()


def test_a_parent_must_be_there_aligned_and_long_enough(lab: Lab) -> None:
    lab.write(name(0), SIZE, whole(IMAGE))
    with pytest.raises(BackupFailed, match="parent is gone"):
        lab.write(name(1), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(7))
    with pytest.raises(BackupFailed, match="the parent has"):
        lab.write(name(1), SIZE + 1, lambda disk: disk.reuse(0, SIZE + 1), parent=name(0))
    other = lab.with_settings(chunk_size=2 * CHUNK)
    with pytest.raises(BackupFailed, match=f"uses {2 * CHUNK}"):
        other.write(name(1), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(0))
    lab.assert_clean()


def test_a_stock_archive_cut_at_holes_is_no_parent(lab: Lab) -> None:
    raw = lab.path.parent / "disk.raw"
    with raw.open("wb") as file:
        file.write(noise(CHUNK + 4096))
        file.seek(3 * CHUNK)
        file.write(noise(CHUNK))
    lab.borg("create", "--sparse", "--chunker-params", f"fixed,{CHUNK}", f"::{name(0)}", str(raw))
    with (
        lab.repository.writer(lab.context) as writer,
        pytest.raises(BackupFailed, match="cannot be a parent"),
    ):
        writer.archive(name(1)).disk(DISK, CHUNK, (name(0), str(raw).lstrip("/")))
    assert lab.read(name(0), str(raw).lstrip("/")) == raw.read_bytes()


def test_an_archive_never_describes_what_it_does_not_hold(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        archive = writer.archive(name(0))
        with pytest.raises(BackupFailed, match="would not describe"):
            archive.commit(point(name(0), {DISK: 5}), {})
        with pytest.raises(BackupFailed, match="would not describe"):
            archive.commit(point(name(1), {}), {})
        for path in ("/etc/passwd", "../x", "a/../../b", "", "a//b"):
            with pytest.raises(BackupFailed, match="cannot be the path"):
                archive.commit(point(name(0), {}), {path: b""})
        with pytest.raises(BackupFailed, match="twice"):
            archive.commit(point(name(0), {}), {"guest.json": b""})
    assert lab.archives() == []


@pytest.mark.parametrize("bad", ["a/b", "", "a b", "x" * 201, "a\n", "gone.checkpoint"])
def test_archive_names_that_borg_or_a_shell_would_trip_over(lab: Lab, bad: str) -> None:
    with (
        lab.repository.writer(lab.context) as writer,
        pytest.raises(BackupFailed, match="name of an archive"),
    ):
        writer.archive(bad)


def test_the_same_name_twice(lab: Lab) -> None:
    lab.write(name(0), SIZE, whole(IMAGE))
    with pytest.raises(BackupFailed, match="already has an archive"):
        lab.write(name(0), SIZE, whole(IMAGE))
