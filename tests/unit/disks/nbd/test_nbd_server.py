"""The server: QEMU's own tools and our client are content with it; bad clients harm nobody."""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import nbd_rig as rig
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.client import NbdClient, list_exports
from vmconsole.disks.nbd.parallel import read_many
from vmconsole.disks.nbd.protocol import Command, Option, OptionReply
from vmconsole.disks.nbd.server import NbdServer
from vmconsole.disks.nbd.source import ExportSource, MappedSource
from vmconsole.errors import HostError, HostUnreachable, RepositoryDamaged, UsageError

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img and qemu-io")

SIZE = 24 * rig.MIB + 512
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b0"
ALLOCATION = [
    (0, 4 * rig.MIB, 0),
    (4 * rig.MIB, 16 * rig.MIB, 3),
    (20 * rig.MIB, 4 * rig.MIB + 512, 0),
]
CHANGED = [(0, rig.MIB, 0), (rig.MIB, 64 * rig.KIB, 1), (rig.MIB + 64 * rig.KIB, SIZE - rig.MIB - 65536, 0)]


@pytest.fixture(scope="module")
def content() -> bytes:
    dice = random.Random(3)
    return dice.randbytes(4 * rig.MIB) + bytes(16 * rig.MIB) + dice.randbytes(4 * rig.MIB + 512)


@pytest.fixture
def exports(content: bytes) -> dict[str, ExportSource]:
    source = MappedSource(
        SIZE, lambda offset, length: content[offset : offset + length], {BASE: ALLOCATION, DIRTY: CHANGED}
    )
    return {"vda": source, "größe": MappedSource(4096, lambda _, length: b"x" * length)}


@pytest.fixture
def path(exports: dict[str, ExportSource], tmp_path: Path) -> Iterator[Path]:
    with NbdServer(exports, timeout=5) as server:
        place = tmp_path / "nbd"
        server.listen_unix(place)
        yield place
    assert not place.exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbd-")]


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


# --- with bad clients ---------------------------------------------------------------------------


class Raw:
    """A client by hand."""

    def __init__(self, path: Path) -> None:
        self.socket = rig.connect(path)
        self.socket.settimeout(10)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data

    def greet(self, flags: int = 3) -> None:
        assert self.receive(18) == rig.greeting()
        self.send(protocol.CLIENT_FLAGS.pack(flags))

    def ask(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        self.send(protocol.OPTION.pack(protocol.OPTION_MAGIC, number, len(data)) + data)
        found = []
        while True:
            magic, what, kind, length = protocol.OPTION_REPLY.unpack(self.receive(20))
            assert (magic, what) == (protocol.OPTION_REPLY_MAGIC, number)
            found.append((kind, self.receive(length)))
            if kind == OptionReply.ACK or kind & protocol.OPTION_ERROR:
                return found

    def request(self, command: int, offset: int, length: int, flags: int = 0) -> int:
        """The error a request without structure is answered with."""
        self.send(protocol.REQUEST.pack(protocol.REQUEST_MAGIC, flags, command, 99, offset, length))
        return self.simple()

    def simple(self) -> int:
        magic, error, cookie = protocol.SIMPLE_REPLY.unpack(self.receive(16))
        assert (magic, cookie) == (protocol.SIMPLE_REPLY_MAGIC, 99)
        assert isinstance(error, int)
        return error


@pytest.fixture
def by_hand(path: Path) -> Iterator[Raw]:
    with Raw(path) as client:
        client.greet()
        yield client


def go(name: bytes) -> bytes:
    return protocol.go_request(name, [])


def test_options_that_are_refused_end_nothing(by_hand: Raw) -> None:
    error = OptionReply
    assert by_hand.ask(4711, b"whatever")[0][0] == error.ERR_UNSUP
    assert by_hand.ask(Option.STARTTLS)[0][0] == error.ERR_UNSUP
    assert by_hand.ask(Option.LIST, b"x")[0][0] == error.ERR_INVALID
    assert by_hand.ask(Option.STRUCTURED_REPLY, b"x")[0][0] == error.ERR_INVALID
    assert by_hand.ask(Option.LIST, bytes(100_000))[0][0] == error.ERR_TOO_BIG
    for bad in (b"", b"\0\0\0\x05abc", b"\xff" * 8, protocol.string(b"vda"), go(b"vda") + b"x"):
        assert by_hand.ask(Option.GO, bad)[0][0] == error.ERR_INVALID
    assert by_hand.ask(Option.GO, go(b"nothing"))[0][0] == error.ERR_UNKNOWN
    meta = protocol.meta_request(b"vda", [])
    assert by_hand.ask(Option.LIST_META_CONTEXT, meta)[0][0] == error.ERR_INVALID
    assert by_hand.ask(Option.STRUCTURED_REPLY)[-1][0] == error.ACK
    for bad in (b"", protocol.string(b"vda"), protocol.string(b"vda") + b"\xff" * 4, meta + b"x"):
        assert by_hand.ask(Option.SET_META_CONTEXT, bad)[0][0] == error.ERR_INVALID
    unknown = protocol.meta_request(b"no", [])
    assert by_hand.ask(Option.SET_META_CONTEXT, unknown)[0][0] == error.ERR_UNKNOWN
    assert by_hand.ask(Option.GO, go(b"vda"))[-1][0] == error.ACK


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        ([], [BASE, DIRTY]),
        ([b"base:"], [BASE]),
        ([b"qemu:"], [DIRTY]),
        ([b"qemu:dirty-bitmap:"], [DIRTY]),
        ([b"base:allocation", b"x-other:thing"], [BASE]),
        ([b"base:other"], []),
    ],
)
def test_listing_contexts(by_hand: Raw, queries: list[bytes], found: list[str]) -> None:
    by_hand.ask(Option.STRUCTURED_REPLY)
    answers = by_hand.ask(Option.LIST_META_CONTEXT, protocol.meta_request(b"vda", queries))
    assert [data[4:].decode() for _, data in answers[:-1]] == found


def test_contexts_count_for_their_own_export_only(by_hand: Raw) -> None:
    by_hand.ask(Option.STRUCTURED_REPLY)
    by_hand.ask(Option.SET_META_CONTEXT, protocol.meta_request("größe".encode(), [b"base:allocation"]))
    by_hand.ask(Option.GO, go(b"vda"))
    by_hand.send(protocol.request(Command.BLOCK_STATUS, 1, 0, 4096))
    _, _, kind, _, length = protocol.STRUCTURED_REPLY.unpack(by_hand.receive(20))
    assert kind == protocol.ReplyType.ERROR
    assert protocol.ERROR.unpack_from(by_hand.receive(length))[0] == protocol.Errno.EINVAL


@pytest.mark.parametrize("padding", [True, False])
def test_the_old_way_in(path: Path, content: bytes, padding: bool) -> None:
    with Raw(path) as client:
        client.greet(1 if padding else 3)
        client.send(protocol.option(Option.EXPORT_NAME, b"vda"))
        size, flags = protocol.EXPORT_INFO.unpack(client.receive(10))
        assert (size, flags) == (SIZE, 0b1_0000_0011)
        if padding:
            assert client.receive(124) == bytes(124)
        assert client.request(Command.READ, 5, 100) == 0
        assert client.receive(100) == content[5:105]


def test_the_old_way_in_to_nothing(by_hand: Raw) -> None:
    by_hand.send(protocol.option(Option.EXPORT_NAME, b"nothing"))
    assert by_hand.receive(1) == b""


def test_requests_that_are_refused_end_nothing(by_hand: Raw, content: bytes) -> None:
    error = protocol.Errno
    by_hand.ask(Option.GO, go(b"vda"))
    assert by_hand.request(4711, 0, 0) == error.EINVAL
    assert by_hand.request(Command.FLUSH, 0, 0) == error.EINVAL
    assert by_hand.request(Command.READ, 0, 1, flags=1 << 9) == error.EINVAL
    assert by_hand.request(Command.READ, SIZE, 1) == error.EINVAL
    assert by_hand.request(Command.READ, 2**64 - 1, 1) == error.EINVAL
    assert by_hand.request(Command.READ, 0, 2**32 - 1) == error.EINVAL
    assert by_hand.request(Command.BLOCK_STATUS, 0, 4096) == error.EINVAL
    assert by_hand.request(Command.WRITE_ZEROES, 0, 4096) == error.EPERM
    assert by_hand.request(Command.TRIM, 0, 4096) == error.EPERM
    by_hand.send(protocol.request(Command.WRITE, 99, 0, 100_000) + b"w" * 100_000)
    assert by_hand.simple() == error.EPERM
    assert by_hand.request(Command.READ, 0, 0) == 0
    assert by_hand.request(Command.READ, 0, 10) == 0
    assert by_hand.receive(10) == content[:10]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        protocol.CLIENT_FLAGS.pack(8),
        protocol.CLIENT_FLAGS.pack(3) + bytes(16),
        protocol.CLIENT_FLAGS.pack(3) + protocol.OPTION.pack(protocol.OPTION_MAGIC, 7, 2**32 - 1),
        protocol.CLIENT_FLAGS.pack(3) + protocol.option(Option.GO, go(b"vda")) + bytes(28),
        protocol.CLIENT_FLAGS.pack(3)
        + protocol.option(Option.GO, go(b"vda"))
        + protocol.request(Command.WRITE, 1, 0, 2**32 - 1),
        protocol.CLIENT_FLAGS.pack(3) + protocol.option(Option.GO, go(b"vda")) + b"\x25\x60",
        protocol.CLIENT_FLAGS.pack(3) + protocol.option(99) * 1001,
    ],
)
def test_clients_that_make_no_sense_are_dropped(path: Path, said: bytes, content: bytes) -> None:
    with connect(path) as good, Raw(path) as bad:
        pieces = good.read([(0, SIZE)], request_size=65536)
        next(pieces)
        try:
            bad.send(said)
            bad.socket.shutdown(socket.SHUT_WR)
            while bad.socket.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert len(list(pieces)) > 10


def test_flags_that_nobody_offered_end_the_connection(path: Path) -> None:
    with Raw(path) as client:
        client.greet(8)
        assert client.receive(1) == b""


def test_clients_that_hang_up_in_the_middle_of_answers(path: Path, content: bytes) -> None:
    for _ in range(5):
        with Raw(path) as rude:
            rude.greet()
            rude.ask(Option.GO, go(b"vda"))
            rude.send(protocol.request(Command.READ, 99, 0, 4 * rig.MIB) * 8)
            rude.receive(1000)
    with connect(path) as client:
        assert rig.collect(client.read([(0, SIZE)]), SIZE) == content


def test_a_client_that_dawdles_in_the_negotiation_is_dropped(exports: dict[str, ExportSource]) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        began = time.monotonic()
        NbdServer(exports, timeout=0.2).serve(theirs)
        assert time.monotonic() - began < 3
        assert ours.recv(100) == rig.greeting()
        assert ours.recv(100) == b""


def test_too_many_clients_are_turned_away(exports: dict[str, ExportSource], tmp_path: Path) -> None:
    with NbdServer(exports, max_clients=1) as server:
        server.listen_unix(tmp_path / "nbd")
        first = connect(tmp_path / "nbd")
        with pytest.raises(HostUnreachable):
            connect(tmp_path / "nbd")
        first.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                connect(tmp_path / "nbd").close()
            except HostUnreachable:
                assert time.monotonic() < deadline
            else:
                return


def test_closing_drops_idle_and_busy_clients(exports: dict[str, ExportSource], tmp_path: Path) -> None:
    server = NbdServer(exports)
    server.listen_unix(tmp_path / "nbd")
    idle, busy = connect(tmp_path / "nbd"), Raw(tmp_path / "nbd")
    with busy:
        busy.greet()
        busy.ask(Option.GO, go(b"vda"))
        busy.send(protocol.request(Command.READ, 99, 0, 4 * rig.MIB) * 8)
        busy.receive(1000)
        began = time.monotonic()
        server.close()
        server.close()
        assert time.monotonic() - began < 5
    with pytest.raises(HostUnreachable):
        list(idle.read([(0, 100)]))
    idle.close()


def test_sockets(exports: dict[str, ExportSource], tmp_path: Path) -> None:
    place = tmp_path / "nbd"
    with NbdServer(exports) as server, NbdServer(exports) as other:
        server.listen_unix(place)
        assert place.stat().st_mode & 0o777 == 0o600
        with pytest.raises(HostError, match="in use"):
            other.listen_unix(place)
        with pytest.raises(HostError, match="No such file"):
            other.listen_unix(tmp_path / "missing" / "nbd")
        with pytest.raises(UsageError, match="longer than"):
            other.listen_unix(tmp_path / ("x" * 200))
        connect(place).close()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(place))
    stale.close()
    with NbdServer(exports) as server:
        server.listen_unix(place)
        connect(place).close()
    place.write_text("precious")
    with NbdServer(exports) as server, pytest.raises(HostError, match="in use"):
        server.listen_unix(place)
    assert place.read_text() == "precious"


@settings(deadline=3000, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_requests(exports: dict[str, ExportSource], data: st.DataObject) -> None:
    said = bytearray(
        protocol.CLIENT_FLAGS.pack(3)
        + protocol.option(Option.STRUCTURED_REPLY)
        + protocol.option(Option.SET_META_CONTEXT, protocol.meta_request(b"vda", [BASE.encode()]))
        + protocol.option(Option.GO, protocol.go_request(b"vda", [protocol.Info.BLOCK_SIZE]))
        + protocol.request(Command.BLOCK_STATUS, 1, 0, SIZE)
        + protocol.request(Command.READ, 2, 0, 4096)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))
    stream = rig.Script(bytes(said))
    NbdServer(exports).serve(stream)
    assert stream.closed


# --- sources ------------------------------------------------------------------------------------


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
