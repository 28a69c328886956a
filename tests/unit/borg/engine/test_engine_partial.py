from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.borg.engine.parking import Parking
from vmconsole.borg.engine.partial import Overlap, Partial, Source


def test_the_last_part_completes_it() -> None:
    part = Partial(10, Parking(64))
    part.add(4, 10, Source.DATA, b"456789")
    assert not part.complete
    part.add(0, 4, Source.PARENT)
    assert part.complete
    assert part.needs_parent
    assert not part.only_parent
    assert bytes(part.filled(b"abcdefghij")) == b"abcd456789"


def test_without_data_there_is_no_buffer() -> None:
    part = Partial(10, Parking(64))
    part.add(0, 5, Source.PARENT)
    part.add(5, 10, Source.PARENT)
    assert part.complete
    assert part.only_parent
    assert not part.has_data


def test_a_longer_parent_is_cut() -> None:
    part = Partial(4, Parking(64))
    part.add(0, 4, Source.PARENT)
    assert bytes(part.filled(b"abcdefgh")) == b"abcd"


@pytest.mark.parametrize(("start", "end"), [(0, 1), (2, 3), (3, 7), (2, 8), (0, 10), (7, 9), (4, 6)])
def test_no_byte_twice(start: int, end: int) -> None:
    part = Partial(10, Parking(64))
    part.add(0, 3, Source.ZERO)
    part.add(4, 8, Source.DATA, b"data")
    with pytest.raises(Overlap):
        part.add(start, end, Source.ZERO)


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_any_cut_in_any_order(length: int, seed: int) -> None:
    source = random.Random(seed)
    parent, wanted = source.randbytes(length), bytearray(length)
    edges = sorted({0, length, *(source.randrange(length + 1) for _ in range(source.randrange(12)))})
    ranges = list(pairwise(edges))
    source.shuffle(ranges)
    part = Partial(length, Parking(64))
    for start, end in ranges:
        assert not part.complete
        kind = source.choice(list(Source))
        data = source.randbytes(end - start) if kind is Source.DATA else b""
        if kind is not Source.ZERO:
            wanted[start:end] = data if kind is Source.DATA else parent[start:end]
        part.add(start, end, kind, data)
    assert part.complete
    assert part.filled(parent) == wanted
