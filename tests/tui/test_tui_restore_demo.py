"""A real restore, begun in the console: real repository, real processes, compared with what the host had."""

from __future__ import annotations

import hashlib
import json
import tarfile
from contextlib import asynccontextmanager

import pytest
from world import Driver

from vmconsole.__main__ import main
from vmconsole.interfaces import Cancel
from vmconsole.model.run import RunState
from vmconsole.tui.app import Console, Settings
from vmconsole.tui.states import Glyphs
from vmconsole.wiring.services import Wiring

CURSOR = Glyphs().cursor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo that ran its two nights; its hosts are gone again."""
    place = tmp_path_factory.mktemp("console") / "shop"
    assert main(["demo", "--headless", "--dir", str(place), "--json"]) == 0
    return place


@asynccontextmanager
async def console(folder):
    services = Wiring(folder / "config.toml", Cancel())
    app = Console(services, Settings())
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        driver = Driver(app, pilot, None)
        await driver.wait_for(lambda: app.picture.recent and not app.asking, "the first picture")
        yield driver
    services.close()


def move_to(driver, name):
    row = next(row for row in driver.app.picture.guests if row.guest.name == name)
    driver.app.screen.listing.move_to(row.key)


def points_of(folder, guest):
    return [p for p in json.loads((folder / "report.json").read_text())["points"] if p["guest"] == guest]


def test_disks_come_back_as_the_host_had_them(folder, drive, tmp_path):
    async def test():
        async with console(folder) as driver:
            move_to(driver, "web-01")
            await driver.press("r")
            await driver.wait_for(lambda: driver.app.screen.candidate, "the points")
            await driver.press("down", "enter", "down", "enter", "ctrl+u")
            await driver.type(f"{tmp_path}/back/")
            await driver.see("A new folder is made.")
            await driver.press("enter")
            await driver.see("the repository has it, and the place is free")
            await driver.press("s")
            await driver.see("Restore has begun")
            store = driver.app.services.store
            await driver.wait_for(lambda: store.runs(1)[0].state is not RunState.RUNNING, "the restore")
            run = store.runs(1)[0]
            assert (run.kind, run.state) == ("restore", RunState.DONE), run.error
            (expected,) = [p for p in points_of(folder, "web-01") if p["archive"] == run.subject]
            assert expected["mode"] == "full", "the older of the two was chosen"
            assert len(expected["disks"]) == 2
            for disk in expected["disks"]:
                with (tmp_path / "back" / f"{disk['id']}.raw").open("rb") as file:
                    assert hashlib.file_digest(file, "sha256").hexdigest() == disk["sha256"]

    drive(test())


def test_a_containers_files_are_found_without_reading_its_tar(folder, drive):
    async def test():
        async with console(folder) as driver:
            move_to(driver, "dns-01")
            await driver.press("f")
            await driver.see("files/")
            await driver.press("down", "down", "enter")
            await driver.see("usr/")
            await driver.press("enter", "enter")
            await driver.see("zone.example")
            await driver.press("enter")
            await driver.see("IN SOA ns.example. root.example. 2 3600")
            await driver.press("escape", "escape")
            await driver.see("/files / etc")
            assert f"{CURSOR} bind/" in driver.screen, "the cursor is on the folder that was left"
            await driver.press("slash", *"shad")
            assert "shadow" in driver.screen
            assert "hostname" not in driver.screen

    drive(test())


@pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"),
    reason="Python before 3.11.4: nothing is taken out, as it could not be safe",
)
def test_a_containers_folder_is_taken_out(folder, drive, tmp_path):
    async def test():
        async with console(folder) as driver:
            move_to(driver, "dns-01")
            await driver.press("f")
            await driver.see("files/")
            await driver.press("x")
            await driver.see("This is shown, not taken out")
            await driver.press("down", "down", "enter", "enter")
            await driver.see(f"{CURSOR} bind/")
            await driver.press("x")
            await driver.see("Into which folder")
            await driver.press("ctrl+u")
            await driver.type(f"{tmp_path}/new")
            await driver.press("enter")
            await driver.see("Taking out has begun")
            store = driver.app.services.store
            await driver.wait_for(lambda: store.runs(1)[0].state is not RunState.RUNNING, "the end")
            assert (store.runs(1)[0].kind, store.runs(1)[0].error) == ("get", "")
            assert [path.name for path in (tmp_path / "new").iterdir()] == ["bind"]
            assert " 2 3600 900" in (tmp_path / "new/bind/zone.example").read_text().splitlines()[0]
            before = len(store.runs(50))
            await driver.press("x", "ctrl+u")
            await driver.type(f"{tmp_path}/new")
            await driver.press("enter")
            await driver.see("overwritten")  # the path before it may break the line anywhere
            assert len(store.runs(50)) == before

    drive(test())


def test_the_files_of_a_virtual_machine_folder_by_folder(folder, drive, tmp_path):
    async def test():
        async with console(folder) as driver:
            move_to(driver, "web-01")
            await driver.press("f")
            await driver.see("files/")
            await driver.see("volumes/")
            to_row(driver, "config/libvirt.xml", "config")
            await driver.press("enter")
            await driver.see("<domain type='kvm'>")
            await driver.press("escape", "backspace")
            await open_folder(driver, "files")
            await open_folder(driver, "files/srv")
            await open_folder(driver, "files/srv/uploads")
            await driver.see("2026/")
            await driver.press("backspace", "backspace")
            await open_folder(driver, "files/etc")
            to_row(driver, "files/etc/hostname")
            await driver.press("enter")
            await driver.see("web-01")
            await driver.press("escape")
            to_row(driver, "files/etc/shadow")
            await driver.press("x", "ctrl+u")
            await driver.type(f"{tmp_path}/new")
            await driver.press("enter")
            await driver.wait_for(lambda: (tmp_path / "new/shadow").exists(), "the file")
            assert (tmp_path / "new/shadow").read_text().startswith("root:")

    drive(test())


def test_a_volume_by_itself(folder, drive):
    async def test():
        async with console(folder) as driver:
            move_to(driver, "crm-01")
            await driver.press("f")
            await driver.see("volumes/")
            await open_folder(driver, "volumes")
            to_row(driver, "volumes/virtio1")
            await driver.see("ext4 crm-data /srv/data")
            await open_folder(driver, "volumes/virtio1")
            await driver.see("letters/")
            to_row(driver, "volumes/virtio1/letters")
            assert driver.app.screen.command_to_copy[1].endswith(":virtio1")

    drive(test())


async def open_folder(driver, path):
    to_row(driver, path)
    await driver.press("enter")
    await driver.wait_for(lambda: driver.app.screen.folder == path, path)


def to_row(driver, path, folder=None):
    """folder: to go into first."""
    screen = driver.app.screen
    if folder is not None:
        screen.folder = folder
        screen._show()
    assert screen.query_one("Listing").move_to(path), path


def test_a_host_that_is_gone_is_told_before_anything_is_started(folder, drive):
    async def test():
        async with console(folder) as driver:
            move_to(driver, "web-01")
            await driver.press("r")
            await driver.wait_for(lambda: driver.app.screen.candidate, "the points")
            await driver.press("enter", "enter")
            await driver.see("did not answer just now")
            await driver.press("enter")
            await driver.see("cannot be reached")
            before = len(driver.app.services.store.runs(50))
            await driver.press("s")
            await driver.see("It would fail")
            assert len(driver.app.services.store.runs(50)) == before

    drive(test())
