"""Measures the storage engine against stock Borg. Run by hand, it prints figures and asserts nothing:

    python tests/bench/bench_engine.py [FOLDER] [--gib 4]

FOLDER needs about three times that much free space. Every measured step runs in a process of its own,
so that the peak memory is that of the step.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from vmconsole.borg.repository import BorgRepository, BorgSettings
from vmconsole.interfaces import Cancel, Context, Journal
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.remote.local import LocalMachine

MIB = 1024 * 1024
TIB = 1024 * 1024 * MIB
PATH = "disks/vda.raw"
PASSPHRASE = "bench"


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class NoJournal:
    def acquire(self, host: str, kind: str, payload: object) -> int:
        raise AssertionError("the engine acquires nothing on hosts")

    def release(self, entry: int) -> None: ...


def context() -> Context:
    journal: Journal = NoJournal()
    return Context("bench", lambda event: None, Cancel(), journal, WallClock())


def repository(folder: Path, name: str) -> BorgRepository:
    return BorgRepository(BorgSettings(name, str(folder / name), lambda: PASSPHRASE), LocalMachine())


def point(archive: str, size: int) -> RestorePoint:
    disk = DiskPoint("vda", PATH, size, "raw", Mode.FULL)
    return RestorePoint(
        archive=archive,
        guest="bench",
        uuid="0",
        host="here",
        hypervisor="none",
        time=datetime.now(UTC),
        consistency=Consistency.OFFLINE,
        disks=(disk,),
    )


def make_disk(path: Path, size: int) -> None:
    """40 % data in runs of 8 MiB; each MiB is half noise, half repetition: zstd halves it."""
    source = random.Random(1)
    with path.open("wb") as file:
        for offset in range(0, size, 8 * MIB):
            if source.random() < 0.4:
                file.seek(offset)
                for _ in range(8):
                    file.write(source.randbytes(MIB // 2) + source.randbytes(64) * (MIB // 128))
        file.truncate(size)


def pieces(path: Path) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, is data) as the file system tells."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position < size:
            try:
                data = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                data = size
            if data > position:
                yield position, data - position, False
            if data == size:
                return
            hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            yield data, hole - data, True
            position = hole


def step_full(folder: Path) -> None:
    raw = folder / "disk.raw"
    size = raw.stat().st_size
    with repository(folder, "engine").writer(context()) as writer, raw.open("rb") as file:
        archive = writer.archive("bench.00000000-20260101T000000Z")
        disk = archive.disk(PATH, size)
        for offset, length, is_data in pieces(raw):
            if not is_data:
                disk.zero(offset, length)
                continue
            file.seek(offset)
            for at in range(offset, offset + length, 4 * MIB):
                disk.data(at, file.read(min(4 * MIB, offset + length - at)))
        disk.close()
        archive.commit(point(archive.name, size), {})


def step_read(folder: Path) -> None:
    total = 0
    with repository(folder, "engine").reader() as reader:
        disk = reader.open_disk("bench.00000000-20260101T000000Z", PATH)
        for offset in range(0, disk.size, 4 * MIB):
            total += len(disk.read_at(offset, 4 * MIB))
    assert total == (folder / "disk.raw").stat().st_size


def step_forge(folder: Path) -> None:
    """A parent of 1 TiB with a million different chunks: true counts, contents of eight bytes."""
    from vmconsole.borg.engine import diskwriter

    repo = repository(folder, "huge")
    repo.create()
    with repo.writer(context()) as writer:
        archive = writer.archive("bench.00000000-20260101T000000Z")
        disk = archive.disk(PATH, TIB)
        assert isinstance(disk, diskwriter.EngineDiskWriter)
        session, draft = disk._session, disk._draft
        ids = random.Random(2).randbytes(32 * (TIB // MIB))
        with session._changing() as ledger:
            for start in range(0, len(ids), 32):
                ledger.put(draft.holdings, ids[start : start + 32], MIB, b"\5" + bytes(8))
        disk._state[:] = bytes([1]) * (TIB // MIB)
        disk._ids[:] = ids
        disk.close()
        archive.commit(point(archive.name, TIB), {})


def step_reuse(folder: Path) -> None:
    began = time.monotonic()
    with repository(folder, "huge").writer(context()) as writer:
        opened = time.monotonic()
        archive = writer.archive("bench.00000000-20260102T000000Z")
        disk = archive.disk(PATH, TIB, ("bench.00000000-20260101T000000Z", PATH))
        loaded = time.monotonic()
        disk.reuse(0, TIB)
        disk.close()
        reused = time.monotonic()
        archive.commit(point(archive.name, TIB), {})
    end = time.monotonic()
    print(
        f"    open {opened - began:.2f} s, load the parent's list {loaded - opened:.2f} s, "
        f"reuse {reused - loaded:.2f} s, commit and close {end - reused:.2f} s"
    )


def step_points(folder: Path) -> None:
    with repository(folder, "huge").reader() as reader:
        assert len(reader.points()) == 2


STEPS = {step.__name__: step for step in (step_full, step_read, step_forge, step_reuse, step_points)}


def measured(folder: Path, step: str, text: str) -> float:
    return timed(
        text, [sys.executable, str(Path(__file__).resolve()), str(folder), "--step", step], folder, None
    )


def stock(folder: Path, text: str, *words: str) -> float:
    borg = Path(sys.executable).parent / "borg"
    return timed(text, [str(borg), *words], folder, subprocess.DEVNULL)


def timed(text: str, argv: list[str], folder: Path, stdout: int | None) -> float:
    """Run and print the seconds; those of the processors too, which tell more on a busy machine."""
    before, began = os.times(), time.monotonic()
    subprocess.run(argv, check=True, cwd=folder, stdout=stdout)
    after, seconds = os.times(), time.monotonic() - began
    worked = after.children_user - before.children_user + after.children_system - before.children_system
    print(f"{text}: {seconds:.1f} s ({worked:.1f} s of processor time)", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--step", choices=STEPS)
    options = parser.parse_args()
    if options.step:
        STEPS[options.step](options.folder)
        print(f"    peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-engine-", dir=options.folder))
    os.environ |= {"BORG_BASE_DIR": str(folder / "base"), "BORG_PASSPHRASE": PASSPHRASE}
    try:
        run(folder, int(options.gib * 1024) * MIB)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, size: int) -> None:
    make_disk(folder / "disk.raw", size)
    print(f"disk of {size / MIB / 1024:.1f} GiB, 40 % data; repokey-blake2, zstd,3, 1 MiB chunks")
    for name in ("stock", "engine"):
        stock(folder, f"init {name}", "init", "-e", "repokey-blake2", name)
    fixed = ("--compression", "zstd,3", "--chunker-params", "fixed,1048576")
    theirs = stock(folder, "borg create --sparse", "create", "--sparse", *fixed, "stock::full", "disk.raw")
    ours = measured(folder, "step_full", "engine, full write")
    print(f"engine / borg create: {ours / theirs:.2f}")
    stock(folder, "borg extract --stdout", "extract", "--stdout", "stock::full")
    measured(folder, "step_read", "engine, read everything in 4 MiB pieces")
    measured(folder, "step_forge", "(forging a repository with a 1 TiB disk of a million chunks)")
    measured(folder, "step_reuse", "engine, incremental of 1 TiB with nothing changed")
    measured(folder, "step_points", "engine, list the points of that repository")


if __name__ == "__main__":
    main()
