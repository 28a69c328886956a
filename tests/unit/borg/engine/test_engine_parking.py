"""Disks that come in small pieces, out of order."""

from __future__ import annotations

import errno
import os
import random
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from borg_lab import DISK, Lab, fill_archive, name, noise, point, sha
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.borg.engine import parking as module
from vmconsole.borg.engine.parking import Parked, Parking
from vmconsole.errors import BackupFailed
from vmconsole.interfaces import DiskWriter

CLUSTER = 64 * 1024
KIB, MIB = 1024, 1024 * 1024


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class TestParking:
    @settings(max_examples=60)
    @given(st.integers(0, 2**32), st.integers(0, 4000))
    def test_any_pieces_come_back(self, seed: int, limit: int) -> None:
        source, room = random.Random(seed), 1000
        parking = Parking(room, limit)
        chunks: dict[int, tuple[Parked, bytearray, list[tuple[int, int]]]] = {}
        for _ in range(source.randrange(1, 60)):
            number = source.randrange(8)
            if number in chunks and source.random() < 0.2:
                parked, wanted, ranges = chunks.pop(number)
                assert parking.take(parked, room, ranges) == wanted
                continue
            parked, wanted, ranges = chunks.setdefault(number, (Parked(), bytearray(room), []))
            start = source.randrange(room)
            data = source.randbytes(source.randrange(1, room - start + 1))
            parking.add(parked, start, data)
            wanted[start : start + len(data)] = data
            ranges.append((start, start + len(data)))
            assert parking.bytes_in_memory <= limit
        for parked, wanted, ranges in chunks.values():
            assert parking.take(parked, room, ranges) == wanted
        assert parking.bytes_in_memory == 0
        parking.close()

    def test_places_in_the_file_are_used_again(self) -> None:
        parking = Parking(CLUSTER, 0)
        for number in range(100):
            parked = Parked()
            parking.add(parked, 0, noise(100, number))
            assert parking.take(parked, 200, [(0, 100)]) == noise(100, number) + bytes(100)
        assert parking.slots == 1

    def test_what_an_earlier_chunk_left_there_is_not_seen(self) -> None:
        parking = Parking(100, 0)
        first, second = Parked(), Parked()
        parking.add(first, 0, b"x" * 100)
        parking.drop(first)
        parking.add(second, 10, b"y")
        assert parking.take(second, 100, [(10, 11)]) == bytes(10) + b"y" + bytes(89)

    def test_closing_leaves_no_file(self) -> None:
        before = open_files()
        parking = Parking(100, 0)
        parking.add(Parked(), 0, b"x")
        assert open_files() == before + 1
        parking.close()
        parking.close()
        assert open_files() == before

    def test_a_full_disk_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(module.os, "pwrite", full)
        with pytest.raises(BackupFailed, match="No space left") as caught:
            Parking(100, 0).add(Parked(), 0, b"x")
        assert "TMPDIR" in caught.value.hint


def clusters(content: bytes, order: list[int]) -> Callable[[DiskWriter], None]:
    """Give a disk cluster by cluster, zero ones as such."""

    def fill(disk: DiskWriter) -> None:
        for number in order:
            piece = content[number * CLUSTER : (number + 1) * CLUSTER]
            if any(piece):
                disk.data(number * CLUSTER, piece)
            else:
                disk.zero(number * CLUSTER, len(piece))

    return fill


class TestOutOfOrder:
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 2**32), st.integers(1, 24), st.integers(0, CLUSTER - 1))
    def test_any_order_makes_the_same_disk(
        self, make_lab: Callable[..., Lab], seed: int, count: int, tail: int
    ) -> None:
        source = random.Random(seed)
        content = b"".join(
            noise(CLUSTER, seed + number) if source.random() < 0.7 else bytes(CLUSTER)
            for number in range(count)
        )[: count * CLUSTER - tail]
        order = list(range(count))
        source.shuffle(order)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.Parking.__init__, "__defaults__", (source.choice([0, 300 * KIB, MIB]),))
            lab = self._lab(make_lab)
            self.day = getattr(self, "day", 0) + 1
            archive = name(self.day)
            with lab.repository.writer(lab.context) as writer:
                straight = writer.archive(name(self.day, "straight"))
                disk = straight.disk(DISK, len(content))
                disk.data(0, content)
                ids = straight._disks[DISK]
                disk.close()
                wanted = bytes(ids.chunks().ids)
                straight.abort()
                shuffled = writer.archive(archive)
                clusters(content, order)(shuffled.disk(DISK, len(content)))
                shuffled._disks[DISK].close()
                assert bytes(shuffled._disks[DISK].chunks().ids) == wanted
                shuffled.commit(point(archive, {DISK: len(content)}), {})
        assert sha(lab.read(archive)) == sha(content)

    def _lab(self, make_lab: Callable[..., Lab]) -> Lab:
        made: Lab | None = getattr(self, "lab", None)
        if made is None:
            made = self.lab = make_lab(chunk_size=256 * KIB)
        return made

    def test_two_disks_at_once_from_two_threads(self, make_lab: Callable[..., Lab]) -> None:
        lab = make_lab(chunk_size=MIB)
        contents = {f"disks/{key}.raw": noise(6 * MIB + 512, key) for key in range(2)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.Parking.__init__, "__defaults__", (MIB,))
            with lab.repository.writer(lab.context) as writer:
                archive = writer.archive(name(1))
                threads = []
                for path, content in contents.items():
                    order = list(range(-(-len(content) // CLUSTER)))
                    random.Random(path).shuffle(order)
                    fill = clusters(content, order)
                    threads.append(threading.Thread(target=fill, args=(archive.disk(path, len(content)),)))
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                archive.commit(point(name(1), {path: len(data) for path, data in contents.items()}), {})
                assert archive._parking.peak <= MIB + CLUSTER
        lab.assert_clean()
        for path, content in contents.items():
            assert sha(lab.extracted(name(1), path)) == sha(content)

    def test_memory_is_bounded_by_what_was_given(self, make_lab: Callable[..., Lab]) -> None:
        """One cluster of each of 512 chunks, then the next of each: all are incomplete at once."""
        lab = make_lab(chunk_size=MIB, compression="none")
        count, limit = 512, 4 * MIB
        with pytest.MonkeyPatch.context() as patch, lab.repository.writer(lab.context) as writer:
            patch.setattr(module.Parking.__init__, "__defaults__", (limit,))
            archive = writer.archive(name(1))
            disk = archive.disk(DISK, count * MIB)
            tracemalloc.start()
            for number in range(count):
                disk.data(number * MIB, noise(4 * KIB, number))
            assert tracemalloc.get_traced_memory()[1] < limit + 4 * MIB
            assert archive._parking.slots == 0  # 2 MiB were given; 512 MiB of chunks they belong to
            for number in range(count):
                disk.data(number * MIB + 4 * KIB, noise(16 * KIB, number))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert archive._parking.bytes_in_memory <= limit
            assert archive._parking.slots > 100
            assert peak < limit + 4 * MIB
            archive.abort()

    def test_an_abort_lets_go_of_everything(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module.Parking.__init__, "__defaults__", (0,))
        with lab.repository.writer(lab.context) as writer:
            before = open_files()
            archive = writer.archive(name(1))
            archive.disk(DISK, 10 * CLUSTER).data(5, b"abc")
            archive.abort()
            assert open_files() == before
            fill_archive(writer.archive(name(2)), name(2), 3, lambda disk: disk.data(0, b"abc"))
        lab.assert_clean()
