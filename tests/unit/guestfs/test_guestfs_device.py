from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.guestfs.device import BLOCK, Device, Memory, Part, Patched, Run, Runs

CONTENT = bytes(range(256)) * 1024  # 4 blocks


@given(st.integers(0, len(CONTENT) + 10), st.integers(0, len(CONTENT)))
def test_a_device_gives_what_it_asked_for(offset, length):
    device = Device(len(CONTENT), lambda at, size: CONTENT[at : at + size])
    assert device.read_at(offset, length) == CONTENT[offset : offset + length]


def test_a_block_is_asked_for_once():
    asked = []
    device = Device(10 * BLOCK, lambda at, size: asked.append((at, size)) or bytes(size))
    for offset in range(0, BLOCK, 512):
        device.read_at(offset, 512)
    assert asked == [(0, BLOCK)]


def test_a_stream_reads_as_files_do():
    stream = Memory(b"0123456789")
    assert (stream.read(3), stream.tell(), stream.read()) == (b"012", 3, b"3456789")
    stream.seek(-2, 2)
    assert stream.read(10) == b"89"
    with pytest.raises(ValueError, match="beginning"):
        stream.seek(-1)


runs = st.lists(st.tuples(st.integers(1, 50), st.one_of(st.none(), st.integers(0, 900))), max_size=8)


@given(runs, st.integers(0, 450), st.integers(0, 450))
def test_runs_are_their_pieces_in_a_row(pieces, offset, length):
    source = Memory(CONTENT[:1000])
    whole = b"".join(bytes(size) if at is None else CONTENT[at : at + size] for size, at in pieces)
    made = Runs([Run(size, at or 0, None if at is None else source) for size, at in pieces], 400)
    expected = whole[:400].ljust(400, b"\0")
    assert made.read_at(offset, length) == expected[offset : offset + length]


def test_a_run_beyond_its_source_is_not_invented():
    with pytest.raises(EOFError):
        Runs([Run(100, 950, Memory(bytes(1000)))]).read_at(0, 100)


@given(st.integers(0, 120), st.integers(0, 120), st.sets(st.integers(0, 9)))
def test_patched_blocks_are_seen(offset, length, blocks):
    below = bytearray(CONTENT[:100])
    made = Patched(Memory(bytes(below)), 10, dict.fromkeys(blocks, b"x" * 10))
    for number in blocks:
        below[number * 10 : number * 10 + 10] = b"x" * 10
    assert made.read_at(offset, length) == bytes(below[offset : offset + length])


def test_a_part_ends_where_the_whole_does():
    part = Part(Memory(b"0123456789"), 8, 100)
    assert (part.size, part.read_at(1, 5), part.read_at(5, 5)) == (2, b"9", b"")
