"""Prune, undo and compact from the console, on a real repository; stock borg says what is there afterwards."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from world import Driver

from vmconsole.__main__ import main
from vmconsole.interfaces import Cancel
from vmconsole.model.run import RunState
from vmconsole.tui.app import Console, Settings
from vmconsole.tui.screens.prune import PruneScreen
from vmconsole.wiring.services import Wiring


@pytest.fixture
def folder(tmp_path):
    """A demo that ran its two nights, and keeps one point of each guest now; its hosts are gone again."""
    place = tmp_path / "shop"
    assert main(["demo", "--headless", "--dir", str(place), "--json"]) == 0
    config = place / "config.toml"
    text = re.sub(r"keep = .*", "keep = { last = 1 }", config.read_text())
    config.write_text(text.replace('location = "repository"', 'location = "repository"\nundo = "0 s"'))
    return place


@asynccontextmanager
async def console(folder):
    services = Wiring(folder / "config.toml", Cancel())
    app = Console(services, Settings())
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        driver = Driver(app, pilot, None)
        await driver.wait_for(lambda: app.picture.recent and not app.asking, "the first picture")
        await driver.press("5")
        await driver.wait_for(lambda: app.screen.current, "the repository")
        yield driver
    services.close()


class Shelf:
    """What is there, by vmconsole's own word and by stock borg's."""

    def __init__(self, folder):
        self._folder = folder

    def points(self, *options: str) -> set[str]:
        command = [sys.executable, "-m", "vmconsole", "--config", str(self._folder / "config.toml")]
        told = _said([*command, "points", "--json", *options], {})
        return {point["archive"] for point in json.loads(told)["points"]}

    @property
    def archives(self) -> set[str]:
        return {found["name"] for found in json.loads(self.borg("list", "--json"))["archives"]}

    def borg(self, *words: str) -> str:
        env = {
            "BORG_PASSPHRASE": (self._folder / "passphrase").read_text().strip(),
            "BORG_BASE_DIR": str(self._folder / "borg"),
        }
        return _said(["borg", *words, str(self._folder / "repository")], env)


def _said(command, env):
    return subprocess.run(command, env=os.environ | env, check=True, capture_output=True, text=True).stdout


async def prune(driver, count):
    await driver.press("p")
    await driver.wait_for(lambda: isinstance(driver.app.screen, PruneScreen), "the preview")
    assert len(driver.app.screen.lost) == count
    await driver.see(f"{count} to go · nothing is changed yet")
    await driver.press("p")
    await driver.see("Prune?")
    await driver.press("y")
    await known(driver, pruned=count)


async def known(driver, **counts):
    """Until the place shows it: what a command changes is read again when it has ended."""
    await driver.wait_for(
        lambda: (
            getattr(driver.app.screen, "current", None)
            and all(_count(driver.app.screen.current.known, name) == n for name, n in counts.items())
        ),
        f"{counts}",
    )


def _count(of, name):
    found = getattr(of, name)
    return found if isinstance(found, int) else len(found)


def test_prune_undo_prune_again_and_compact(folder, drive):
    shelf = Shelf(folder)
    before = shelf.points()
    report = json.loads((folder / "report.json").read_text())["points"]
    guests = {point["guest"] for point in report}
    gone = len(before) - len(guests)
    assert shelf.archives >= before
    assert gone > 0

    async def test():
        async with console(folder) as driver:
            await prune(driver, gone)
            kept, pruned = shelf.points(), shelf.points("--pruned")
            assert len(kept) == len(guests)
            assert (kept | pruned, kept & pruned) == (before, set())
            assert shelf.archives >= before, "nothing is deleted yet"

            await driver.press("u")
            await driver.see("Undo the prune?")
            await driver.press("y")
            await known(driver, pruned=0)
            assert (shelf.points(), shelf.points("--pruned")) == (before, set())

            await prune(driver, gone)
            assert shelf.points() == kept
            await driver.press("C")
            await driver.see("Delete for good?")
            await driver.see("will be deleted. Nobody can undo that.")
            await driver.type("backup")
            await driver.press("tab", "tab", "enter")
            store = driver.app.services.store
            await driver.wait_for(lambda: store.runs(1)[0].kind == "compact", "the run")
            await driver.wait_for(lambda: store.runs(1)[0].state is not RunState.RUNNING, "its end")
            assert (store.runs(1)[0].state, store.runs(1)[0].error) == (RunState.DONE, "")
            await known(driver, pruned=0, points=len(guests), vanished=0)
            assert [ended.error for ended in driver.app.commands if not ended.ok] == []
            assert (shelf.points(), shelf.points("--pruned")) == (kept, set())

    drive(test())
    assert shelf.archives & before == shelf.points()
    shelf.borg("check", "--verify-data")
