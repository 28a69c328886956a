"""Retention from the command line down to real borg: what stock borg sees before and after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from borg_lab import BORG, CHUNK, PASSPHRASE, Lab, name, noise

from vmconsole.borg.pinlist import is_pinlist
from vmconsole.cli.main import main
from vmconsole.interfaces import Cancel, DiskWriter
from vmconsole.wiring.services import Wiring

pytestmark = pytest.mark.slow
SIZE = 4 * CHUNK


class Shop:
    """A configuration for the lab's repository, whose guest `web` a group keeps two days of."""

    def __init__(self, lab: Lab, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.lab = lab
        self.config = folder / "config.toml"
        secret = folder / "passphrase"
        secret.write_text(PASSPHRASE)
        secret.chmod(0o600)
        self.config.write_text(f"""
state_dir = "state"
timezone = "UTC"
[repositories.store]
location = "{lab.path}"
chunk_size = {CHUNK}
lock_wait = 10
passphrase = {{ file = "{secret}" }}
[groups.daily]
guests = ["web"]
keep = {{ daily = 2 }}
""")
        self._capsys = capsys

    def call(self, *words: str) -> tuple[int, str]:
        self._capsys.readouterr()
        code = main(["--config", str(self.config), *words], lambda path: Wiring(Path(path or ""), Cancel()))
        shown = self._capsys.readouterr()
        return code, shown.out + shown.err

    def ok(self, *words: str) -> str:
        code, text = self.call(*words)
        assert code == 0, text
        return text

    def points(self, *options: str) -> list[str]:
        code, text = self.call("points", *options, "--json", "--quiet")
        assert code == 0, text
        return [point["archive"] for point in json.loads(text)["points"]]

    def listed(self) -> list[str]:
        """What stock borg lists, without lists of pins."""
        document: Any = json.loads(self.lab.borg("list", "--json", self.lab.settings.target).stdout)
        names = [archive["name"] for archive in document["archives"]]
        return sorted(item for item in names if not is_pinlist(item))

    def back_up(self, *days: int) -> None:
        for day in days:
            self.lab.write(name(day), SIZE, lambda disk, day=day: disk.data(0, noise(SIZE, day)))

    def increment(self, day: int) -> None:
        """The first chunk is new, the rest as the day before."""

        def fill(disk: DiskWriter) -> None:
            disk.data(0, noise(CHUNK, day))
            disk.reuse(CHUNK, SIZE - CHUNK)

        self.lab.write(name(day), SIZE, fill, name(day - 1))


@pytest.fixture
def shop(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shop:
    return Shop(lab, tmp_path, capsys)


def test_prune_undo_pin_and_compact(shop: Shop, tmp_path: Path) -> None:
    shop.back_up(1, 2, 3, 4)
    everything = [name(day) for day in (1, 2, 3, 4)]
    shop.ok("prune")
    assert shop.points() == [name(4), name(3)]
    assert shop.listed() == everything, "pruning deletes nothing"
    shop.ok("restore", name(1), "--to", str(tmp_path / "old.raw"))
    assert (tmp_path / "old.raw").read_bytes() == noise(SIZE, 1)
    shop.ok("undo-prune", name(2))
    assert shop.points() == [name(4), name(3), name(2)]
    shop.ok("pin", name(2))
    assert shop.ok("points").count("pinned") == 1
    shop.ok("prune")
    assert shop.points("--pruned") == [name(1)]
    assert "0 points deleted" in shop.ok("repo", "compact"), "it can still be undone"
    assert "1 point deleted" in shop.ok("repo", "compact", "--now")
    assert shop.listed() == everything[1:]
    shop.lab.assert_clean()
    assert shop.lab.borg("check", "--verify-data", shop.lab.settings.target).returncode == 0
    shop.increment(5)
    shop.lab.assert_clean()
    state = tmp_path / "state"
    state.rename(tmp_path / "lost")
    assert shop.points() == [name(5), name(4), name(3), name(2)]
    assert json.loads(shop.ok("points", "--json"))["points"][3]["pinned"], "the pin outlives the state"
    shop.ok("prune")
    assert shop.points() == [name(5), name(4), name(2)]
    info = json.loads(shop.ok("repo", "info", "--json"))["repositories"][0]
    assert info["archives"] == 4


def test_increments_go_on_after_their_ancestors_are_deleted(shop: Shop) -> None:
    shop.back_up(1)
    for day in (2, 3, 4):
        shop.increment(day)
    shop.ok("prune")
    shop.ok("repo", "compact", "--now")
    assert shop.listed() == [name(3), name(4)]
    shop.increment(5)
    expected = noise(CHUNK, 5) + noise(SIZE, 1)[CHUNK:]
    assert shop.lab.read(name(5)) == expected
    assert shop.lab.extracted(name(5)) == expected
    shop.lab.assert_clean()


def test_deleted_behind_our_back(shop: Shop) -> None:
    shop.back_up(1, 2, 3, 4)
    shop.ok("prune")
    shop.lab.borg("delete", f"::{name(3)}")
    code, text = shop.call("repo", "compact", "--now")
    assert code == 1
    assert f"1 restore point vanished from repository store, not deleted by vmconsole: {name(3)}." in text
    assert shop.listed() == [name(1), name(2), name(4)], "nothing was deleted"
    assert "vanished" in shop.ok("points"), "every list says so"
    assert shop.call("repo", "compact", "--dry-run")[0] == 1
    assert name(3) in shop.ok("repo", "accept", "store")
    assert "2 points deleted" in shop.ok("repo", "compact", "--now")
    assert shop.listed() == [name(4)]
    assert "vanished" not in shop.ok("points")
    shop.lab.assert_clean()


def test_renamed_behind_our_back_is_noticed_too(shop: Shop) -> None:
    shop.back_up(1, 2)
    shop.ok("points")
    shop.lab.borg("rename", f"::{name(1)}", "elsewhere")
    assert "vanished" in shop.ok("points")


@pytest.mark.parametrize("when", ["before borg delete", "after borg delete", "before borg compact"])
def test_killed_while_deleting(shop: Shop, tmp_path: Path, when: str) -> None:
    """kill -9 around borg: nothing is hidden for ever, and nobody is blamed for what we did."""
    shop.back_up(1, 2, 3, 4)
    shop.ok("prune")
    _, verb = when.rsplit(maxsplit=1)
    run_borg = (
        f"subprocess.run([{BORG!r}, *sys.argv[1:]], check=True)" if when.startswith("after") else "pass"
    )
    fake = tmp_path / "fake" / "borg"
    fake.parent.mkdir()
    fake.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, subprocess, sys, time\n"
        f"parent = os.getppid()\n"
        f"if sys.argv[1] == {verb!r}:\n"
        f"    {run_borg}\n"
        f"    pathlib.Path({str(tmp_path / 'reached')!r}).touch()\n"
        "    while os.getppid() == parent:\n"
        "        time.sleep(0.05)\n"
        "    sys.exit(1)\n"
        f"os.execv({BORG!r}, [{BORG!r}, *sys.argv[1:]])\n"
    )
    fake.chmod(0o755)
    program = (
        "import sys; from pathlib import Path; from vmconsole.borg import settings\n"
        f"settings.BorgSettings.executable = {str(fake)!r}\n"
        "from vmconsole.cli.main import main; from vmconsole.interfaces import Cancel\n"
        "from vmconsole.wiring.services import Wiring\n"
        "main(sys.argv[1:], lambda path: Wiring(Path(path), Cancel()))\n"
    )
    words = ["--config", str(shop.config), "repo", "compact", "--now"]
    victim = subprocess.Popen([sys.executable, "-c", program, *words], env=os.environ)
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline
        assert victim.poll() is None
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait(10)
    left = [name(1), name(2)] if when == "before borg delete" else []
    assert shop.listed() == [*left, name(3), name(4)]
    assert "vanished" not in shop.ok("points"), "no false alarm"
    assert sorted(shop.points("--pruned")) == left
    if left:
        shop.ok("undo-prune", name(1))
        assert shop.points() == [name(4), name(3), name(1)], "it can be had back"
        shop.ok("prune")
    assert f"{len(left)} points deleted" in shop.ok("repo", "compact", "--now")
    assert shop.listed() == [name(3), name(4)]
    assert "died" in shop.ok("runs")
    shop.lab.assert_clean()
