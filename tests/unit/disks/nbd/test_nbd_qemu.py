"""The client against the real qemu-nbd."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbd_rig as rig
import pytest

from vmconsole.disks.extents import full_extents, incremental_extents, ranges
from vmconsole.disks.nbd.client import NbdClient, list_exports
from vmconsole.disks.nbd.parallel import read_many
from vmconsole.errors import HostError, HostUnreachable
from vmconsole.model.extent import Content, Extent

pytestmark = pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="needs qemu-nbd and qemu-img")

SIZE = 64 * rig.MIB
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b0"


def qemu_io(image: Path, *commands: str) -> None:
    rig.run("qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), image)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Data, zeros and holes; then a bitmap, and after it changes of every kind."""
    path = tmp_path / "disk.qcow2"
    rig.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    qemu_io(path, "write -P 1 0 8M", "write -P 2 20M 1M", "write -z 30M 1M", "write -P 3 40M 4M")
    qemu_io(path, "write -P 9 63M 1M")
    rig.run("qemu-img", "bitmap", "--add", path, "b0")
    qemu_io(path, "write -P 4 1M 64k", "write -z 41M 128k", "discard 2M 1M", "write -P 5 50M 320k")
    return path


@pytest.fixture
def raw(image: Path) -> bytes:
    target = image.with_suffix(".raw")
    rig.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, target)
    return target.read_bytes()


@pytest.fixture
def served(image: Path, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "nbd"
    with rig.qemu_nbd(path, "-r", "-f", "qcow2", "-B", "b0", "-x", "vda", image):
        yield path


def connect(path: Path, *contexts: str, plain: bool = False) -> NbdClient:
    stream = rig.connect(path)
    return NbdClient.connect(rig.Channel(stream) if plain else stream, "vda", contexts, timeout=10)


def test_what_the_export_says(served: Path) -> None:
    with connect(served, BASE, DIRTY, "qemu:dirty-bitmap:other") as client:
        assert (client.size, client.read_only, client.can_multi_conn) == (SIZE, True, True)
        assert (client.min_block, client.preferred_block, client.max_block) == (1, 4096, 32 * rig.MIB)
        assert client.contexts == (BASE, DIRTY)
    assert list_exports(rig.connect(served)) == ["vda"]


def test_an_export_that_is_not_there(served: Path) -> None:
    with pytest.raises(HostError, match="offers no disk “vdz”"):
        NbdClient.connect(rig.connect(served), "vdz")


def test_the_maps_are_those_of_qemu_img(served: Path) -> None:
    with connect(served, BASE, DIRTY) as client:
        maps = client.block_status()
        part = client.block_status(1000, 20 * rig.MIB)
    options = f"driver=nbd,server.type=unix,server.path={served},export=vda"
    allocation = rig.qemu_map("--image-opts", options)
    assert maps[BASE] == [
        (run["start"], run["length"], 3 if run["zero"] else 0)
        for run in allocation  # qemu-nbd calls every zero a hole here
    ]
    dirty = rig.qemu_map("--image-opts", f"{options},x-dirty-bitmap={DIRTY}")
    assert maps[DIRTY] == [(run["start"], run["length"], int(not run["data"])) for run in dirty]
    assert sum(length for _, length, flags in maps[DIRTY] if flags) == (64 + 128 + 1024 + 320) * rig.KIB
    assert part[DIRTY][0] == (1000, rig.MIB - 1000, 0)
    assert part[DIRTY].end == 1000 + 20 * rig.MIB


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("request_size", "in_flight"), [(1 << 25, 1), (rig.MIB, 16), (10_000, 7)])
def test_everything_is_read(served: Path, raw: bytes, plain: bool, request_size: int, in_flight: int) -> None:
    with connect(served, plain=plain) as client:
        pieces = client.read([(0, SIZE)], request_size=request_size, in_flight=in_flight)
        assert rig.collect(pieces, SIZE) == raw


def test_scattered_ranges_are_read(served: Path, raw: bytes) -> None:
    dice = random.Random(7)
    places = sorted(dice.sample(range(0, SIZE, 512), 3000))
    wanted = [(place, dice.choice((1, 511, 512))) for place in places]
    with connect(served) as client:
        pieces = dict(client.read(iter(wanted)))
    for offset, length in wanted:
        assert pieces[offset] == raw[offset : offset + length]


def test_a_full_and_an_incremental_read_make_the_same_disk(image: Path, served: Path, raw: bytes) -> None:
    """What a backup does: data from the host, zeros from the map, the rest from the parent."""
    parent = bytearray(SIZE)
    for start, length, byte in ((0, 8, 1), (20, 1, 2), (40, 4, 3), (63, 1, 9)):
        parent[start * rig.MIB : (start + length) * rig.MIB] = bytes([byte]) * (length * rig.MIB)
    with connect(served, BASE, DIRTY) as client:
        maps = client.block_status()
        assert _apply(client, full_extents(maps[BASE], SIZE), bytearray(b"?" * SIZE)) == raw
        changed = incremental_extents(maps[BASE], maps[DIRTY], SIZE, SIZE)
        assert any(extent.content is Content.ZERO for extent in changed)
        assert _apply(client, changed, parent) == raw


def _apply(client: NbdClient, extents: list[Extent], disk: bytearray) -> bytearray:
    for offset, length in ranges(extents, Content.ZERO):
        disk[offset : offset + length] = bytes(length)
    for offset, piece in client.read(ranges(extents, Content.DATA)):
        disk[offset : offset + len(piece)] = piece
    return disk


def test_several_connections(served: Path, raw: bytes) -> None:
    clients = [connect(served) for _ in range(3)]
    assert rig.collect(read_many(clients, [(0, SIZE)], request_size=256 * rig.KIB), SIZE) == raw
    assert rig.collect(read_many(clients, [(0, SIZE)]), SIZE) == raw
    for client in clients:
        client.close()


def test_writes_arrive(tmp_path: Path) -> None:
    image, path = tmp_path / "new.qcow2", tmp_path / "nbd"
    rig.run("qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE))
    dice = random.Random(5)
    expected = bytearray(SIZE)
    with rig.qemu_nbd(path, "-f", "qcow2", "--discard=unmap", "-x", "vda", image):
        with connect(path) as client:
            for offset in dice.sample(range(0, SIZE, 65536), 400):
                content = dice.randbytes(dice.choice((1, 512, 65536)))
                expected[offset : offset + len(content)] = content
                client.write(offset, content)
            big = dice.randbytes(3 * rig.MIB)
            client.flush()
            expected[7 : 7 + len(big)] = big
            client.write(7, bytearray(big))
            client.flush()
            expected[0:1000] = bytes(1000)
            expected[50 * rig.MIB :] = bytes(SIZE - 50 * rig.MIB)
            client.write_zeroes(0, 1000)
            client.write_zeroes(50 * rig.MIB, SIZE - 50 * rig.MIB)
            client.flush()
        with connect(path, BASE) as client:
            assert rig.collect(client.read([(0, SIZE)]), SIZE) == expected
            assert client.block_status()[BASE][-1] == (50 * rig.MIB, 14 * rig.MIB, 3)
    raw = tmp_path / "new.raw"
    rig.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
    assert raw.read_bytes() == expected


def test_a_write_the_host_cannot_store(tmp_path: Path) -> None:
    """blkdebug lets the second kind of write fail, as a full storage does."""
    image, path, rules = tmp_path / "new.qcow2", tmp_path / "nbd", tmp_path / "rules"
    rig.run("qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE))
    rules.write_text('[inject-error]\nevent = "write_aio"\nerrno = "28"\n')
    options = f"driver=qcow2,file.driver=blkdebug,file.config={rules},file.image.driver=file"
    options += f",file.image.filename={image}"
    with rig.qemu_nbd(path, "--image-opts", "-x", "vda", options):
        client = connect(path)
        client.write(0, b"x" * 65536)
        with pytest.raises(HostError, match=r"write 65536 bytes at 0 .*ENOSPC"):
            client.flush()
        client.abandon()


def test_a_server_that_is_killed_while_it_is_read(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "nbd"
    command = ["qemu-nbd", "-r", "-k", str(path), "-t", "-f", "qcow2", "-x", "vda", str(image)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        client = connect(path)
        pieces = client.read([(0, SIZE)] * 100, request_size=65536)
        next(pieces)
        server.kill()
        with pytest.raises(HostUnreachable, match="broke"):
            list(pieces)
        client.close()
    finally:
        server.kill()
        server.communicate(timeout=10)


@pytest.mark.slow
def test_a_map_of_very_many_extents(tmp_path: Path) -> None:
    """More than QEMU puts into one answer (128 Ki)."""
    size, step = 10 * rig.GIB, 64 * rig.KIB
    raw, path = tmp_path / "big.raw", tmp_path / "nbd"
    with raw.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, step):
            file.seek(offset)
            file.write(b"x" * 4096)
    with rig.qemu_nbd(path, "-r", "-f", "raw", "-x", "vda", raw), connect(path, BASE) as client:
        found = client.block_status()[BASE]
    assert len(found) == 2 * size // step
    assert found[:2] == [(0, 4096, 0), (4096, step - 4096, 3)]
    assert found.end == size
