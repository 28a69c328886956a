"""The inbox of a channel."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko.buffered_pipe import PipeTimeout

from vmconsole.remote.ssh_transport import Inbox


def inbox() -> Inbox:
    return Inbox(threading.Condition())


@given(pieces=st.lists(st.binary(max_size=50)), sizes=st.lists(st.integers(1, 60), min_size=1))
def test_everything_comes_out_in_order(pieces: list[bytes], sizes: list[int]) -> None:
    box = inbox()
    for piece in pieces:
        box.feed(piece)
    box.close()
    total = sum(map(len, pieces))
    assert len(box) == total
    out = b""
    turn = 0
    while data := box.read(sizes[turn % len(sizes)]):
        assert len(data) <= sizes[turn % len(sizes)]
        out += data
        turn += 1
        assert len(box) == total - len(out)
    assert out == b"".join(pieces)
    assert box.at_end()


def test_waits_for_data() -> None:
    box = inbox()
    threading.Timer(0.05, box.feed, [b"late"]).start()
    assert box.read(10, 10) == b"late"


def test_waits_for_the_end() -> None:
    box = inbox()
    threading.Timer(0.05, box.close).start()
    assert box.read(10) == b""


def test_time_limit() -> None:
    box = inbox()
    with pytest.raises(PipeTimeout):
        box.read(10, 0.01)
    assert not box.at_end()


def test_data_before_the_end_is_not_lost() -> None:
    box = inbox()
    box.feed(b"ab")
    box.close()
    assert not box.at_end()
    assert box.read_ready()
    assert box.read(10) == b"ab"
    assert box.at_end()
