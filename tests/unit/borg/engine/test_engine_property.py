"""Random disks, written in random pieces and order, against a model of plain bytes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from borg_lab import DISK, Lab, fill_archive, name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.interfaces import DiskWriter, RepositoryWriter
from vmconsole.model.extent import Content

CHUNK = 4096

_DAYS = itertools.count()


@pytest.fixture(scope="module")
def writer(
    borg_templates: Callable[[str], object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, RepositoryWriter]]:
    """One open session for all examples: opening is what takes time."""
    import shutil

    from borg_lab import PASSPHRASE

    from vmconsole.borg.settings import BorgSettings

    folder = tmp_path_factory.mktemp("property")
    shutil.copytree(str(borg_templates("repokey-blake2")), folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BORG_BASE_DIR", str(folder / "home"))
        lab = Lab(BorgSettings("store", str(folder / "repo"), lambda: PASSPHRASE, chunk_size=CHUNK))
        with lab.repository.writer(lab.context) as opened:
            yield lab, opened
        lab.assert_clean()


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int, str]], int]:
    """(parent size, size, ranges with their kind, seed): the ranges cut the disk, in any order."""
    parent = draw(st.integers(0, 6 * CHUNK + 100))
    size = draw(st.one_of(st.just(parent), st.integers(1, 7 * CHUNK)))
    edges = st.one_of(st.integers(0, size), st.integers(0, size // CHUNK).map(lambda index: index * CHUNK))
    cuts = sorted({0, size, min(parent, size), *draw(st.lists(edges, max_size=12))})
    ranges = []
    for start, end in itertools.pairwise(cuts):
        kinds = ["data", "zeros", "zero"] + (["reuse", "reuse"] if end <= parent else [])
        ranges.append((start, end, draw(st.sampled_from(kinds))))
    return parent, size, draw(st.permutations(ranges)), draw(st.integers(0, 2**32))


def apply(disk: DiskWriter, ranges: list[tuple[int, int, str]], image: bytes) -> None:
    for start, end, kind in ranges:
        if kind == "reuse":
            disk.reuse(start, end - start)
        elif kind == "zero":
            disk.zero(start, end - start)
        else:
            disk.data(start, memoryview(image)[start:end])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_any_pieces_in_any_order_give_the_disk(
    writer: tuple[Lab, RepositoryWriter], plan: tuple[int, int, list[tuple[int, int, str]], int]
) -> None:
    _, session = writer
    parent_size, size, ranges, seed = plan
    source = random.Random(seed)
    parent = bytearray(source.randbytes(parent_size))
    for _ in range(source.randrange(3)):  # some whole zero chunks in the parent
        index = source.randrange(8)
        zeros = len(parent[index * CHUNK : (index + 1) * CHUNK])
        parent[index * CHUNK : index * CHUNK + zeros] = bytes(zeros)
    image = bytearray(size)
    for start, end, kind in ranges:
        if kind == "data":
            image[start:end] = source.randbytes(end - start)
        elif kind == "reuse":
            image[start:end] = parent[start:end]
    first, second = name(next(_DAYS)), name(next(_DAYS))
    fill_archive(session.archive(first), first, parent_size, lambda disk: disk.data(0, bytes(parent)))
    archive = session.archive(second)
    fill_archive(archive, second, size, lambda disk: apply(disk, ranges, bytes(image)), parent=first)
    assert_reads(writer, second, bytes(image))


def assert_reads(writer: tuple[Lab, RepositoryWriter], archive: str, image: bytes) -> None:
    """Through the session itself: a reader would wait for the writer."""
    from vmconsole.borg.engine import catalog
    from vmconsole.borg.engine.fetching import ChunkCache
    from vmconsole.borg.engine.reader import EngineDiskReader

    access = writer[1]._session.access  # type: ignore[attr-defined] - the engine's own writer
    cache = ChunkCache(access)
    try:
        disk = EngineDiskReader(access, cache, catalog.disk(access, archive, DISK))
        assert disk.read_at(0, disk.size) == image
        position = 0
        for extent in disk.extents():
            assert extent.offset == position
            position = extent.end
            if extent.content is Content.ZERO:
                assert not any(image[extent.offset : extent.end])
        assert position == len(image)
    finally:
        cache.close()
