"""The client's maps, with servers that answer short, long, wrongly or without end."""

from __future__ import annotations

import time
import tracemalloc

import nbd_rig as rig
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.disks.nbd import protocol
from vmconsole.disks.nbd.protocol import ReplyType
from vmconsole.disks.nbd.status import StatusMap
from vmconsole.errors import Cancelled, HostError, ProtocolError
from vmconsole.interfaces import Cancel

SIZE = 4096
BASE, DIRTY = "base:allocation", "qemu:dirty-bitmap:b"


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
    ("answers", "words"),
    [
        (rig.status(2, 10, [(SIZE, 0)]), "not asked"),
        (rig.status(1, 12, [(SIZE, 0)]), "not chosen"),
        (rig.status(1, 10, [(SIZE, 0)], done=False) * 2, "one twice"),
        (rig.status(1, 10, [(SIZE, 0)]), "leaves a context out"),
        (rig.status(1, 10, [(SIZE, 0)], done=False) + rig.finished(1), "leaves a context out"),
        (rig.finished(1), "leaves a context out"),
        (rig.simple(1), "leaves a context out"),
        (rig.status(1, 10, []), "a map of 4 bytes"),
        (rig.status(1, 10, [(0, 0)]), "empty range"),
        (rig.status(1, 10, [(SIZE, 0), (1, 0)]), "goes on after the end"),
        (rig.status(1, 10, [(2**32 - 1, 0), (2**32 - 1, 1)]), "goes on after the end"),
        (rig.data(1, 0, b"x"), "an answer of kind 1"),
        (protocol.chunk(ReplyType.BLOCK_STATUS, 1, 2**32 - 4), "a map of 4294967292 bytes"),
        (protocol.chunk(ReplyType.BLOCK_STATUS, 1, 7) + b"1234567", "a map of 7 bytes"),
        (protocol.chunk(ReplyType.BLOCK_STATUS, 1, 0), "a map of 0 bytes"),
        (rig.error(1, 5, done=False) * 10, "does not end"),
    ],
)
def test_lies_about_the_map(answers: bytes, words: str) -> None:
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=words):
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
