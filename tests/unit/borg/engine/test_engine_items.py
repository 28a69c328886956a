"""Member lists: those that stock Borg writes, ours, and hostile ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from borg.helpers import msgpack
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.borg.engine.items import find, members
from vmconsole.errors import RepositoryDamaged

ID = bytes(range(32))


def stream(data: bytes, cut: int = 1000) -> tuple[Callable[[Sequence[bytes]], list[bytes]], list[bytes]]:
    """An item stream as the repository would serve it: pieces by id."""
    pieces = [data[start : start + cut] for start in range(0, len(data), cut)]
    ids = [index.to_bytes(32, "big") for index in range(len(pieces))]
    return lambda wanted: [pieces[int.from_bytes(id_, "big")] for id_ in wanted], ids


def item(path: str, chunks: int = 0, **more: object) -> bytes:
    """As stock Borg packs one: keys sorted, so that the chunks come before the path."""
    document = {"path": path, "chunks": [(ID, 10, 5)] * chunks, "mtime": 1, "mode": 0o100644, **more}
    return msgpack.packb(dict(sorted(document.items())))


@pytest.mark.parametrize("cut", [1, 7, 1000, 10**6])
def test_members_in_order_with_the_lists_that_are_wanted(cut: int) -> None:
    data = (
        item("a", 3)
        + item("b", 500)
        + item("c", 2)
        + msgpack.packb({"path": "dir", "mode": 0o40755, "mtime": 1})
    )
    fetch, ids = stream(data, cut)
    found = list(members(fetch, ids, {"a", "c"}.__contains__))
    assert [member.path for member in found] == ["a", "b", "c", "dir"]
    assert [member.chunks.count if member.chunks else None for member in found] == [3, None, 2, None]
    assert find(fetch, ids, "b").chunks.size == 5000  # type: ignore[union-attr] - it is there
    assert find(fetch, ids, "nowhere") is None


def test_only_the_first_piece_is_fetched_for_the_first_member() -> None:
    fetch, ids = stream(item("guest.json", 1) + item("disks/vda.raw", 10_000), 2000)
    asked: list[bytes] = []

    def counting(wanted: Sequence[bytes]) -> list[bytes]:
        asked.extend(wanted)
        return fetch(wanted)

    assert next(members(counting, ids, lambda path: path == "guest.json")).path == "guest.json"
    assert asked == ids[:1]


def test_repaired_files_are_marked() -> None:
    fetch, ids = stream(item("a", 1, chunks_healthy=[(ID, 10, 5)]))
    assert next(members(fetch, ids, lambda path: True)).damaged


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb([1, 2]),
        msgpack.packb(5),
        msgpack.packb({"mode": 1}),
        msgpack.packb({"path": 5}),
        msgpack.packb({"path": "a", "chunks": 5}),
        msgpack.packb({"path": "a", "chunks": [(ID, -1, 5)]}),
        msgpack.packb({"path": "a", "chunks": [(ID, 2**40, 5)]}),
        msgpack.packb({"path": "a", "chunks": [(ID[:31], 10, 5)]}),
        msgpack.packb({"path": "a", "chunks": [(ID, 10)]}),
        msgpack.packb({"path": "a", "chunks": [None]}),
        msgpack.packb({str(key): 1 for key in range(100)}),
        item("a", 5)[:-1],
        b"\x81\xa4path\xdd\xff\xff\xff\xff",
        b"\x82\xa4path\xa1a\xa6chunks\xdd\xff\xff\xff\xff",
    ],
)
def test_hostile_lists(data: bytes) -> None:
    fetch, ids = stream(data)
    with pytest.raises(RepositoryDamaged, match="list of files cannot be read"):
        list(members(fetch, ids, lambda path: True))


@given(st.binary(max_size=300))
def test_anything_at_all_is_read_or_refused(data: bytes) -> None:
    fetch, ids = stream(data)
    try:
        for member in members(fetch, ids, lambda path: True):
            assert isinstance(member.path, str)
    except RepositoryDamaged:
        pass
