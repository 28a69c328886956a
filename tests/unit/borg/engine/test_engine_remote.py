"""A repository on another machine: Borg's own RemoteRepository against a real `borg serve`.

ssh itself is played by a script that runs the wanted command here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from borg_lab import BORG, CHUNK, DISK, PASSPHRASE, Lab, fill_archive, name, noise, wait_until

from vmconsole.errors import (
    RepositoryDamaged,
    RepositoryError,
    RepositoryFull,
    RepositoryLocked,
    RepositoryMissing,
    WrongPassphrase,
)
from vmconsole.interfaces import DiskWriter

SIZE = 9 * CHUNK + 5


@pytest.fixture
def fake_ssh(tmp_path: Path) -> Callable[[str], str]:
    """An rsh command. Arguments before `borg` (ssh's own) are dropped; before is run first."""

    def make(before: str = "") -> str:
        script = tmp_path / "fake-ssh"
        script.write_text(
            f'#!/bin/sh\necho $$ > {tmp_path}/serve.pid\necho "$@" > {tmp_path}/ssh-arguments\n{before}\n'
            f'while [ "$1" != borg ]; do shift; done\nshift\nexec {BORG} "$@"\n'
        )
        script.chmod(0o755)
        return str(script)

    return make


@pytest.fixture
def remote(lab: Lab, fake_ssh: Callable[[str], str]) -> Lab:
    return lab.with_settings(location=f"ssh://backup@nas.example:2222{lab.path}", rsh=fake_ssh(""))


def test_everything_works_as_with_a_folder(lab: Lab, remote: Lab, tmp_path: Path) -> None:
    image = noise(4 * CHUNK) + bytes(3 * CHUNK) + noise(SIZE - 7 * CHUNK, 1)
    remote.write(name(0), SIZE, lambda disk: disk.data(0, image), files={"config/a.xml": b"<a/>"})
    assert (tmp_path / "ssh-arguments").read_text().split() == [
        "-p",
        "2222",
        "backup@nas.example",
        "borg",
        "serve",
    ]

    def fill(disk: DiskWriter) -> None:
        disk.reuse(0, 100)
        disk.data(100, b"new")
        disk.zero(103, CHUNK)
        disk.reuse(103 + CHUNK, SIZE - 103 - CHUNK)

    _, stored = remote.write(name(1), SIZE, fill, parent=name(0))
    assert stored < 3 * CHUNK
    changed = image[:100] + b"new" + bytes(CHUNK) + image[103 + CHUNK :]
    assert remote.read(name(1)) == changed
    with remote.repository.reader() as reader:
        assert [point.archive for point in reader.points()] == [name(1), name(0)]
        assert reader.files(name(0))["config/a.xml"] == b"<a/>"
    assert lab.extracted(name(1)) == changed
    lab.assert_clean()


@pytest.mark.slow
def test_the_borg_command_takes_the_same_way(remote: Lab) -> None:
    assert len(remote.repository.id()) == 64
    assert remote.repository.info().archives == 0
    assert remote.repository.check(verify_data=True, context=remote.context) == []


def test_chunks_of_an_aborted_archive_go(lab: Lab, remote: Lab) -> None:
    with remote.repository.writer(remote.context) as writer:
        given_up = writer.archive(name(0, "db"))
        disk = given_up.disk(DISK, SIZE)
        disk.data(0, noise(4 * CHUNK))
        wait_until(lambda: disk.bytes_stored > 4 * CHUNK)
        fill_archive(writer.archive(name(1)), name(1), SIZE, lambda other: other.zero(0, SIZE))
        given_up.abort()
    assert lab.archives() == [name(1)]
    lab.assert_clean()


def test_missing_and_wrong_passphrase(lab: Lab, remote: Lab) -> None:
    nowhere = remote.with_settings(location=f"ssh://nas.example{lab.path.parent}/nothing")
    for settings, expected in (
        (nowhere, RepositoryMissing),
        (remote.with_settings(passphrase=lambda: "wrong"), WrongPassphrase),
    ):
        with pytest.raises(expected), settings.repository.reader():
            pass
        with pytest.raises(expected), settings.repository.writer(settings.context):
            pass


def test_locked(lab: Lab, remote: Lab) -> None:
    env = os.environ | {"BORG_PASSPHRASE": PASSPHRASE}
    holder = subprocess.Popen([BORG, "with-lock", str(lab.path), "cat"], stdin=subprocess.PIPE, env=env)
    assert holder.stdin is not None
    impatient = remote.with_settings(lock_wait=1.0)
    try:
        wait_until(lambda: (lab.path / "lock.exclusive").exists())
        with pytest.raises(RepositoryLocked, match="still after 1 s"):
            impatient.write(name(0), SIZE, lambda disk: disk.zero(0, SIZE))
    finally:
        holder.stdin.close()
        holder.wait(20)


def test_what_ssh_says_reaches_the_user(remote: Lab, fake_ssh: Callable[[str], str]) -> None:
    refused = "echo 'backup@nas.example: Permission denied (publickey).' >&2; exit 255"
    broken = remote.with_settings(rsh=fake_ssh(refused))
    with pytest.raises(RepositoryError, match=r"repository store: .*Permission denied") as caught:
        broken.read(name(0))
    assert "-p 2222 backup@nas.example borg --version" in caught.value.hint
    with pytest.raises(RepositoryError, match="No connection to repository store"):
        broken.repository.id()


def test_no_ssh_installed(remote: Lab) -> None:
    with pytest.raises(RepositoryError, match="not installed: no-such-ssh"):
        remote.with_settings(rsh="no-such-ssh").read(name(0))


def test_a_login_shell_that_talks_is_no_borg(remote: Lab, fake_ssh: Callable[[str], str]) -> None:
    chatty = remote.with_settings(rsh=fake_ssh("echo 'Welcome to nas!'; exit 0"))
    with pytest.raises(RepositoryError):
        chatty.read(name(0))


def test_the_connection_breaks_while_writing(lab: Lab, remote: Lab, tmp_path: Path) -> None:
    def fill(disk: DiskWriter) -> None:
        disk.data(0, noise(CHUNK))
        wait_until(lambda: disk.bytes_stored > 0)
        os.kill(int((tmp_path / "serve.pid").read_text()), signal.SIGKILL)
        disk.data(CHUNK, noise(SIZE - CHUNK, 1))

    with pytest.raises(RepositoryError, match="No connection to repository store"):
        remote.write(name(0), SIZE, fill)
    assert lab.archives() == []
    lab.assert_clean()
    remote.write(name(1), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    assert remote.read(name(1)) == noise(SIZE)


def test_the_connection_breaks_while_reading(remote: Lab, tmp_path: Path) -> None:
    remote.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    with remote.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        os.kill(int((tmp_path / "serve.pid").read_text()), signal.SIGKILL)
        with pytest.raises(RepositoryError, match="No connection to repository store"):
            disk.read_at(0, SIZE)


def test_a_full_disk_at_the_other_side(lab: Lab, remote: Lab, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        subprocess.run(["cp", "-a", str(lab.path), str(small / "repo")], check=True)
        there = remote.with_settings(location=f"ssh://nas.example{small}/repo")
        with pytest.raises(RepositoryFull):
            there.write(name(0), 400 * CHUNK, lambda disk: disk.data(0, noise(400 * CHUNK)))
        lab.with_settings(location=str(small / "repo")).assert_clean()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_damage_at_the_other_side(lab: Lab, remote: Lab) -> None:
    remote.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    segment = max((lab.path / "data" / "0").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    with remote.repository.reader() as reader, pytest.raises(RepositoryDamaged):
        reader.open_disk(name(0), DISK).read_at(0, SIZE)


def test_threads_share_one_connection(remote: Lab) -> None:
    image = noise(40 * CHUNK)
    remote.write(name(0), len(image), lambda disk: disk.data(0, image))
    with remote.repository.reader() as reader:
        disk = reader.open_disk(name(0), DISK)
        wrong: list[int] = []

        def read(start: int) -> None:
            for offset in range(start, len(image), 7 * CHUNK):
                if disk.read_at(offset, 3 * CHUNK) != image[offset : offset + 3 * CHUNK]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(start * 1000,)) for start in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not wrong


@pytest.fixture(autouse=True)
def nothing_runs_on(tmp_path: Path) -> Iterator[None]:
    """Whatever happened, the other side's process has ended when the repository is closed."""
    yield
    told = tmp_path / "serve.pid"
    if told.exists():
        wait_until(lambda: not Path(f"/proc/{told.read_text().strip()}").exists())


def test_pins_deleting_and_compacting_from_afar(lab: Lab, remote: Lab) -> None:
    ids = [
        remote.write(name(day), SIZE, lambda disk, day=day: disk.data(0, noise(SIZE, day)))[0]
        for day in (0, 1)
    ]
    remote.repository.set_pins({name(1): ids[1]})
    assert remote.repository.pins() == {name(1): ids[1]}
    remote.repository.delete([name(0)], remote.context)
    freed = remote.repository.compact(remote.context)
    assert freed is not None, "also the other side tells how much"
    assert 8 * CHUNK < freed < 12 * CHUNK
    with remote.repository.reader() as reader:
        assert [(point.archive, point.pinned) for point in reader.points()] == [(name(1), True)]
    lab.assert_clean()


def test_an_append_only_repository_loses_nothing_by_a_deletion(
    lab: Lab, fake_ssh: Callable[[str], str]
) -> None:
    """Why nothing may be compacted before the lists were compared: a deletion there deletes nothing yet."""
    remote = lab.with_settings(
        location=f"ssh://backup@nas.example:2222{lab.path}", rsh=fake_ssh('set -- "$@" --append-only')
    )
    remote.write(name(0), SIZE, lambda disk: disk.data(0, noise(SIZE)))
    before = {path.name for path in (lab.path / "data" / "0").iterdir()}
    remote.repository.delete([name(0)], remote.context)
    remote.repository.compact(remote.context)
    assert before <= {path.name for path in (lab.path / "data" / "0").iterdir()}
