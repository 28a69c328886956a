"""The digest of a disk whose data comes in any order."""

from __future__ import annotations

import hashlib
import random
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import ProtocolError
from vmconsole.model.extent import Content, Extent
from vmconsole.runs import digest
from vmconsole.runs.digest import DiskDigest, worth_hashing

KIB = 1024


def layout(kinds: list[tuple[bool, int]]) -> list[Extent]:
    """From (data or zero, length)."""
    extents, position = [], 0
    for is_data, length in kinds:
        extents.append(Extent(position, length, Content.DATA if is_data else Content.ZERO))
        position += length
    return extents


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), max_size=20), st.randoms())
def test_it_is_that_of_the_whole_disk(kinds: list[tuple[bool, int]], dice: random.Random) -> None:
    extents = layout(kinds)
    disk = b"".join(
        dice.randbytes(extent.length) if extent.content is Content.DATA else bytes(extent.length)
        for extent in extents
    )
    pieces = []
    for extent in extents:
        if extent.content is Content.DATA:
            middle = extent.offset + dice.randint(0, extent.length)
            pieces += [(extent.offset, disk[extent.offset : middle]), (middle, disk[middle : extent.end])]
    pieces = [piece for piece in pieces if piece[1]]
    dice.shuffle(pieces)
    with DiskDigest(extents) as hasher:
        for offset, data in pieces:
            hasher.feed(offset, memoryview(data))
        assert hasher.finish() == hashlib.sha256(disk).hexdigest()


def test_missing_data_is_an_error() -> None:
    with DiskDigest(layout([(True, 10), (False, 5), (True, 10)])) as hasher:
        hasher.feed(15, bytes(10))
        with pytest.raises(ProtocolError):
            hasher.finish()


def test_a_gap_that_stays_open_does_not_cost_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "MAX_AHEAD", 64 * KIB)
    with DiskDigest(layout([(True, 1024 * KIB)])) as hasher:
        for offset in range(16 * KIB, 1024 * KIB, 16 * KIB):
            hasher.feed(offset, bytes(16 * KIB))
        hasher.feed(0, bytes(16 * KIB))
        assert hasher._order._early == {}
        assert hasher.finish() == ""


def test_no_thread_is_left_when_the_copying_fails() -> None:
    before = threading.active_count()
    with suppress(KeyError), DiskDigest(layout([(True, 100 * KIB)])) as hasher:
        for offset in range(0, 100 * KIB, KIB):
            hasher.feed(offset, bytes(KIB))
        raise KeyError
    assert threading.active_count() == before


GIB = 1024**3


@pytest.mark.parametrize(
    ("kinds", "worth"),
    [
        ([(False, GIB)], True),
        ([(False, GIB + 1)], False),
        ([(True, 5 * GIB), (False, 5 * GIB)], True),
        ([(True, 5 * GIB), (False, 5 * GIB + 1)], False),
        ([], True),
    ],
)
def test_zeros_are_hashed_as_long_as_they_are_not_most_of_the_work(
    kinds: list[tuple[bool, int]], worth: bool
) -> None:
    assert worth_hashing(layout(kinds)) is worth


def test_what_is_not_read_cannot_be_hashed() -> None:
    assert not worth_hashing([Extent(0, KIB, Content.DATA), Extent(KIB, KIB, Content.CLEAN)])
