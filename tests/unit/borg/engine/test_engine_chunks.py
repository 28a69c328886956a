from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.borg.engine.chunks import ID, ChunkList, changed, contents, runs
from vmconsole.model.extent import Content, Extent

SIZE = 100


def ident(number: int) -> bytes:
    return number.to_bytes(ID, "big")


ZERO, LAST_ZERO = ident(0), ident(1)


def listed(*numbers: int, last: int = SIZE) -> ChunkList:
    lengths = [SIZE] * (len(numbers) - 1) + [last]
    return ChunkList.collect(zip(map(ident, numbers), lengths, strict=True))


@given(st.lists(st.integers(1, 50), max_size=30))
def test_offsets_of_any_list(lengths: list[int]) -> None:
    chunks = ChunkList.collect((ident(index), length) for index, length in enumerate(lengths))
    assert chunks.size == sum(lengths)
    assert chunks.count == len(lengths)
    starts = [chunks.start_of(index) for index in range(chunks.count + 1)]
    assert [end - start for start, end in pairwise(starts)] == lengths
    assert [chunks.length_at(index) for index in range(chunks.count)] == lengths
    for index, (start, end) in enumerate(pairwise(starts)):
        assert chunks.index_of(start) == chunks.index_of(end - 1) == index
        assert chunks.id_at(index) == ident(index)


@pytest.mark.parametrize(
    ("lengths", "aligned"),
    [
        ([], True),
        ([SIZE], True),
        ([1], True),
        ([SIZE, SIZE, 1], True),
        ([SIZE, 1, SIZE], False),
        ([SIZE, 1, 1], False),
        ([SIZE, SIZE + 1], False),
        ([1, SIZE], False),
        ([SIZE + 1], False),
        ([2 * SIZE, 2 * SIZE], False),
        ([SIZE // 2, SIZE // 2], False),
    ],
)
def test_what_counts_as_aligned(lengths: list[int], aligned: bool) -> None:
    assert ChunkList.collect((ident(9), length) for length in lengths).aligned(SIZE) is aligned


@given(st.lists(st.integers(0, 3), max_size=40))
def test_runs(numbers: list[int]) -> None:
    ids = b"".join(map(ident, numbers))
    flat: list[bytes] = []
    previous = b""
    for id_, first, count in runs(ids):
        assert first == len(flat)
        assert id_ != previous
        previous = id_
        flat += [id_] * count
    assert b"".join(flat) == ids


def test_contents_joins_neighbours() -> None:
    found = list(contents(listed(0, 0, 5, 6, 0, 1, last=7), ZERO, LAST_ZERO))
    assert found == [
        Extent(0, 200, Content.ZERO),
        Extent(200, 200, Content.DATA),
        Extent(400, 107, Content.ZERO),
    ]
    assert list(contents(ChunkList.collect(iter(())), b"", b"")) == []


def test_the_id_of_a_short_zero_chunk_means_nothing_elsewhere() -> None:
    found = list(contents(listed(1, 1, last=7), ZERO, LAST_ZERO))
    assert sum(extent.length for extent in found) == 107
    assert found[-1].content is Content.ZERO


def test_changed_is_told_from_the_lists() -> None:
    old, new = listed(5, 6, 7, 0, 9), listed(5, 8, 0, 0, 9, 4)
    assert list(changed(old, new, ZERO, LAST_ZERO)) == [
        Extent(100, 100, Content.DATA),
        Extent(200, 100, Content.ZERO),
        Extent(500, 100, Content.DATA),
    ]


def test_a_chunk_of_another_length_has_changed() -> None:
    assert list(changed(listed(5, 6, last=50), listed(5, 6), ZERO, LAST_ZERO)) == [
        Extent(100, 100, Content.DATA)
    ]


def test_lists_cut_differently_count_as_all_changed() -> None:
    old = ChunkList.collect(iter([(ident(5), 2 * SIZE)]))
    assert list(changed(old, listed(5, 0), ZERO, LAST_ZERO)) == [
        Extent(0, 100, Content.DATA),
        Extent(100, 100, Content.ZERO),
    ]
