"""Several archives and many threads in one session."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from borg_lab import CHUNK, DISK, Clock, Lab, fill_archive, name, noise, point, wait_until

from vmconsole.errors import BackupFailed, Cancelled
from vmconsole.interfaces import DiskWriter

SIZE = 12 * CHUNK


def test_many_threads_and_many_chunks(lab: Lab) -> None:
    """Borg's ciphers and compressors are not thread-safe; whoever shares one stores wrong data here."""
    guests = 4
    barrier = threading.Barrier(guests)
    with lab.repository.writer(lab.context) as writer:

        def backup(guest: int) -> None:
            archive = writer.archive(name(guest))
            disk = archive.disk(DISK, 40 * CHUNK)
            barrier.wait(10)
            for index in reversed(range(40)):
                content = noise(CHUNK, guest) if index % 3 == 0 else noise(CHUNK // 2, index) * 2
                disk.data(index * CHUNK, content)
            disk.close()
            archive.commit(point(name(guest), {DISK: 40 * CHUNK}), {})

        with ThreadPoolExecutor(guests) as pool:
            list(pool.map(backup, range(guests)))
    lab.assert_clean()
    for guest in range(guests):
        image = lab.extracted(name(guest))
        for index in range(40):
            wanted = noise(CHUNK, guest) if index % 3 == 0 else noise(CHUNK // 2, index) * 2
            assert image[index * CHUNK : (index + 1) * CHUNK] == wanted
        assert lab.read(name(guest)) == image


def test_one_disk_written_by_many_threads(lab: Lab) -> None:
    image = noise(50 * CHUNK + 7)
    step = 10_000
    with lab.repository.writer(lab.context) as writer:

        def fill(disk: DiskWriter) -> None:
            with ThreadPoolExecutor(6) as pool:
                list(pool.map(lambda at: disk.data(at, image[at : at + step]), range(0, len(image), step)))

        fill_archive(writer.archive(name(0)), name(0), len(image), fill)
    assert lab.read(name(0)) == image


def test_a_commit_covers_what_others_have_stored_so_far(lab: Lab) -> None:
    """Nothing waits for anything: the unfinished one gets a checkpoint, and loses it when it is done."""
    with lab.repository.writer(lab.context) as writer:
        slow = writer.archive(name(0, "db"))
        disk = slow.disk(DISK, SIZE)
        disk.data(0, noise(4 * CHUNK))
        fill_archive(writer.archive(name(1)), name(1), SIZE, lambda quick: quick.data(0, noise(SIZE, 5)))
        disk.data(4 * CHUNK, noise(4 * CHUNK, 1))
        fill_archive(writer.archive(name(2)), name(2), SIZE, lambda quick: quick.data(0, noise(SIZE, 5)))
        assert [made.archive for made in writer.points()] == [name(2), name(1)]
        disk.data(8 * CHUNK, noise(4 * CHUNK, 2))
        disk.close()
        slow.commit(point(name(0, "db"), {DISK: SIZE}), {})
    assert lab.archives() == sorted([name(0, "db"), name(1), name(2)])
    lab.assert_clean()
    assert lab.read(name(0, "db")) == noise(4 * CHUNK) + noise(4 * CHUNK, 1) + noise(4 * CHUNK, 2)


@pytest.mark.parametrize("attempt", range(5))
def test_what_is_left_when_the_other_one_never_finishes(lab: Lab, attempt: int) -> None:
    """Its chunks are still on their way through the workers when the session closes."""
    with lab.repository.writer(lab.context) as writer:
        slow = writer.archive(name(0, "db"))
        slow.disk(DISK, SIZE).data(0, noise(4 * CHUNK))
        fill_archive(writer.archive(name(1)), name(1), SIZE, lambda quick: quick.zero(0, SIZE))
    assert lab.archives() == [name(1)]
    lab.assert_clean()


@pytest.mark.parametrize("commits", [0, 1, 2])
def test_abort_leaves_nothing(lab: Lab, commits: int) -> None:
    """commits: how many others commit while the aborted one holds chunks, some of them shared."""
    shared, own = noise(2 * CHUNK, 1), noise(6 * CHUNK, 2)
    with lab.repository.writer(lab.context) as writer:
        given_up = writer.archive(name(0, "db"))
        disk = given_up.disk(DISK, SIZE)
        disk.data(0, own + shared)
        wait_until(lambda: disk.bytes_stored > 8 * CHUNK)
        for day in range(1, commits + 1):
            fill_archive(
                writer.archive(name(day)),
                name(day),
                SIZE,
                lambda d: (d.data(0, shared), d.zero(2 * CHUNK, SIZE - 2 * CHUNK)),
            )
        given_up.abort()
        given_up.abort()
        with pytest.raises(BackupFailed):
            disk.data(8 * CHUNK, b"more")
        with pytest.raises(BackupFailed, match="finished already"):
            given_up.commit(point(name(0, "db"), {DISK: SIZE}), {})
        fill_archive(writer.archive(name(9)), name(9), SIZE, lambda d: d.data(0, noise(SIZE, 9)))
    assert lab.archives() == sorted([*map(name, range(1, commits + 1)), name(9)])
    lab.assert_clean()


def test_a_chunk_that_comes_too_late_is_refused_and_breaks_nothing(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        given_up = writer.archive(name(0, "db"))
        session, draft = given_up._session, given_up._draft  # type: ignore[attr-defined] - the engine's own writer
        given_up.abort()
        for late in (lambda: session.store(draft, noise(CHUNK)), lambda: session.store_zero(draft, CHUNK)):
            with pytest.raises(BackupFailed, match="not being written any more"):
                late()
        fill_archive(writer.archive(name(1)), name(1), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    lab.assert_clean()


def test_an_aborted_session_takes_its_segments_along(lab: Lab) -> None:
    before = sorted(path.name for path in (lab.path / "data" / "0").iterdir())
    with lab.repository.writer(lab.context) as writer:
        writer.archive(name(0)).disk(DISK, SIZE).data(0, noise(SIZE))
    assert sorted(path.name for path in (lab.path / "data" / "0").iterdir()) == before
    lab.assert_clean()


def test_a_checkpoint_of_a_dead_run_goes_with_the_guests_next_backup(lab: Lab) -> None:
    def die(lab: Lab) -> None:
        """What a killed run leaves: closing without taking anything back."""
        with lab.repository.writer(lab.context) as writer:
            slow = writer.archive(name(0, "db"))
            disk = slow.disk(DISK, SIZE)
            disk.data(0, noise(4 * CHUNK))
            wait_until(lambda: disk.bytes_stored > 4 * CHUNK)
            fill_archive(writer.archive(name(1)), name(1), SIZE, lambda quick: quick.zero(0, SIZE))
            session = writer._session  # type: ignore[attr-defined] - the engine's own writer
            session._broken = RuntimeError("killed")

    die(lab)
    assert lab.archives() == sorted([name(0, "db") + ".checkpoint", name(1)])
    lab.assert_clean()
    with lab.repository.reader() as reader:
        assert [made.archive for made in reader.points()] == [name(1)]
    lab.write(name(2), SIZE, lambda disk: disk.zero(0, SIZE))
    assert name(0, "db") + ".checkpoint" in lab.archives(), "another guest's backup leaves it alone"
    _, stored = lab.write(name(3, "db"), SIZE, lambda disk: disk.data(0, noise(4 * CHUNK) + bytes(8 * CHUNK)))
    assert stored == 0, "the chunks of the dead run were found"
    assert lab.archives() == sorted([name(1), name(2), name(3, "db")])
    lab.assert_clean()


def test_a_long_read_is_made_permanent_now_and_then(lab: Lab) -> None:
    clock = SteppedClock()
    with lab.repository.writer(replace(lab.context, clock=clock)) as writer:
        disk = writer.archive(name(0)).disk(DISK, SIZE)
        disk.data(0, noise(4 * CHUNK))
        wait_until(lambda: disk.bytes_stored > 4 * CHUNK)
        clock.passed += 3600
        disk.data(4 * CHUNK, noise(CHUNK, 1))
        wait_until(lambda: disk.bytes_stored > 5 * CHUNK)
        writer._session._broken = RuntimeError("killed")  # type: ignore[attr-defined] - the engine's own writer
    assert lab.archives() == [name(0) + ".checkpoint"]
    lab.assert_clean()
    image = noise(4 * CHUNK) + noise(CHUNK, 1) + bytes(7 * CHUNK)
    _, stored = lab.write(name(1), SIZE, lambda disk: disk.data(0, image))
    assert stored == 0
    assert lab.archives() == [name(1)]
    lab.assert_clean()


class SteppedClock(Clock):
    passed = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.passed


def test_a_stock_archive_with_a_checkpoints_name_is_left_alone(lab: Lab) -> None:
    foreign = name(0) + ".checkpoint"
    lab.borg("create", f"::{foreign}", "/etc/hostname")
    lab.write(name(1), SIZE, lambda disk: disk.zero(0, SIZE))
    assert foreign in lab.archives()


def test_a_cancel_stops_the_writer(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        disk = writer.archive(name(0)).disk(DISK, SIZE)
        disk.data(0, noise(CHUNK))
        lab.cancel.set("Stopped by the test.")
        with pytest.raises(Cancelled, match="by the test"):
            disk.data(CHUNK, noise(CHUNK))
    assert lab.archives() == []
    lab.assert_clean()
