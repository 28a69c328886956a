"""A writer killed at any place leaves a repository that Borg calls clean, and the next one goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import borg_victim
import pytest
from borg_lab import CHUNK, Lab, name, noise

from vmconsole.events import Warned

SIZE = 12 * CHUNK
OLD = noise(SIZE, 8)

ENGINE = "vmconsole.borg.engine"
PLACES = [
    (f"{ENGINE}.session:Session.draft", 1),
    (f"{ENGINE}.ledger:Ledger.put", 1),
    (f"{ENGINE}.ledger:Ledger.put", 5),
    (f"!{ENGINE}.ledger:Ledger.put", 9),
    (f"{ENGINE}.itemwriter:MemberList.finish", 1),
    (f"{ENGINE}.checkpoints:Draft.cover", 1),
    (f"!{ENGINE}.checkpoints:Draft.cover", 1),
    ("borg.helpers.manifest:Manifest.write", 1),
    ("borg.repository:Repository.commit", 1),
    ("borg.repository:LoggedIO.write_commit", 1),
    ("!borg.repository:LoggedIO.write_commit", 1),
    ("!borg.repository:Repository.commit", 1),
    ("borg.cache:CacheConfig.save", 1),
    ("!borg.cache:LocalCache.commit", 1),
    (f"{ENGINE}.checkpoints:Draft.uncover", 2),
    ("!borg.repository:Repository.commit", 2),
    ("!borg.cache:LocalCache.commit", 2),
    ("borg.cache:LocalCache.close", 1),
]
FAST = {PLACES[3], PLACES[11], PLACES[13]}


@pytest.mark.parametrize(
    ("place", "count"),
    [pytest.param(*each, marks=[] if each in FAST else pytest.mark.slow) for each in PLACES],
)
def test_killed_at(lab: Lab, place: str, count: int) -> None:
    lab.write(name(0), SIZE, lambda disk: disk.data(0, OLD))
    folder = lab.path.parent
    done = subprocess.run(
        [sys.executable, borg_victim.__file__, str(folder), place, str(count)],
        capture_output=True,
        timeout=60,
        cwd=Path(borg_victim.__file__).parent,
    )
    assert done.returncode == -9, done.stderr.decode()
    assert (lab.path / "lock.exclusive").exists(), "it held the lock when it died"
    lab.borg("check", "--verify-data", lab.settings.target)
    archives = lab.archives()
    assert name(0) in archives

    # The next run finds the lock of the dead, or borg check has removed it; both ways it goes on.
    for day, guest in ((2, "web"), (2, "db")):
        lab.write(name(day, guest), SIZE, lambda disk: disk.data(0, noise(6 * CHUNK, 1) + bytes(6 * CHUNK)))
    assert set(lab.archives()) == {item for item in archives if "checkpoint" not in item} | {
        name(2),
        name(2, "db"),
    }
    lab.assert_clean()
    assert lab.read(name(0)) == OLD
    if name(1) in archives:
        assert lab.read(name(1)) == noise(SIZE // 2, 2) + OLD[SIZE // 2 :]


def test_the_lock_of_a_dead_process_is_removed_and_said(lab: Lab) -> None:
    place = f"{ENGINE}.session:Session.draft"
    folder = str(lab.path.parent)
    subprocess.run(
        [sys.executable, borg_victim.__file__, folder, place, "1"],
        capture_output=True,
        timeout=60,
        cwd=Path(borg_victim.__file__).parent,
    )
    assert (lab.path / "lock.exclusive").exists()
    lab.write(name(2), SIZE, lambda disk: disk.zero(0, SIZE))
    said = [event.message for event in lab.events if isinstance(event, Warned)]
    assert any("lock of a dead process" in message and "store" in message for message in said)
    assert not (lab.path / "lock.exclusive").exists()
