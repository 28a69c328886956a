from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.demo.ext4 import FileSystem
from vmconsole.demo.ext4_layout import BLOCK, has_superblock

MIB = 1024 * 1024
NOW = 1_700_000_000
Fsck = Callable[..., None]
Dump = Callable[[Path, str], bytes]


class ImageFile:
    """A Device on a sparse file that remembers which blocks were written."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.written: set[int] = set()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(self._fd, size)

    def write_many(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        for offset, data in pieces:
            os.pwrite(self._fd, data, offset)
            self.written.update(range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1))

    def zero(self, offset: int, length: int) -> None:
        self.write_many([(offset, bytes(length))])

    def grow(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def image(tmp_path: Path):  # type: ignore[no-untyped-def]
    device = ImageFile(tmp_path / "disk.img", 64 * MIB)
    yield device
    device.close()


def make(device: ImageFile, size: int = 64 * MIB, **options: int) -> FileSystem:
    return FileSystem(device, size, uuid=b"0123456789abcdef", label="test", time=NOW, **options)


def test_an_empty_file_system_is_clean(image: ImageFile, fsck: Fsck) -> None:
    make(image)
    fsck(image.path)


def test_content_owner_mode_and_time_arrive(image: ImageFile, fsck: Fsck, dump: Dump, stat: Callable) -> None:  # type: ignore[type-arg]
    system = make(image)
    content = random.Random(1).randbytes(3 * MIB + 17)
    system.make_directory("/home", mode=0o710, owner=(1000, 100_000))
    system.write_file("/home/data", content, mode=0o4640, owner=(70_000, 1000), mtime=2**33 + 5)
    system.symlink("/home/short", "data")
    system.symlink("/home/long", "x" * 200)
    system.sync()
    fsck(image.path)
    assert dump(image.path, "/home/data") == content
    look = stat(image.path, "/home/data")
    assert "Mode:  04640" in look
    assert "User: 70000   Group:  1000" in look
    assert "Size: 3145745" in look
    # 2**33 + 5 seconds, in the year 2242: the epoch bits are read back.
    assert "2242" in look
    assert 'Fast link dest: "data"' in stat(image.path, "/home/short")
    assert dump(image.path, "/home/long") == b"x" * 200
    directory = stat(image.path, "/home")
    assert "Mode:  0710" in directory
    assert "Group: 100000" in directory


def test_changes_stay_clean_and_right(image: ImageFile, fsck: Fsck, dump: Dump) -> None:
    system = make(image)
    dice = random.Random(2)
    system.write_file("/table", dice.randbytes(100 * BLOCK + 100))
    system.make_directory("/many")
    for number in range(400):
        system.write_file(f"/many/a file with a rather long name {number:04}", b"x" * number)
    system.sync()
    fsck(image.path)
    for number in range(0, 400, 3):
        system.remove(f"/many/a file with a rather long name {number:04}")
    system.append("/table", b"tail" * 3000)
    system.overwrite("/table", 5000, b"over")
    system.zero_range("/table", 2 * BLOCK, 10 * BLOCK)
    system.sync()
    system.trim()
    fsck(image.path)
    # Into the holes that the removed files left: an extent tree with leaves.
    system.write_file("/pieces", dice.randbytes(300 * BLOCK))
    system.write_file("/many/a file with a rather long name 0001", b"replaced")
    system.sync()
    fsck(image.path)
    expected = bytearray(random.Random(2).randbytes(100 * BLOCK + 100) + b"tail" * 3000)
    expected[5000:5004] = b"over"
    expected[2 * BLOCK : 12 * BLOCK] = bytes(10 * BLOCK)
    assert dump(image.path, "/table") == bytes(expected)
    assert dump(image.path, "/many/a file with a rather long name 0001") == b"replaced"


def test_a_file_in_many_pieces(image: ImageFile, fsck: Fsck, dump: Dump) -> None:
    system = make(image)
    free = system.free_blocks
    for number in range(free // 2):
        system.append("/kept", b"k" * BLOCK) if number else system.write_file("/kept", b"k" * BLOCK)
        system.append("/gone", b"g" * BLOCK) if number else system.write_file("/gone", b"g" * BLOCK)
        if number == 999:
            break
    system.remove("/gone")
    system.sync()
    filler = system.free_blocks - 900
    system.write_file("/filler", bytes(filler * BLOCK))
    content = random.Random(3).randbytes(890 * BLOCK)
    system.write_file("/scattered", content)
    system.sync()
    fsck(image.path)
    assert dump(image.path, "/scattered") == content
    system.write_file("/scattered", b"short")
    system.sync()
    fsck(image.path)
    assert dump(image.path, "/scattered") == b"short"


def test_it_grows_over_new_groups(image: ImageFile, fsck: Fsck, dump: Dump) -> None:
    system = make(image)
    system.write_file("/before", b"before")
    image.grow(400 * MIB)
    system.grow(400 * MIB)
    content = random.Random(4).randbytes(70 * MIB)
    system.write_file("/after", content)
    system.sync()
    fsck(image.path)
    assert dump(image.path, "/before") == b"before"
    assert dump(image.path, "/after") == content


def test_the_same_changes_give_the_same_blocks(tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        device = ImageFile(tmp_path / name, 64 * MIB)
        system = make(device)
        system.write_file("/a", b"a" * 10_000)
        system.remove("/a")
        system.write_file("/b", b"b" * 20_000)
        system.sync()
        device.close()
        images.append((tmp_path / name).read_bytes())
    assert images[0] == images[1]


def test_a_small_change_touches_few_blocks(image: ImageFile) -> None:
    system = make(image)
    for number in range(100):
        system.write_file(f"/file {number}", b"x" * 50_000)
    system.sync()
    image.written.clear()
    system.sync()
    assert not image.written
    system.append("/file 50", b"y" * 100)
    system.sync()
    # One of data, one of the inode table, superblock and descriptors.
    assert len(image.written) <= 4
    image.written.clear()
    system.write_file("/new", b"z" * BLOCK)
    system.sync()
    assert len(image.written) <= 8


def test_metadata_on_disk_never_points_at_new_content(tmp_path: Path, fsck: Fsck) -> None:
    """Without a sync in between, what was freed is not written to: a cut at any moment is clean."""
    device = ImageFile(tmp_path / "disk.img", 64 * MIB)
    system = make(device)
    system.make_directory("/folder")
    system.write_file("/folder/old", b"o" * MIB)
    system.sync()
    system.remove("/folder/old")
    system.remove("/folder")
    system.write_file("/new", b"\xff" * (4 * MIB))
    fsck(device.path)
    system.sync()
    fsck(device.path)
    device.close()


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda system: system.write_file("/no/file", b""), errno.ENOENT),
        (lambda system: system.make_directory("/lost+found"), errno.EEXIST),
        (lambda system: system.write_file("/file/below", b""), errno.ENOTDIR),
        (lambda system: system.remove("/nothing"), errno.ENOENT),
        (lambda system: system.remove("/folder"), errno.ENOTEMPTY),
        (lambda system: system.append("/folder", b"x"), errno.EINVAL),
        (lambda system: system.write_file("/" + "n" * 256, b""), errno.EINVAL),
        (lambda system: system.symlink("/link", ""), errno.EINVAL),
        (lambda system: system.overwrite("/file", 3, b"four"), errno.EFBIG),
        (lambda system: system.write_file("/big", bytes(65 * MIB)), errno.ENOSPC),
        (lambda system: system.grow(32 * MIB), errno.EINVAL),
    ],
)
def test_it_refuses_like_a_real_one(
    image: ImageFile, change: Callable[[FileSystem], None], number: int
) -> None:
    system = make(image)
    system.write_file("/file", b"four")
    system.make_directory("/folder")
    system.make_directory("/folder/inner")
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is looked at below)
        change(system)
    assert caught.value.errno == number


def test_it_runs_out_of_inodes(image: ImageFile, fsck: Fsck) -> None:
    system = make(image, inodes_per_group=32)
    # Ten are reserved, one is lost+found.
    for number in range(21):
        system.write_file(f"/{number}", b"")
    with pytest.raises(OSError, match="no inodes"):
        system.write_file("/one too many", b"")
    system.sync()
    fsck(image.path)


def test_superblock_copies_are_where_the_format_wants_them() -> None:
    assert [group for group in range(30) if has_superblock(group)] == [0, 1, 3, 5, 7, 9, 25, 27]


NAMES = st.text(
    st.characters(exclude_characters='/\0"\n', exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..", "lost+found") and len(name.encode()) <= 255)
LEAVES = st.one_of(
    st.binary(max_size=3 * BLOCK),
    st.integers(0, 40 * BLOCK),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=90),
)
TREES = st.dictionaries(NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=4)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, seconds=st.integers(0, 2**33))
def test_any_tree(tree: dict[str, object], seconds: int, tmp_path: Path, fsck: Fsck, dump: Dump) -> None:
    device = ImageFile(tmp_path / "tree.img", 64 * MIB)
    system = make(device)
    files: dict[str, bytes] = {}

    def build(path: str, node: object) -> None:
        if isinstance(node, dict):
            if path:
                system.make_directory(path, mtime=seconds)
            for name, below in node.items():
                build(f"{path}/{name}", below)
        elif isinstance(node, str):
            system.symlink(path, node, mtime=seconds)
        else:
            files[path] = node if isinstance(node, bytes) else random.Random(node).randbytes(node)  # type: ignore[arg-type]
            system.write_file(path, files[path], mtime=seconds)

    build("", tree)
    system.sync()
    try:
        fsck(device.path)
        for path, content in list(files.items())[:5]:
            assert dump(device.path, path) == content
        for path in files:
            system.remove(path)
        system.trim()
        fsck(device.path)
    finally:
        device.close()
