"""What goes wrong with a repository, and what the user reads then."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from borg_lab import BORG, CHUNK, DISK, PASSPHRASE, Lab, fill_archive, name, noise, wait_until

from vmconsole.borg.engine import versions
from vmconsole.errors import (
    Cancelled,
    RepositoryDamaged,
    RepositoryError,
    RepositoryFull,
    RepositoryLocked,
    RepositoryMissing,
    WrongPassphrase,
)
from vmconsole.events import Waiting

SIZE = 4 * CHUNK


def open_writer(lab: Lab) -> None:
    with lab.repository.writer(lab.context):
        pass


def open_reader(lab: Lab) -> None:
    with lab.repository.reader():
        pass


BOTH_WAYS = pytest.mark.parametrize("open_it", [open_writer, open_reader])


@BOTH_WAYS
def test_no_repository_there(lab: Lab, tmp_path: Path, open_it: Callable[[Lab], None]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for place in (empty, tmp_path / "nothing", tmp_path / "nothing" / "deeper"):
        with pytest.raises(RepositoryMissing, match="no Borg repository") as caught:
            open_it(lab.with_settings(location=str(place)))
        assert "vmconsole repo init" in caught.value.hint


@BOTH_WAYS
@pytest.mark.parametrize("passphrase", ["wrong", "", None])
def test_the_wrong_passphrase(lab: Lab, open_it: Callable[[Lab], None], passphrase: str | None) -> None:
    with pytest.raises(WrongPassphrase):
        open_it(lab.with_settings(passphrase=lambda: passphrase))
    open_it(lab)


def test_no_passphrase_configured_means_the_one_of_the_environment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = lab.with_settings(passphrase=lambda: None)
    monkeypatch.setenv("BORG_PASSPHRASE", PASSPHRASE)
    open_reader(silent)
    monkeypatch.delenv("BORG_PASSPHRASE")
    monkeypatch.setenv("BORG_PASSCOMMAND", f"echo '{PASSPHRASE}'")
    open_writer(silent)


def test_the_passphrase_is_in_no_environment(lab: Lab) -> None:
    with lab.repository.writer(lab.context):
        assert not [value for value in os.environ.values() if PASSPHRASE in value]


@BOTH_WAYS
def test_an_unencrypted_repository_where_an_encrypted_one_should_be(
    make_lab: Callable[..., Lab], open_it: Callable[[Lab], None]
) -> None:
    swapped = make_lab("none").with_settings(encryption="repokey-blake2")
    with pytest.raises(RepositoryError, match="is not encrypted") as caught:
        open_it(swapped)
    assert 'encryption = "none"' in caught.value.hint


def test_a_moved_repository_is_accepted_without_a_question(lab: Lab, tmp_path: Path) -> None:
    lab.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    lab.path.rename(tmp_path / "moved")
    moved = lab.with_settings(location=str(tmp_path / "moved"))
    moved.write(name(1), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(0))
    assert moved.read(name(1)) == noise(SIZE)


def test_an_older_copy_of_the_repository_is_refused(lab: Lab, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", str(lab.path), str(tmp_path / "old")], check=True)
    lab.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    subprocess.run(["rm", "-r", str(lab.path)], check=True)
    (tmp_path / "old").rename(lab.path)
    for open_it in (open_writer, open_reader):
        with pytest.raises(RepositoryDamaged, match="newer than repository"):
            open_it(lab)


def test_a_damaged_chunk_is_never_handed_out(lab: Lab) -> None:
    lab.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    segment = max((lab.path / "data" / "0").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    with lab.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        with pytest.raises(RepositoryDamaged, match="store is damaged"):
            disk.read_at(0, SIZE)


def test_a_swapped_chunk_is_never_handed_out(make_lab: Callable[..., Lab]) -> None:
    """Storage that answers with another, validly encrypted chunk."""
    lab = make_lab()
    lab.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    with lab.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        access = reader._access  # type: ignore[attr-defined] - the engine's own reader
        first, second = (disk.chunks.id_at(index) for index in (0, 1))  # type: ignore[attr-defined]
        stored = access.repository.get(second)
        access.repository.get_many = lambda ids: [stored for _ in ids]
        with pytest.raises(RepositoryDamaged, match="does not hold what its id says"):
            access.fetch([first])


def test_a_lost_chunk_of_the_parent_stops_the_backup(lab: Lab) -> None:
    from vmconsole.borg.engine import catalog

    lab.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    with lab.repository.writer(lab.context) as writer:
        session = writer._session  # type: ignore[attr-defined] - the engine's own writer
        lost = catalog.disk(session.access, name(0), DISK).id_at(1)
        del session._ledger.cache.chunks[lost]
        archive = writer.archive(name(1))
        with pytest.raises(RepositoryDamaged, match="misses chunk"):
            fill_archive(archive, name(1), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(0))
    assert lab.archives() == [name(0)]


# --- locks ---------------------------------------------------------------------------------------


@pytest.fixture
def holder(lab: Lab) -> Iterator[subprocess.Popen[bytes]]:
    """A living process of this machine that holds the repository with `borg with-lock`."""
    env = os.environ | {"BORG_PASSPHRASE": PASSPHRASE}
    process = subprocess.Popen([BORG, "with-lock", str(lab.path), "cat"], stdin=subprocess.PIPE, env=env)
    assert process.stdin is not None
    try:
        wait_until(lambda: (lab.path / "lock.exclusive").exists())
        yield process
    finally:
        process.stdin.close()
        process.wait(20)


@BOTH_WAYS
def test_a_living_owner_is_named(
    lab: Lab, holder: subprocess.Popen[bytes], open_it: Callable[[Lab], None]
) -> None:
    impatient = lab.with_settings(lock_wait=0.5)
    with pytest.raises(
        RepositoryLocked, match=rf"process {holder.pid} on this machine \(\S*python\S* borg with-lock"
    ):
        open_it(impatient)


def test_waiting_is_said_and_ends_when_the_lock_is_free(lab: Lab, holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin is not None
    waiter = threading.Thread(target=open_writer, args=(lab,))
    waiter.start()
    wait_until(lambda: any(isinstance(event, Waiting) for event in lab.events))
    holder.stdin.close()
    waiter.join(20)
    assert not waiter.is_alive()
    (said,) = [event for event in lab.events if isinstance(event, Waiting)]
    assert said.subject == "store"
    assert f"process {holder.pid}" in said.reason


def test_a_cancel_ends_the_wait(lab: Lab, holder: subprocess.Popen[bytes]) -> None:
    threading.Thread(target=lambda: (wait_until(lambda: bool(lab.events)), lab.cancel.set("Enough."))).start()
    with pytest.raises(Cancelled, match="Enough"):
        open_writer(lab)


def test_the_lock_of_another_machine_is_never_broken(lab: Lab) -> None:
    (lab.path / "lock.exclusive").mkdir()
    (lab.path / "lock.exclusive" / "elsewhere.example@123.4242-0").touch()
    with pytest.raises(RepositoryLocked, match=r"process 4242 on elsewhere\.example"):
        open_writer(lab.with_settings(lock_wait=0.5))
    assert (lab.path / "lock.exclusive").exists()
    lab.repository.break_lock()
    open_writer(lab)


def test_a_lock_that_somebody_broke_meanwhile_stops_the_commit(lab: Lab) -> None:
    with lab.repository.writer(lab.context) as writer:
        archive = writer.archive(name(0))
        lab.borg("break-lock", lab.settings.target)
        with pytest.raises(RepositoryLocked, match="taken away"):
            fill_archive(archive, name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    assert lab.archives() == []
    lab.assert_clean()


def test_two_writers_and_readers_in_one_process(lab: Lab) -> None:
    """Borg would take them for one and the same owner."""
    impatient = lab.with_settings(lock_wait=0.3)
    with lab.repository.writer(lab.context):
        for open_it in (open_writer, open_reader):
            with pytest.raises(RepositoryLocked, match="another part of this process"):
                open_it(impatient)
        assert (lab.path / "lock.exclusive").exists()
    with lab.repository.reader() as first:
        with lab.repository.reader() as second:
            assert first.points() == second.points() == []
        with pytest.raises(RepositoryLocked):
            open_writer(impatient)
        assert first.points() == []
        done = lab.borg("--lock-wait", "1", "with-lock", str(lab.path), "true", check=False)
        assert done.returncode == 73, "other processes see the reader that is left"
    open_writer(lab)


def test_many_readers_come_and_go(lab: Lab) -> None:
    lab.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(3):
                assert lab.read(name(0)) == noise(SIZE)
        except BaseException as error:  # noqa: BLE001 - the test's own thread tells
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert not (lab.path / "lock.roster").exists()


# --- space ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mountpoint)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=True)


def on(lab: Lab, folder: Path) -> Lab:
    subprocess.run(["cp", "-a", str(lab.path), str(folder / "repo")], check=True)
    return lab.with_settings(location=str(folder / "repo"))


def test_a_full_disk(lab: Lab, small_disk: Path) -> None:
    small = on(lab, small_disk)
    small.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    with pytest.raises(RepositoryFull, match="store is full") as caught:
        small.write(name(1), 400 * CHUNK, lambda disk: disk.data(0, noise(400 * CHUNK, 1)))
    assert "Earlier restore points are untouched" in caught.value.hint
    assert small.archives() == [name(0)]
    small.assert_clean()
    free = os.statvfs(small_disk)
    assert free.f_bavail * free.f_frsize > 6 * 1024 * 1024, "what was not committed is gone"
    small.write(name(2), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(0))
    assert small.read(name(2)) == noise(SIZE)


def test_one_guest_filling_the_disk_stops_all_but_loses_none_committed(lab: Lab, small_disk: Path) -> None:
    small = on(lab, small_disk)
    big = noise(400 * CHUNK, 1)
    with small.repository.writer(small.context) as writer:
        fill_archive(writer.archive(name(0)), name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
        other = writer.archive(name(1, "db")).disk(DISK, SIZE)
        other.data(0, noise(CHUNK, 3))
        full = writer.archive(name(2))
        with pytest.raises(RepositoryFull):
            fill_archive(full, name(2), len(big), lambda disk: disk.data(0, big))
        with pytest.raises(RepositoryFull):
            other.data(CHUNK, noise(CHUNK, 4))
    assert small.archives() == [name(0)]
    small.assert_clean()


def test_a_quota(lab: Lab) -> None:
    config = lab.path / "config"
    unlimited = config.read_text()
    config.write_text(unlimited.replace("storage_quota = 0", "storage_quota = 1000000"))
    with pytest.raises(RepositoryFull, match="quota"):
        lab.write(name(0), 40 * CHUNK, lambda disk: disk.data(0, noise(40 * CHUNK)))
    config.write_text(unlimited)
    lab.write(name(0), 40 * CHUNK, lambda disk: disk.data(0, noise(40 * CHUNK)))
    lab.assert_clean()


def test_a_cache_that_cannot_be_saved_costs_no_archive(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from borg.cache import LocalCache

    def no_space(self: LocalCache) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalCache, "commit", no_space)
        lab.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    assert any("cache" in getattr(event, "message", "") for event in lab.events)
    lab.write(name(1), SIZE, lambda disk: disk.reuse(0, SIZE), parent=name(0))
    lab.assert_clean()


# --- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.4.5", "1.4.6", "1.4.10.dev3+g1234", "1.4.5rc1"])
def test_versions_that_are_known(version: str) -> None:
    versions.check(version)


@pytest.mark.parametrize("version", ["", "1.4.4", "1.5.0", "1.5.0b1", "2.0.0b14", "1.2.8", "unknown"])
def test_versions_that_are_refused(version: str) -> None:
    with pytest.raises(RepositoryError, match="knows versions") as caught:
        versions.check(version)
    assert "pip install" in caught.value.hint


def test_administering_does_not_import_borgs_modules() -> None:
    code = "import vmconsole.borg.repository, sys; sys.exit('borg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
