"""Administration through the borg command: real borg, and a script that plays one that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from borg_lab import BORG, CHUNK, PASSPHRASE, Lab, name, noise, wait_until

from vmconsole.borg.repository import BorgRepository, BorgSettings
from vmconsole.errors import (
    Cancelled,
    ProtocolError,
    RepositoryDamaged,
    RepositoryError,
    RepositoryFull,
    RepositoryLocked,
    RepositoryMissing,
    ToolMissing,
    WrongPassphrase,
)
from vmconsole.remote.local import LocalMachine


@pytest.mark.slow
def test_create_info_check(tmp_path: Path, lab: Lab) -> None:
    settings = BorgSettings("fresh", str(tmp_path / "deep" / "er"), lambda: PASSPHRASE, chunk_size=CHUNK)
    fresh = Lab(settings)
    made = fresh.repository.create()
    assert made == fresh.repository.id()
    with pytest.raises(RepositoryError, match=r"something at .* already"):
        fresh.repository.create()
    fresh.write(name(0), 4 * CHUNK, lambda disk: disk.data(0, noise(4 * CHUNK)))
    info = fresh.repository.info()
    assert (info.name, info.id, info.encryption, info.archives) == ("fresh", made, "repokey-blake2", 1)
    assert 4 * CHUNK < info.original < 5 * CHUNK
    assert 4 * CHUNK < info.stored < 5 * CHUNK
    assert info.last_modified is not None
    assert info.last_modified.tzinfo is not None
    assert fresh.repository.archives() == [name(0)]
    assert fresh.repository.check(verify_data=True, context=fresh.context) == []
    assert lab.repository.exists()
    assert not lab.with_settings(location=str(tmp_path / "none")).repository.exists()


def test_check_tells_what_is_wrong(lab: Lab) -> None:
    lab.write(name(0), 4 * CHUNK, lambda disk: disk.data(0, noise(4 * CHUNK)))
    segment = max((lab.path / "data" / "0").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    problems = lab.repository.check(verify_data=False, context=lab.context)
    assert any("checksum mismatch" in problem for problem in problems)


@pytest.mark.slow
def test_nothing_is_ever_asked(lab: Lab, tmp_path: Path) -> None:
    for passphrase, expected in ((None, WrongPassphrase), ("", WrongPassphrase), ("wrong", WrongPassphrase)):
        with pytest.raises(expected):
            lab.with_settings(passphrase=lambda text=passphrase: text).repository.info()
        with pytest.raises(expected):
            lab.with_settings(passphrase=lambda text=passphrase: text).repository.check(
                verify_data=False, context=lab.context
            )
    lab.path.rename(tmp_path / "moved")
    assert lab.with_settings(location=str(tmp_path / "moved")).repository.id()


def test_a_repokey_needs_a_passphrase(tmp_path: Path) -> None:
    open_door = Lab(BorgSettings("x", str(tmp_path / "x"), lambda: "", "repokey-blake2"))
    with pytest.raises(RepositoryError, match="no passphrase"):
        open_door.repository.create()
    assert not (tmp_path / "x").exists()


def test_a_swapped_unencrypted_repository_is_refused(make_lab: Callable[..., Lab], borg_home: Path) -> None:
    swapped = make_lab("none").with_settings(encryption="repokey-blake2")
    subprocess.run(["rm", "-r", str(borg_home)], check=True)
    with pytest.raises(RepositoryError):
        swapped.repository.id()
    assert swapped.with_settings(encryption="none").repository.id()


def test_locked_by_somebody(lab: Lab) -> None:
    (lab.path / "lock.exclusive").mkdir()
    (lab.path / "lock.exclusive" / "elsewhere.example@123.4242-0").touch()
    impatient = lab.with_settings(lock_wait=1.0)
    with pytest.raises(RepositoryLocked, match="store is locked"):
        impatient.repository.id()
    impatient.repository.break_lock()
    assert impatient.repository.id()


# --- a borg that fails ---------------------------------------------------------------------------


@pytest.fixture
def fake(lab: Lab, tmp_path: Path) -> Callable[[str], Lab]:
    def make(body: str) -> Lab:
        script = tmp_path / "borg"
        script.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}\n")
        script.chmod(0o755)
        return lab.with_settings(borg=str(script))

    return make


def test_a_long_wait_for_a_lock_is_cut_into_short_ones(fake: Callable[[str], Lab], tmp_path: Path) -> None:
    """Borg looks at a lock every tenth of its wait, which would be a minute of ten."""
    log = tmp_path / "waits"
    body = f"""
wait = sys.argv[sys.argv.index("--lock-wait") + 1]
with open({str(log)!r}, "a") as file:
    file.write(wait + "\\n")
if len(open({str(log)!r}).readlines()) < 3:
    sys.exit(73)
print(json.dumps({{"repository": {{"id": "ab"}}}}))
"""
    assert fake(body).with_settings(lock_wait=600.0).repository.id() == "ab"
    assert log.read_text().split() == ["5", "5", "5"]
    log.unlink()
    with pytest.raises(RepositoryLocked):
        fake(body).with_settings(lock_wait=9.0).repository.id()
    assert log.read_text().split() == ["5", "4"]


def failing(status: int, message: str) -> str:
    line = json.dumps({"type": "log_message", "levelname": "ERROR", "message": message, "msgid": "X"})
    return f"print({line!r}, file=sys.stderr); sys.exit({status})"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (2, RepositoryError),
        (13, RepositoryMissing),
        (14, RepositoryFull),
        (20, RepositoryFull),
        (52, WrongPassphrase),
        (73, RepositoryLocked),
        (80, RepositoryError),
        (90, RepositoryDamaged),
        (12, RepositoryDamaged),
        (139, RepositoryError),
    ],
)
def test_exit_codes(fake: Callable[[str], Lab], status: int, expected: type[RepositoryError]) -> None:
    lab = fake(failing(status, "what borg says"))
    for call in (lab.repository.id, lambda: lab.repository.check(verify_data=False, context=lab.context)):
        with pytest.raises(expected) as caught:
            call()
        assert type(caught.value) is expected
        assert caught.value.subject == "store"
        assert caught.value.hint


def test_the_message_is_borgs(fake: Callable[[str], Lab]) -> None:
    with pytest.raises(RepositoryError, match="what borg says"):
        fake(failing(2, "what borg says")).repository.id()
    with pytest.raises(RepositoryError, match="Segmentation fault"):
        fake("print('Segmentation fault', file=sys.stderr); sys.exit(139)").repository.id()
    with pytest.raises(RepositoryFull):
        fake(failing(2, "[Errno 28] No space left on device")).repository.id()


@pytest.mark.parametrize(
    "answer", ["", "no json", "[]", "{}", '{"repository": 5}', '{"repository": {"id": 5}}']
)
def test_answers_that_are_none(fake: Callable[[str], Lab], answer: str) -> None:
    with pytest.raises(ProtocolError):
        fake(f"print({answer!r})").repository.id()


def test_the_passphrase_is_on_no_command_line(fake: Callable[[str], Lab]) -> None:
    reveal = """
def words(pid):
    return b" ".join(open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0"))
told = os.environ["BORG_PASSPHRASE"].encode()
assert told not in words(os.getpid()) + words(os.getppid())
assert sys.stdin.read() == ""
open(os.environ["REVEALED"], "w").write(told.decode())
print(json.dumps({"repository": {"id": "ab" * 32}}))
"""
    lab = fake(reveal)
    revealed = lab.path.parent / "revealed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVEALED", str(revealed))
        assert lab.repository.id() == "ab" * 32
        assert revealed.read_text() == PASSPHRASE
        revealed.unlink()
        assert lab.repository.check(verify_data=True, context=lab.context) == []
        assert revealed.read_text() == PASSPHRASE


def test_a_cancel_ends_a_long_check(fake: Callable[[str], Lab], tmp_path: Path) -> None:
    lab = fake(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(300)")
    told = tmp_path / "pid"

    def cancel() -> None:
        wait_until(lambda: told.exists() and bool(told.read_text()))
        lab.cancel.set("Enough.")

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled, match="Enough"):
        lab.repository.check(verify_data=True, context=lab.context)
    thread.join(20)
    wait_until(lambda: not Path(f"/proc/{told.read_text()}").exists())


def test_no_borg_installed(lab: Lab) -> None:
    with pytest.raises(ToolMissing):
        lab.with_settings(borg="/nowhere/borg").repository.id()


def test_the_borg_beside_this_python_is_used(lab: Lab) -> None:
    assert lab.settings.executable == BORG
    assert os.access(BORG, os.X_OK)
    assert isinstance(BorgRepository(lab.settings, LocalMachine()).chunk_size, int)
