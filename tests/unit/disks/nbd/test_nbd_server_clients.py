"""Clients of the server that make mistakes, lie, dawdle or vanish: they harm nobody else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import nbd_rig as rig
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.protocol import Command, Option, OptionReply
from vmconsole.disks.nbd.server import NbdServer
from vmconsole.disks.nbd.source import ExportSource
from vmconsole.errors import HostError, HostUnreachable, UsageError

SIZE = 24 * rig.MIB + 512
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b0"


def connect(path: Path, *contexts: str, export: str = "vda") -> NbdClient:
    return NbdClient.connect(rig.connect(path), export, contexts, timeout=10)


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


@pytest.mark.parametrize(("flags", "parts"), [(0, 3), (protocol.CommandFlag.REQ_ONE, 1)])
def test_a_map_of_one_part_on_request(by_hand: Raw, flags: int, parts: int) -> None:
    by_hand.ask(Option.STRUCTURED_REPLY)
    by_hand.ask(Option.SET_META_CONTEXT, protocol.meta_request(b"vda", [BASE.encode()]))
    by_hand.ask(Option.GO, go(b"vda"))
    by_hand.send(protocol.request(Command.BLOCK_STATUS, 1, 4096, SIZE - 4096, flags))
    _, _, kind, _, length = protocol.STRUCTURED_REPLY.unpack(by_hand.receive(20))
    assert (kind, length) == (protocol.ReplyType.BLOCK_STATUS, 4 + 8 * parts)
    assert protocol.DESCRIPTOR.unpack_from(by_hand.receive(length), 4) == (4 * rig.MIB - 4096, 0)


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
        protocol.CLIENT_FLAGS.pack(3) + protocol.OPTION.pack(protocol.OPTION_MAGIC, 99, 0) * 1001,
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
