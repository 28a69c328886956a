"""The client's maps, reads and writes, with servers that break off, lie or waste its time."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import nbd_rig as rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.protocol import ExportFlag, ReplyType
from vmconsole.disks.nbd.status import StatusMap
from vmconsole.errors import Cancelled, HostError, HostUnreachable, NotPermitted, ProtocolError
from vmconsole.interfaces import Cancel

SIZE = 4096
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b"


def read(answers: bytes, size: int = SIZE, **how: object) -> list[tuple[int, bytes]]:
    client = rig.client(size, answers, contexts=(), **how)  # type: ignore[arg-type]  # options of the rig
    return [(offset, bytes(piece)) for offset, piece in client.read([(0, size)])]


# --- reads --------------------------------------------------------------------------------------


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
    "answers",
    [
        rig.data(2, 0, bytes(SIZE)),
        rig.data(1, 1, bytes(SIZE)),
        rig.data(1, 0, bytes(SIZE + 1)),
        rig.data(1, SIZE, b"x", done=False),
        rig.data(1, 2**64 - 1, b"x", done=False),
        rig.data(1, 0, b""),
        rig.data(1, 0, bytes(10)),
        rig.data(1, 0, bytes(100), done=False) + rig.data(1, 99, bytes(SIZE - 99)),
        rig.data(1, 100, bytes(100), done=False) + rig.data(1, 0, bytes(101), done=False),
        rig.data(1, 0, bytes(100), done=False) + rig.hole(1, 0, 100, done=False),
        rig.data(1, 0, bytes(100), done=False) + rig.finished(1),
        rig.hole(1, 0, 0, done=False),
        rig.hole(1, 0, 2**32 - 1),
        rig.hole(1, 2**64 - 1, 1),
        rig.finished(1),
        rig.simple(1) + bytes(SIZE),
        rig.status(1, 10, [(SIZE, 0)]),
        protocol.chunk(ReplyType.NONE, 1, 4) + b"junk",
        protocol.chunk(ReplyType.NONE, 1, 0, done=False),
        protocol.chunk(ReplyType.OFFSET_DATA, 1, 2**32 - 1),
        protocol.chunk(ReplyType.OFFSET_DATA, 1, 4) + b"junk",
        protocol.chunk(ReplyType.OFFSET_HOLE, 1, 2**32 - 1),
        protocol.STRUCTURED_REPLY.pack(protocol.STRUCTURED_REPLY_MAGIC, 1, 77, 1, 0),
        protocol.chunk(ReplyType.ERROR, 1, 2**32 - 1),
        protocol.chunk(ReplyType.ERROR, 1, 2) + b"xx",
        protocol.chunk(ReplyType.ERROR, 1, 6) + protocol.ERROR.pack(5, 100),
        rig.error(1, 0),
        b"\0" * 20,
        b"GET / HTTP/1.0\r\n\r\n12345",
        b"".join(rig.data(1, at, b"x", done=False) for at in range(0, SIZE, 2)),
    ],
)
def test_lies_in_answer_to_a_read(answers: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ProtocolError):
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


# --- maps ---------------------------------------------------------------------------------------


def test_a_map_in_short_and_long_replies() -> None:
    answers = (
        rig.status(1, 10, [(1024, 3)], done=False)
        + rig.status(1, 11, [(512, 0), (512, 1), (9999, 1)])
        + rig.status(2, 11, [(3072, 0)], done=False)
        + rig.status(2, 10, [(1024, 3), (1024, 0), (4096, 0)])
    )
    client = rig.client(SIZE, answers, contexts=(BASE, DIRTY))
    assert client.block_status() == {
        BASE: [(0, 2048, 3), (2048, 2048, 0)],
        DIRTY: [(0, 512, 0), (512, 3584, 1)],
    }


def test_a_map_of_a_part() -> None:
    client = rig.client(SIZE, rig.status(1, 10, [(100, 3), (5000, 0)]))
    assert client.block_status(1000, 200) == {BASE: [(1000, 100, 3), (1100, 100, 0)]}


def test_a_map_of_a_part_in_whole_blocks() -> None:
    client = rig.client(SIZE, rig.status(1, 10, [(512, 3), (512, 0)]), sizes=(512, 4096, 1 << 20))
    assert client.block_status(600, 500) == {BASE: [(600, 424, 3), (1024, 76, 0)]}


def test_a_map_of_nothing() -> None:
    assert rig.client(0).block_status() == {BASE: []}


def test_an_error_about_the_map_leaves_the_connection_usable() -> None:
    client = rig.client(SIZE, rig.error(1, 5) + rig.status(2, 10, [(SIZE, 0)]))
    with pytest.raises(HostError, match="EIO"):
        client.block_status()
    assert client.block_status() == {BASE: [(0, SIZE, 0)]}


def test_large_disks_are_asked_about_in_big_parts() -> None:
    size = 10 * rig.GIB
    answers, position, cookie = b"", 0, 1
    while position < size:
        part = min(size - position, protocol.MAX_STATUS_LENGTH)
        answers += rig.status(cookie, 10, [(part, 3)])
        position, cookie = position + part, cookie + 1
    assert cookie == 4
    assert rig.client(size, answers).block_status() == {BASE: [(0, size, 3)]}


@pytest.mark.parametrize(
    "answers",
    [
        rig.status(2, 10, [(SIZE, 0)]),
        rig.status(1, 12, [(SIZE, 0)]),
        rig.status(1, 10, [(SIZE, 0)]),
        rig.status(1, 10, [(SIZE, 0)], done=False) + rig.finished(1),
        rig.status(1, 10, [(SIZE, 0)], done=False) * 2,
        rig.status(1, 10, []),
        rig.status(1, 10, [(0, 0)]),
        rig.status(1, 10, [(SIZE, 0), (1, 0)]),
        rig.status(1, 10, [(2**32 - 1, 0), (2**32 - 1, 1)]),
        rig.finished(1),
        rig.simple(1),
        rig.data(1, 0, b"x"),
        protocol.chunk(ReplyType.BLOCK_STATUS, 1, 2**32 - 4),
        protocol.chunk(ReplyType.BLOCK_STATUS, 1, 7) + b"1234567",
        protocol.chunk(ReplyType.BLOCK_STATUS, 1, 0),
        rig.error(1, 5, done=False) * 10,
    ],
)
def test_lies_about_the_map(answers: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        rig.client(SIZE, answers, contexts=(BASE, DIRTY)).block_status()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rig.MIB


def test_a_map_that_hardly_advances_is_not_followed_for_ever() -> None:
    answers = b"".join(rig.status(cookie, 10, [(512, cookie % 2)]) for cookie in range(1, 30_000))
    began = time.monotonic()
    with pytest.raises(ProtocolError, match="small pieces"):
        rig.client(1 << 50, answers).block_status()
    assert time.monotonic() - began < 10


def test_a_map_can_be_cancelled() -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        rig.client(SIZE, silent=True, timeout=60).block_status(cancel=cancel)


# --- writes -------------------------------------------------------------------------------------


def test_writes_of_both_kinds_of_reply() -> None:
    client = rig.client(SIZE, rig.finished(2) + rig.simple(1) + rig.simple(3) + rig.simple(4))
    client.write(0, b"a" * 100)
    client.write(100, b"b")
    client.write_zeroes(512, 512)
    client.flush()
    client.close()


def test_a_lost_write_is_reported_by_everything_that_follows() -> None:
    client = rig.client(SIZE, rig.error(1, 28, b"disk full") + rig.simple(2))
    client.write(0, b"a")
    client.write(1, b"b")
    with pytest.raises(HostError, match=r"write 1 bytes at 0.*ENOSPC"):
        client.flush()
    with pytest.raises(HostError, match="ENOSPC"):
        client.write(2, b"c")
    with pytest.raises(HostError, match="ENOSPC"):
        client.close()
    client.close()


def test_close_reports_a_lost_write() -> None:
    client = rig.client(SIZE, rig.simple(1, 5))
    client.write(0, b"a")
    with pytest.raises(HostError, match="EIO"):
        client.close()


def test_close_reports_writes_that_were_never_answered() -> None:
    client = rig.client(SIZE)
    client.write(0, b"a")
    with pytest.raises(HostUnreachable):
        client.close()


def test_leaving_by_an_error_hides_nothing_and_waits_for_nothing() -> None:
    def work() -> None:
        with rig.client(SIZE, silent=True, timeout=60) as client:
            client.write(0, b"a")
            raise KeyError

    with pytest.raises(KeyError):
        work()


@pytest.mark.parametrize(
    "answers",
    [
        rig.simple(7),
        rig.simple(1) + rig.simple(1),
        rig.data(1, 0, b"x"),
        protocol.chunk(ReplyType.NONE, 1, 0, done=False),
        rig.error(1, 0),
    ],
)
def test_lies_in_answer_to_a_write(answers: bytes) -> None:
    client = rig.client(SIZE, answers)
    client.write(0, b"a")
    with pytest.raises(ProtocolError):
        client.flush()


def test_a_bounded_number_of_writes_is_under_way() -> None:
    client = rig.client(rig.MIB)
    written = 0
    with contextlib.suppress(HostUnreachable):
        for offset in range(1000):
            client.write(offset, b"a")
            written += 1
    assert 8 <= written < 64


def test_large_writes_are_cut() -> None:
    client = rig.client(rig.MIB, rig.simple(1) + rig.simple(2), sizes=(1, 4096, 512 * 1024))
    client.write(0, bytes(rig.MIB))
    client.close()


def test_zeros_are_sent_where_the_server_cannot_write_them_itself() -> None:
    client = rig.client(2 * rig.MIB, rig.simple(1) + rig.simple(2), flags=ExportFlag.HAS_FLAGS)
    client.write_zeroes(0, 2 * rig.MIB)
    client.flush()
    client.close()


def test_what_cannot_be_written() -> None:
    with pytest.raises(NotPermitted, match="read-only"):
        rig.client(SIZE, flags=ExportFlag.HAS_FLAGS | ExportFlag.READ_ONLY).write(0, b"a")
    with pytest.raises(HostError, match="whole blocks of 512"):
        rig.client(SIZE, sizes=(512, 4096, 1 << 20)).write(1, b"a")
    with pytest.raises(ValueError, match="outside"):
        rig.client(SIZE).write(SIZE, b"a")


# --- everything, damaged ------------------------------------------------------------------------

SOUND = (
    rig.status(1, 10, [(1024, 3), (3072, 0)], done=False)
    + rig.status(1, 11, [(4096, 1)])
    + rig.data(2, 1024, b"x" * 2000, done=False)
    + rig.hole(2, 3024, 1072, done=False)
    + rig.finished(2)
    + rig.simple(3)
    + rig.simple(4)
)


def session(answers: bytes, *, silent: bool) -> None:
    client: NbdClient = rig.client(SIZE, answers, contexts=(BASE, DIRTY), silent=silent, timeout=0.02)
    try:
        maps = client.block_status()
        for runs in maps.values():
            assert sum(length for _, length, _ in runs) == SIZE
        rig.collect(client.read([(1024, 3072)]), SIZE)
        client.write(0, b"a")
        client.flush()
    finally:
        client.abandon()


def test_the_sound_session() -> None:
    session(SOUND, silent=False)


@settings(deadline=3000, max_examples=400)
@given(st.data(), st.booleans())
def test_a_sound_session_with_damage(data: st.DataObject, silent: bool) -> None:
    said = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(said) - 1))
        match data.draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "change":
                said[at] = data.draw(st.integers(0, 255))
            case "remove":
                del said[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                said[at:at] = data.draw(st.binary(max_size=40))
            case _:
                del said[at:]
        if not said:
            break
    with contextlib.suppress(ProtocolError, HostError):
        session(bytes(said), silent=silent)


@settings(deadline=3000, max_examples=200)
@given(st.binary(max_size=200))
def test_random_answers(answers: bytes) -> None:
    with pytest.raises((ProtocolError, HostError)):
        session(answers, silent=False)


# --- the map's container ------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 3)), max_size=30), st.integers(0, 2**40))
def test_a_status_map_is_a_sequence_of_merged_runs(runs: list[tuple[int, int]], start: int) -> None:
    found = StatusMap(start)
    expected: list[tuple[int, int, int]] = []
    position = start
    for length, flags in runs:
        found.append(length, flags)
        if expected and expected[-1][2] == flags:
            offset, old, _ = expected.pop()
            expected.append((offset, old + length, flags))
        else:
            expected.append((position, length, flags))
        position += length
    assert list(found) == expected
    assert found == expected
    assert [found[at] for at in range(-len(found), len(found))] == expected * 2
    assert found[1:3] == expected[1:3]
    assert found.end == position
    assert "StatusMap" in repr(found)
