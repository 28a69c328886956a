"""A Borg laboratory for tests: repositories made by stock borg, a context, and the borg command as oracle."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from borg.archive import Archive, ArchiveChecker
from borg.cache import LocalCache
from borg.helpers import Manifest
from borg.repository import Repository

from vmconsole.borg.engine import quiet
from vmconsole.borg.repository import BorgRepository, BorgSettings
from vmconsole.events import Event
from vmconsole.interfaces import ArchiveWriter, Cancel, Context, DiskWriter
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.remote.local import LocalMachine

PASSPHRASE = "correct horse"
CHUNK = 64 * 1024
DISK = "disks/vda.raw"
BORG = str(Path(sys.executable).parent / "borg")
CUT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class Journal:
    def acquire(self, host: str, kind: str, payload: Mapping[str, str]) -> int:
        raise AssertionError("the repository acquires nothing on hosts")

    def release(self, entry: int) -> None: ...


@dataclass
class Lab:
    """One repository in a folder of its own; Borg's home is where BORG_BASE_DIR says."""

    settings: BorgSettings
    events: list[Event] = field(default_factory=list)
    cancel: Cancel = field(default_factory=Cancel)

    @property
    def path(self) -> Path:
        return self.settings.path

    @property
    def repository(self) -> BorgRepository:
        return BorgRepository(self.settings, LocalMachine())

    @property
    def context(self) -> Context:
        return Context("run", self.events.append, self.cancel, Journal(), Clock())

    def with_settings(self, **changes: object) -> Lab:
        return Lab(replace(self.settings, **changes))  # type: ignore[arg-type] - tests name real fields

    def borg(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run stock borg on the repository; `::` at the start of a word stands for it."""
        location = self.settings.target
        env = os.environ | {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_EXIT_CODES": "modern",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RSH": self.settings.rsh,
        }
        done = subprocess.run(
            [BORG, *(location + word if word.startswith("::") else word for word in words)],
            env=env,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"borg {words} ended with {done.returncode}: {done.stderr.decode()}")
        return done

    def borg_repair(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BORG_CHECK_I_KNOW_WHAT_I_AM_DOING", "YES")
            self.borg("check", "--repair", self.settings.target, check=False)

    def assert_clean(self) -> None:
        """`borg check --verify-data` finds nothing, run in this process because starting one is slow."""
        with self._stock() as repository:
            assert repository.check(), "borg check found the repository damaged"
            assert ArchiveChecker().check(repository, verify_data=True, sort_by="ts"), "an archive is damaged"
            self._assert_true_counts(repository)

    def _assert_true_counts(self, repository: Any) -> None:
        """The cache we left counts what a cache built from the archives alone would count."""
        manifest, key = Manifest.load(repository, (Manifest.Operation.READ,))
        with LocalCache(repository, key, manifest, sync=False) as ours:
            if ours.cache_config.manifest_id != manifest.id:
                return
            counted = {id_: tuple(entry) for id_, entry in ours.chunks.iteritems()}
        with (
            tempfile.TemporaryDirectory() as folder,
            LocalCache(repository, key, manifest, path=f"{folder}/cache") as fresh,
        ):
            assert counted == {id_: tuple(entry) for id_, entry in fresh.chunks.iteritems()}

    def extracted(self, archive: str, path: str = DISK) -> bytes:
        """What stock borg's code reads, with its own key, cipher and decompression."""
        with self._stock() as repository:
            manifest, key = Manifest.load(repository, (Manifest.Operation.READ,))
            stock = Archive(repository, key, manifest, archive)
            (item,) = stock.iter_items(lambda found: found.path == path)
            return b"".join(stock.pipeline.fetch_many([chunk.id for chunk in item.chunks]))

    @contextmanager
    def _stock(self) -> Iterator[Any]:
        quiet.prepare()
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch, quiet.listening(said.append):
            patch.setenv("BORG_PASSPHRASE", PASSPHRASE)
            try:
                with Repository(str(self.path), exclusive=True) as repository:
                    yield repository
            except AssertionError as error:
                raise AssertionError(f"{error}: {said}") from error

    def archives(self) -> list[str]:
        with self._stock() as repository:
            manifest, _ = Manifest.load(repository, (Manifest.Operation.READ,))
            return sorted(manifest.archives)

    def write(
        self,
        archive: str,
        size: int,
        fill: Callable[[DiskWriter], None],
        parent: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> tuple[str, int]:
        """One archive with one disk, in a session of its own. Returns its id and the bytes stored."""
        with self.repository.writer(self.context) as writer:
            return fill_archive(writer.archive(archive), archive, size, fill, parent, files)

    def read(self, archive: str, path: str = DISK) -> bytes:
        with self.repository.reader() as reader:
            disk = reader.open_disk(archive, path)
            return disk.read_at(0, disk.size)


def fill_archive(
    writer: ArchiveWriter,
    archive: str,
    size: int,
    fill: Callable[[DiskWriter], None],
    parent: str | None = None,
    files: Mapping[str, bytes] | None = None,
) -> tuple[str, int]:
    disk = writer.disk(DISK, size, (parent, DISK) if parent else None)
    fill(disk)
    disk.close()
    return writer.commit(point(archive, {DISK: size}), files or {}), disk.bytes_stored


def name(day: int, guest: str = "web") -> str:
    return f"{guest}.12345678-{CUT + timedelta(days=day):%Y%m%dT%H%M%SZ}"


def point(archive: str, disks: Mapping[str, int], mode: Mode = Mode.FULL) -> RestorePoint:
    made = datetime.strptime(archive.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return RestorePoint(
        archive=archive,
        guest=archive.partition(".")[0],
        uuid="12345678-0000-4000-8000-000000000001",
        host="hv1",
        hypervisor="libvirt",
        time=made,
        consistency=Consistency.CRASH,
        disks=tuple(DiskPoint(path, path, size, "raw", mode) for path, size in disks.items()),
    )


def noise(length: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same every time."""
    return hashlib.shake_256(seed.to_bytes(8, "little")).digest(length)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
