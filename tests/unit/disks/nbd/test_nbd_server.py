"""The server: QEMU's own tools and our client are content with it; bad clients harm nobody."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import nbd_rig as rig
import pytest

from vmconsole.disks.nbd.client import NbdClient, list_exports
from vmconsole.disks.nbd.parallel import read_many
from vmconsole.disks.nbd.server import NbdServer
from vmconsole.disks.nbd.source import ExportSource, MappedSource
from vmconsole.errors import HostError, HostUnreachable, RepositoryDamaged

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img and qemu-io")

SIZE = 24 * rig.MIB + 512
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b0"
ALLOCATION = [
    (0, 4 * rig.MIB, 0),
    (4 * rig.MIB, 16 * rig.MIB, 3),
    (20 * rig.MIB, 4 * rig.MIB + 512, 0),
]
CHANGED = [(0, rig.MIB, 0), (rig.MIB, 64 * rig.KIB, 1), (rig.MIB + 64 * rig.KIB, SIZE - rig.MIB - 65536, 0)]


def connect(path: Path, *contexts: str, export: str = "vda") -> NbdClient:
    return NbdClient.connect(rig.connect(path), export, contexts, timeout=10)


def url(path: Path, export: str = "vda") -> str:
    return f"nbd+unix:///{export}?socket={path}"


# --- with QEMU ----------------------------------------------------------------------------------


@needs_qemu
def test_qemu_img_converts_it(path: Path, content: bytes, tmp_path: Path) -> None:
    copy = tmp_path / "copy.raw"
    rig.run("qemu-img", "convert", "-f", "raw", "-O", "raw", url(path), copy)
    assert copy.read_bytes() == content
    assert copy.stat().st_blocks * 512 < 10 * rig.MIB


@needs_qemu
def test_qemu_img_says_the_same_map(path: Path) -> None:
    options = f"driver=nbd,server.type=unix,server.path={path},export=vda"
    found = rig.qemu_map("--image-opts", options)
    assert [(run["start"], run["length"], 3 if run["zero"] else 0) for run in found] == ALLOCATION
    found = rig.qemu_map("--image-opts", f"{options},x-dirty-bitmap={DIRTY}")
    assert [(run["start"], run["length"], int(not run["data"])) for run in found] == CHANGED


@needs_qemu
def test_qemu_io_reads_and_cannot_write(path: Path, tmp_path: Path, content: bytes) -> None:
    copy = tmp_path / "copy.raw"
    copy.write_bytes(content)
    for command in ("read -v 1000 512", "read 0 24M", "map"):
        theirs, ours = (rig.run("qemu-io", "-r", "-f", "raw", "-c", command, p) for p in (copy, url(path)))
        if "-v" in command:
            assert ours.splitlines()[:32] == theirs.splitlines()[:32]


@needs_qemu
def test_a_disk_on_top_of_it(path: Path, content: bytes, tmp_path: Path) -> None:
    """Instant restore: a new disk that reads through to the server and keeps its own writes."""
    overlay, copy = tmp_path / "overlay.qcow2", tmp_path / "copy.raw"
    rig.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", url(path), overlay)
    rig.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", "-c", "write -P 8 10M 1k", overlay)
    rig.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, copy)
    expected = bytearray(content)
    expected[rig.MIB : rig.MIB + 65536] = b"\7" * 65536
    expected[10 * rig.MIB : 10 * rig.MIB + 1024] = b"\x08" * 1024
    assert copy.read_bytes() == expected
    rig.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", overlay)
    rig.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, copy)
    assert copy.read_bytes() == expected


@needs_qemu
def test_qemu_nbd_lists_it(path: Path) -> None:
    found = rig.run("qemu-nbd", "-L", "-k", path)
    assert "exports available: 2" in found
    assert f"size:  {SIZE}" in found
    assert DIRTY in found
    assert "( readonly df multi )" in found


# --- with our client ----------------------------------------------------------------------------


def test_our_client_reads_it(path: Path, content: bytes) -> None:
    with connect(path, BASE, DIRTY) as client:
        assert (client.size, client.read_only, client.can_multi_conn) == (SIZE, True, True)
        assert client.block_status() == {BASE: ALLOCATION, DIRTY: CHANGED}
        for size in (10_000, rig.MIB, 32 * rig.MIB):
            assert rig.collect(client.read([(0, SIZE)], request_size=size), SIZE) == content
    assert list_exports(rig.connect(path)) == ["vda", "größe"]
    with connect(path, export="größe") as client:
        assert list(client.read([(0, 4096)])) == [(0, b"x" * 4096)]


def test_several_clients_at_once(path: Path, content: bytes) -> None:
    clients = [connect(path) for _ in range(4)]
    assert rig.collect(read_many(clients, [(0, SIZE)], request_size=65536), SIZE) == content
    for client in clients:
        client.close()


def test_a_client_on_a_stream_that_is_no_socket(exports: dict[str, ExportSource], content: bytes) -> None:
    ours, theirs = socket.socketpair()
    server = NbdServer(exports)
    thread = threading.Thread(target=server.serve, args=(rig.Channel(theirs),))
    thread.start()
    with NbdClient.connect(rig.Channel(ours), "vda") as client:
        assert rig.collect(client.read([(0, SIZE)]), SIZE) == content
    thread.join(10)
    assert not thread.is_alive()
    server.close()


def test_the_only_export_needs_no_name(exports: dict[str, ExportSource], tmp_path: Path) -> None:
    with NbdServer(exports) as server:
        server.listen_unix(tmp_path / "nbd")
        with pytest.raises(HostError, match="offers no disk"):
            connect(tmp_path / "nbd", export="")
        del exports["größe"]
        with connect(tmp_path / "nbd", BASE, export="") as client:
            assert client.size == SIZE
            assert client.block_status() == {BASE: ALLOCATION}


class Broken:
    """A source that fails in every way a source can fail."""

    size = 4096
    contexts: Sequence[str] = (BASE,)

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    def read_at(self, offset: int, length: int) -> bytes:
        if offset == 1:
            return b"too short"
        raise self._failure

    def extents(self, context: str, offset: int, length: int) -> Iterable[tuple[int, int]]:
        if offset == 1:
            return []
        raise self._failure


@pytest.mark.parametrize("failure", [OSError(5, "bad sector"), RepositoryDamaged("A chunk is missing.")])
def test_a_source_that_fails_is_an_error_for_that_request(failure: Exception, tmp_path: Path) -> None:
    with NbdServer({"vda": Broken(failure)}) as server:
        server.listen_unix(tmp_path / "nbd")
        for offset in (0, 1):
            with connect(tmp_path / "nbd") as client, pytest.raises(HostError, match="EIO"):
                list(client.read([(offset, 100)]))
        with connect(tmp_path / "nbd", BASE) as client:
            for offset in (0, 1):
                with pytest.raises(HostError, match="EIO"):
                    client.block_status(offset, 100)


def test_a_source_with_a_bug_loses_its_client_only(
    tmp_path: Path, content: bytes, exports: dict[str, ExportSource]
) -> None:
    with NbdServer({**exports, "bad": Broken(ZeroDivisionError())}) as server:
        server.listen_unix(tmp_path / "nbd")
        good, bad = connect(tmp_path / "nbd"), connect(tmp_path / "nbd", export="bad")
        with good, bad:
            with pytest.raises(HostUnreachable):
                list(bad.read([(0, 100)]))
            assert rig.collect(good.read([(0, SIZE)]), SIZE) == content


def test_maps_of_a_source_are_checked() -> None:
    def nothing(offset: int, length: int) -> bytes:
        return bytes(length)

    for runs in ([(0, 10, 0)], [(0, 5, 0), (6, 94, 0)], [(0, 0, 0), (0, 100, 0)], [(0, 101, 0)]):
        with pytest.raises(ValueError, match="map"):
            MappedSource(100, nothing, {BASE: runs})
    assert MappedSource(0, nothing).contexts == (BASE,)
    assert list(MappedSource(100, nothing).extents(BASE, 10, 20)) == [(20, 0)]


def test_a_file_as_a_source(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(os.urandom(100_000))
    fd = os.open(file, os.O_RDONLY)
    source = MappedSource(100_000, lambda offset, length: os.pread(fd, length, offset))
    with NbdServer({"d": source}) as server:
        server.listen_unix(tmp_path / "nbd")
        with connect(tmp_path / "nbd", export="d") as client:
            assert rig.collect(client.read([(0, 100_000)]), 100_000) == file.read_bytes()
    os.close(fd)
