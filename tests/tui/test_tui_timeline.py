"""The coming night."""

from __future__ import annotations

from datetime import timedelta

import pytest
from snapshots import same_as_kept
from world import CONFIG, GIB, World

from vmconsole.model.guest import Disk
from vmconsole.tui.screens.timeline import Timeline


def a_busy_night(folder) -> World:
    world = World(folder, CONFIG + "\n[limits]\nper_host = 2\n")
    for number in range(9):
        disk = Disk("vda", 120 * GIB, "qcow2", f"/pool-{number % 2}/{number}.qcow2")
        guest = world.guest(f"web-{number:02}", "kvm1" if number % 3 else "pve", disks=(disk,))
        world.backup(guest, ago=timedelta(hours=6), dirty=GIB, seconds=1200.0 + 300 * number)
    world.guest("sql-02", "pve", size=500 * GIB)
    world.save()
    return world


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 36), (200, 50)])
def test_the_night_as_it_looks(tmp_path, drive, width, height):
    async def test():
        async with a_busy_night(tmp_path).console(width, height) as driver:
            driver.app.push_screen(Timeline())
            await driver.see("to read, done at")
            await driver.press("home")
            same_as_kept(f"timeline-{width}x{height}", driver.screen)

    drive(test())


def test_what_waits_is_named(tmp_path, drive):
    async def test():
        async with a_busy_night(tmp_path).console(200, 50) as driver:
            driver.app.push_screen(Timeline())
            await driver.see("to read, done at")
            await driver.press("exclamation_mark")
            assert "kvm1 was busy with web-" in driver.screen

    drive(test())
