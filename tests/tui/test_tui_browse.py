"""Browse on the still world: a repository that answers what the test says."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from snapshots import same_as_kept

from vmconsole.errors import FilesUnreadable, PointNotFound, RepositoryLocked
from vmconsole.model.files import FileEntry, FileKind, Volume
from vmconsole.tui.states import Glyphs

CURSOR = Glyphs().cursor

CONFIG = b"""\
#Mail for [/everybody]
cores: 2
net0: virtio=BC:24:11:00:00:01,bridge=vmbr0\x1b[2J
"""


class Repository:
    """Members of every archive, or the error that opening it raises."""

    def __init__(self):
        self.members = {"guest.json": b'{"guest": "dc-01", "disks": []}', "config/qemu-server.conf": CONFIG}
        self.error = None
        self.opened = 0

    @contextmanager
    def reader(self, *, wait=None):
        assert wait, "nobody waits for hours in front of a screen"
        self.opened += 1
        if self.error:
            raise self.error
        yield self

    def files(self, archive):
        return self.members

    def open_disk(self, archive, path):
        if path.endswith(".raw"):
            return  # Inside does not look.
        raise PointNotFound(f"{archive} has no {path}.")


class Inside:
    """What is in a virtual machine's disks: folders by (volume, path)."""

    def __init__(self):
        self.volumes = [
            Volume("vda1", "vda", "ext4", 1 << 30, "root", readable=True, mounted="/"),
            Volume("vda2", "vda", "swap", 1 << 20),
        ]
        etc = FileEntry("etc", FileKind.FOLDER, changed=1e9, mode=0o755, owner=0, group=0)
        wild = FileEntry("[bold]\x1b[2J\udcff", FileKind.FILE, 5, 1e9, 0o600, 0, 0)
        loop = FileEntry("loop", FileKind.LINK, 3, 1e9, 0o777, 0, 0, target="/[etc]")
        self.folders = {("", "/"): [etc, wild, loop], ("vda1", "/"): [etc], ("", "/etc"): []}
        self.error = None
        self.opened = self.closed = 0

    @contextmanager
    def __call__(self, disks):
        if self.error:
            raise self.error
        self.opened += 1
        yield self
        self.closed += 1

    def entries(self, volume, path):
        if self.error:
            raise self.error
        return iter(self.folders[volume, path])

    def read(self, volume, path, offset, length):
        yield b"\x1b[2Jhi"[:length]


@pytest.fixture
def inside(shop):
    made = Inside()
    shop.services.files = made
    return made


@pytest.fixture
def repository(shop, inside):
    made = Repository()
    shop.services.repository = lambda name: made
    return made


def move_to(driver, name):
    row = next(row for row in driver.app.picture.guests if row.guest.name == name)
    driver.app.screen.listing.move_to(row.key)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 36), (200, 50)])
def test_a_virtual_machine_as_it_looks(shop, repository, drive, width, height):
    async def test():
        async with shop.console(width, height) as driver:
            move_to(driver, "dc-01")
            await driver.press("f")
            await driver.see("volumes/")
            same_as_kept(f"browse-{width}x{height}", driver.screen.replace(CURSOR, "▸"))

    drive(test())


def test_configuration_is_shown_and_never_obeyed(shop, repository, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            move_to(driver, "dc-01")
            await driver.press("f")
            await driver.see("config/")
            await driver.press("enter", "enter")
            await driver.see("#Mail for [/everybody]")
            assert "vmbr0\\x1b[2J" in driver.screen
            await driver.press("escape", "escape")
            assert f"{CURSOR} config/" in driver.screen
            await driver.press("escape")
            await driver.see("last good")

    drive(test())


def test_a_locked_repository_says_so_and_is_read_again(shop, repository, drive):
    async def test():
        repository.error = RepositoryLocked(
            "main is locked by a backup [/of] sql-02.", hint="Wait for run 12."
        )
        async with shop.console(80, 24) as driver:
            move_to(driver, "dc-01")
            await driver.press("f")
            await driver.see("✗ main is locked by a backup [/of] sql-02.")
            assert "→ Wait for run 12." in driver.screen
            await driver.press("enter")
            await driver.see("There is nothing to open.")
            repository.error = None
            await driver.press("c")
            await driver.see("volumes/")
            assert repository.opened == 3, "for its configuration, and for its disks"
            assert "Wait for run 12." not in driver.screen

    drive(test())


def test_a_point_that_is_gone_is_told(shop, repository, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            shop.points = []
            shop.services.store.save_points("main", [])
            move_to(driver, "dc-01")
            await driver.press("f")
            await driver.see("has no restore point of this guest any more")
            assert repository.opened == 0

    drive(test())


def test_restore_from_here_begins_with_this_point(shop, repository, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            move_to(driver, "dc-01")
            await driver.press("r")
            await driver.see("2026-11-21 02:00")
            await driver.press("down", "down", "f")
            await driver.see("Inside dc-01  2026-11-19 02:00")
            await driver.press("r")
            await driver.see(f"{CURSOR} 2026-11-19 02:00")

    drive(test())


def test_an_older_container_has_no_index_and_says_so(shop, repository, drive):
    async def test():
        guest = shop.guest("box", "pve")
        shop.backup(guest, ago=timedelta(hours=3))
        (disk,) = shop.points[-1].disks
        tar = replace(disk, id="rootfs", path="container/rootfs.tar", format="tar")
        shop.points[-1] = replace(shop.points[-1], disks=(tar,))
        shop.save()
        async with shop.console(120, 36) as driver:
            await driver.wait_for(lambda: driver.app.picture.guest(guest.uuid), "the guest")
            move_to(driver, "box")
            await driver.press("f")
            await driver.see("has no index of its files")
            await driver.press("down", "x")
            await driver.see("All files at once are the tar")
            await driver.press("r")
            await driver.see("2026-11-21 05:00")
            await driver.press("enter", "down", "down")
            await driver.see("files, folder by folder")
            await driver.press("enter")
            await driver.see("Inside box")

    drive(test())


def test_names_from_a_guest_are_shown_and_never_obeyed(shop, repository, inside, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            move_to(driver, "dc-01")
            await driver.press("f")
            await driver.see("volumes/")
            driver.app.screen.query_one("Listing").move_to("files")
            await driver.press("enter")
            await driver.see("[bold]\\x1b[2J")
            await driver.see("→ /[etc]")
            await driver.press("down", "enter")
            await driver.see("\\x1b[2Jhi"[:5])
            await driver.press("escape", "escape", "escape")
            await driver.see("last good")
            await driver.wait_for(lambda: inside.closed == inside.opened == 1, "the disks are let go")

    drive(test())


def test_a_folder_that_cannot_be_read_says_so_and_the_rest_stays(shop, repository, inside, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            move_to(driver, "dc-01")
            await driver.press("f")
            await driver.see("volumes/")
            inside.error = FilesUnreadable("/ cannot be read: a broken [/extent].", hint="Restore the disk.")
            driver.app.screen.query_one("Listing").move_to("files")
            await driver.press("enter")
            await driver.see("✗ / cannot be read: a broken [/extent].")
            assert "→ Restore the disk." in driver.screen
            inside.error = None
            await driver.press("enter")
            await driver.see("etc/")

    drive(test())


def test_disks_without_files_say_what_they_are(shop, repository, inside, drive):
    async def test():
        inside.volumes = [Volume("vda1", "vda", "encrypted", 1 << 30, note="LUKS. It is encrypted.")]
        async with shop.console(80, 24) as driver:
            move_to(driver, "dc-01")
            await driver.press("f")
            await driver.see("no files that can be read here. vda1: LUKS.")
            assert "volumes/" not in driver.screen

    drive(test())
