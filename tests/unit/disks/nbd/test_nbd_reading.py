"""The client's reads, with servers that break off, lie or waste its time."""

from __future__ import annotations

import time
import tracemalloc

import nbd_rig as rig
import pytest

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.protocol import ReplyType
from vmconsole.errors import Cancelled, HostError, HostUnreachable, ProtocolError
from vmconsole.interfaces import Cancel

SIZE = 4096


def read(answers: bytes, size: int = SIZE, **how: object) -> list[tuple[int, bytes]]:
    client = rig.client(size, answers, contexts=(), **how)  # type: ignore[arg-type]  # options of the rig
    return [(offset, bytes(piece)) for offset, piece in client.read([(0, size)])]


def test_pieces_in_any_order() -> None:
    answers = (
        rig.data(1, 2048, b"b" * 1024, done=False)
        + rig.hole(1, 3072, 1024, done=False)
        + rig.data(1, 0, b"a" * 2048, done=False)
        + rig.finished(1)
    )
    for piece in (1, 7, 1 << 20):
        assert sorted(read(answers, piece=piece)) == [
            (0, b"a" * 2048),
            (2048, b"b" * 1024),
            (3072, bytes(1024)),
        ]


def test_replies_in_any_order() -> None:
    answers = rig.data(2, 1024, b"2" * 1024) + rig.data(1, 0, b"1" * 1024)
    client = rig.client(2048, answers)
    assert list(client.read([(0, 2048)], request_size=1024)) == [(1024, b"2" * 1024), (0, b"1" * 1024)]


def test_requests_are_cut_at_multiples_and_bounded() -> None:
    answers = b"".join(
        rig.data(cookie, offset, bytes(length))
        for cookie, (offset, length) in enumerate([(1000, 24), (1024, 1024), (2048, 52)], 1)
    )
    client = rig.client(SIZE, answers)
    pieces = client.read([(1000, 1100)], request_size=1024, in_flight=1)
    assert [(offset, len(piece)) for offset, piece in pieces] == [(1000, 24), (1024, 1024), (2048, 52)]


@pytest.mark.parametrize(("length", "expected"), [(1024, 4), (16, 32)])
def test_what_is_under_way_is_bounded_in_bytes_and_in_number(length: int, expected: int) -> None:
    stream = rig.Script(rig.hello(1 << 30) + rig.data(1, 0, bytes(length)))
    client = NbdClient.connect(stream, "vda")
    stream.heard.clear()
    ranges = ((at * 4096, length) for at in range(10_000))
    next(client.read(ranges, request_size=1024, in_flight=4))
    assert len(stream.heard) == expected * protocol.REQUEST.size


def test_unaligned_ranges_are_widened_to_blocks_and_trimmed() -> None:
    answers = rig.data(1, 512, bytes(88) + b"x" * 100 + bytes(324)) + rig.hole(2, 2048, 512)
    client = rig.client(SIZE, answers, sizes=(512, 4096, 1 << 20))
    assert list(client.read([(600, 100), (2100, 10)])) == [(600, b"x" * 100), (2100, bytes(10))]


def test_no_ranges_say_nothing() -> None:
    client = rig.client(SIZE)
    assert list(client.read([])) == []
    assert list(client.read([(0, 0)])) == []


@pytest.mark.parametrize("wanted", [(-1, 1), (0, SIZE + 1), (SIZE, 1), (0, -1)])
def test_ranges_outside_are_a_mistake_of_ours(wanted: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        list(rig.client(SIZE).read([wanted]))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (rig.data(2, 0, bytes(SIZE)), "not sent"),
        (rig.data(1, 1, bytes(SIZE)), "not asked for"),
        (rig.data(1, 0, bytes(SIZE + 1)), "a piece of 4097 bytes"),
        (rig.data(1, SIZE, b"x", done=False), "not asked for"),
        (rig.data(1, 2**64 - 1, b"x", done=False), "not asked for"),
        (rig.data(1, 0, b""), "a piece of 0 bytes"),
        (rig.data(1, 0, bytes(10)), "without sending all"),
        (rig.data(1, 0, bytes(100), done=False) + rig.data(1, 99, bytes(SIZE - 99)), "same bytes twice"),
        (
            rig.data(1, 100, bytes(100), done=False) + rig.data(1, 0, bytes(101), done=False),
            "same bytes twice",
        ),
        (rig.data(1, 0, bytes(100), done=False) + rig.hole(1, 0, 100, done=False), "same bytes twice"),
        (rig.data(1, 0, bytes(100), done=False) + rig.finished(1), "without sending all"),
        (rig.hole(1, 0, 0, done=False), "not asked for"),
        (rig.hole(1, 0, 2**32 - 1), "not asked for"),
        (rig.hole(1, 2**64 - 1, 1), "not asked for"),
        (rig.finished(1), "without sending all"),
        (rig.simple(1) + bytes(SIZE), "an answer of kind -1"),
        (rig.status(1, 10, [(SIZE, 0)]), "an answer of kind 5"),
        (protocol.chunk(ReplyType.NONE, 1, 4) + b"junk", "an answer of kind 0"),
        (protocol.chunk(ReplyType.NONE, 1, 0, done=False), "an answer of kind 0"),
        (protocol.chunk(ReplyType.OFFSET_DATA, 1, 2**32 - 1), "a piece of 4294967287 bytes"),
        (protocol.chunk(ReplyType.OFFSET_DATA, 1, 4) + b"junk", "a piece of -4 bytes"),
        (protocol.chunk(ReplyType.OFFSET_HOLE, 1, 2**32 - 1), "4294967295 bytes long"),
        (
            protocol.STRUCTURED_REPLY.pack(protocol.STRUCTURED_REPLY_MAGIC, 1, 77, 1, 0),
            "an answer of kind 77",
        ),
        (protocol.chunk(ReplyType.ERROR, 1, 2**32 - 1), "an error message of 4294967295"),
        (protocol.chunk(ReplyType.ERROR, 1, 2) + b"xx", "an error message of 2"),
        (protocol.chunk(ReplyType.ERROR, 1, 6) + protocol.ERROR.pack(5, 100), "does not fit"),
        (rig.error(1, 0), "does not fit"),
        (b"\0" * 20, "does not begin"),
        (b"GET / HTTP/1.0\r\n\r\n12345", "does not begin"),
        (b"".join(rig.data(1, at, b"x", done=False) for at in range(0, SIZE, 2)), "many pieces"),
    ],
)
def test_lies_in_answer_to_a_read(answers: bytes, words: str) -> None:
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=words):
        read(answers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * rig.MIB


@pytest.mark.parametrize("cut", range(0, len(rig.data(1, 0, bytes(SIZE))), 211))
def test_a_connection_that_ends_inside_a_reply(cut: int) -> None:
    with pytest.raises(HostUnreachable, match="closed"):
        read(rig.data(1, 0, bytes(SIZE))[:cut])


def test_an_error_of_the_host_has_its_name_and_words() -> None:
    with pytest.raises(HostError, match=r"read 4096 bytes at 0 of the disk “vda”: EIO.*: the \?disk"):
        read(rig.error(1, 5, b"the \x07disk is on fire"))


def test_an_error_number_outside_the_protocol() -> None:
    with pytest.raises(HostError, match="error 4711"):
        read(rig.error(1, 4711))


def test_a_simple_error_where_structure_was_agreed() -> None:
    with pytest.raises(HostError, match="ENOMEM"):
        read(rig.simple(1, 12))


def test_an_error_without_structure() -> None:
    with pytest.raises(HostError, match="EIO"):
        read(rig.simple(1, 5), structured=False)


def test_structure_that_was_not_agreed() -> None:
    with pytest.raises(ProtocolError):
        read(rig.data(1, 0, bytes(SIZE)), structured=False)


def test_after_a_failure_the_connection_says_so() -> None:
    client = rig.client(SIZE, rig.error(1, 5) + rig.data(2, 0, bytes(SIZE)))
    with pytest.raises(HostError, match="EIO"):
        list(client.read([(0, SIZE)]))
    for again in (lambda: list(client.read([(0, SIZE)])), client.block_status, client.flush):
        with pytest.raises(HostUnreachable, match=r"cannot be used any more.*EIO"):
            again()
    client.close()


def test_a_read_that_is_given_up_leaves_the_connection_unusable() -> None:
    client = rig.client(2048, rig.data(1, 0, bytes(1024)) + rig.data(2, 1024, bytes(1024)))
    pieces = client.read([(0, 2048)], request_size=1024)
    next(pieces)
    pieces.close()
    with pytest.raises(HostUnreachable, match="cannot be used any more"):
        client.block_status()


def test_two_activities_at_once_are_a_mistake_of_ours() -> None:
    client = rig.client(2048, rig.data(1, 0, bytes(1024)) + rig.data(2, 1024, bytes(1024)))
    pieces = client.read([(0, 2048)], request_size=1024)
    next(pieces)
    with pytest.raises(RuntimeError, match="at a time"):
        client.block_status()
    assert len(list(pieces)) == 1


def test_silence_ends_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match="did not answer"):
        read(rig.data(1, 0, bytes(SIZE))[:-1], silent=True, timeout=0.1)
    assert time.monotonic() - began < 2


def test_cancelling_does_not_wait_for_the_peer() -> None:
    cancel = Cancel()
    client = rig.client(2048, rig.data(1, 0, bytes(1024)), silent=True, timeout=60)
    began = time.monotonic()
    pieces = client.read([(0, 2048)], request_size=1024, cancel=cancel)
    next(pieces)
    cancel.set("enough")
    with pytest.raises(Cancelled, match="enough"):
        next(pieces)
    assert time.monotonic() - began < 5
