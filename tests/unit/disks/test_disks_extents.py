"""Extents against a model that looks at every byte."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.disks.extents import (
    bytes_of,
    dirty_bytes,
    full_extents,
    incremental_extents,
    ranges,
    require_cover,
    split,
)
from vmconsole.errors import ProtocolError
from vmconsole.model.extent import Content, Extent

DATA, ZERO, CLEAN = Content.DATA, Content.ZERO, Content.CLEAN
Run = tuple[int, int, int]


@st.composite
def maps(draw: st.DrawFn, size: int) -> list[Run]:
    """A map of exactly size bytes; neighbours may have equal flags."""
    cuts = sorted(draw(st.sets(st.integers(1, size - 1), max_size=12))) if size > 1 else []
    edges = [0, *cuts, size] if size else []
    flags = [draw(st.integers(0, 7)) for _ in edges]
    return [(a, b - a, flag) for a, b, flag in zip(edges, edges[1:], flags, strict=False)]


def per_byte(runs: list[Run]) -> list[int]:
    return [flags for _, length, flags in runs for _ in range(length)]


def contents(extents: list[Extent]) -> list[Content]:
    return [extent.content for extent in extents for _ in range(extent.length)]


def check_form(extents: list[Extent], size: int) -> None:
    require_cover(extents, size)
    assert all(a.content is not b.content for a, b in pairwise(extents))


@given(st.data(), st.integers(0, 200))
def test_full_reads(data: st.DataObject, size: int) -> None:
    allocation = data.draw(maps(size))
    extents = full_extents(allocation, size)
    check_form(extents, size)
    assert contents(extents) == [ZERO if flags & 2 else DATA for flags in per_byte(allocation)]


@given(st.data(), st.integers(0, 200), st.integers(0, 250))
def test_increments(data: st.DataObject, size: int, old_size: int) -> None:
    allocation, dirty = data.draw(maps(size)), data.draw(maps(size))
    extents = incremental_extents(iter(allocation), iter(dirty), size, old_size)
    check_form(extents, size)
    expected = [
        CLEAN if at < old_size and not is_dirty & 1 else ZERO if flags & 2 else DATA
        for at, (flags, is_dirty) in enumerate(zip(per_byte(allocation), per_byte(dirty), strict=True))
    ]
    assert contents(extents) == expected
    assert dirty_bytes(extents) == sum(content is not CLEAN for content in expected)
    assert bytes_of(extents, ZERO) == expected.count(ZERO)
    assert sum(length for _, length in ranges(extents, DATA, CLEAN)) == size - expected.count(ZERO)


@given(st.data(), st.integers(1, 200), st.integers(1, 70))
def test_split(data: st.DataObject, size: int, chunk: int) -> None:
    extents = full_extents(data.draw(maps(size)), size)
    pieces = list(split(extents, chunk))
    require_cover(pieces, size)
    assert contents(pieces) == contents(extents)
    assert all(piece.offset // chunk == (piece.end - 1) // chunk for piece in pieces)


def test_a_dirty_range_that_reads_as_zeros_is_stored_as_zeros() -> None:
    allocation = [(0, 100, 0), (100, 100, 3), (200, 100, 0)]
    dirty = [(0, 150, 1), (150, 150, 0)]
    assert incremental_extents(allocation, dirty, 300, 300) == [
        Extent(0, 100, DATA),
        Extent(100, 50, ZERO),
        Extent(150, 150, CLEAN),
    ]


def test_what_a_disk_grew_by_is_dirty_whatever_the_bitmap_says() -> None:
    allocation = [(0, 100, 0), (100, 100, 3), (200, 100, 0)]
    assert incremental_extents(allocation, [(0, 300, 0)], 300, 50) == [
        Extent(0, 50, CLEAN),
        Extent(50, 50, DATA),
        Extent(100, 100, ZERO),
        Extent(200, 100, DATA),
    ]


def test_a_hole_that_does_not_promise_zeros_is_read() -> None:
    assert full_extents([(0, 100, 1), (100, 100, 2)], 200) == [Extent(0, 100, DATA), Extent(100, 100, ZERO)]


def test_without_an_allocation_map_everything_is_data() -> None:
    assert full_extents(None, 100) == [Extent(0, 100, DATA)]
    assert incremental_extents(None, [(0, 40, 1), (40, 60, 0)], 100, 100) == [
        Extent(0, 40, DATA),
        Extent(40, 60, CLEAN),
    ]
    assert full_extents(None, 0) == []


WRONG: list[list[Run]] = [
    [],
    [(0, 99, 0)],
    [(0, 101, 0)],
    [(1, 99, 0)],
    [(0, 50, 0), (51, 49, 0)],
    [(0, 50, 0), (49, 51, 0)],
    [(0, 0, 0), (0, 100, 0)],
    [(0, -1, 0), (-1, 101, 0)],
    [(0, 100, 0), (100, 1, 0)],
    [(50, 50, 0), (0, 50, 0)],
]


@pytest.mark.parametrize("wrong", WRONG)
def test_maps_that_do_not_cover_the_disk_exactly(wrong: list[Run]) -> None:
    right = [(0, 100, 1)]
    with pytest.raises(ProtocolError, match="map"):
        full_extents(wrong, 100)
    with pytest.raises(ProtocolError, match="map"):
        incremental_extents(wrong, right, 100, 100)
    with pytest.raises(ProtocolError, match="map"):
        incremental_extents(right, wrong, 100, 100)


@pytest.mark.parametrize("wrong", WRONG)
def test_extents_that_do_not_cover_the_disk_exactly(wrong: list[Run]) -> None:
    with pytest.raises(ProtocolError, match="map"):
        require_cover([Extent(offset, length, DATA) for offset, length, _ in wrong], 100)


def test_many_extents_take_one_pass() -> None:
    count = 100_000
    allocation = [(at * 10, 10, 3 * (at % 2)) for at in range(count)]
    dirty = [(at * 10 - 5 if at else 0, 10 if at else 5, at % 2) for at in range(count)]
    dirty.append((count * 10 - 5, 5, 0))
    began = time.monotonic()
    assert len(incremental_extents(allocation, dirty, count * 10, count * 10)) > count
    assert time.monotonic() - began < 5
