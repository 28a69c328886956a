"""Guests: is everything safe, and why not?"""

from __future__ import annotations

import pytest
from snapshots import same_as_kept

SIZES = [(80, 24), (120, 36), (200, 50)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_guests_as_they_look(shop, drive, width, height):
    async def test():
        async with shop.console(width, height) as driver:
            same_as_kept(f"guests-{width}x{height}", driver.screen)

    drive(test())


def test_from_a_red_row_to_its_reason_and_its_log(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("exclamation_mark")
            assert "files" in driver.screen
            assert "web-01" not in driver.screen
            driver.app.screen.listing.move_to(shop.guests["kvm1"][1].uuid)
            await driver.see("Scratch space on kvm1")
            await driver.press("l")
            await driver.see("Log  backup group daily")
            await driver.press("escape")
            assert "files" in driver.screen

    drive(test())


def test_a_filter_narrows_the_list_and_escape_takes_it_back(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("slash")
            await driver.type("state:failed")
            assert [row.guest.name for row in driver.app.screen.listing.shown] == ["files"]
            await driver.press("enter")
            assert "files" in driver.screen
            await driver.press("escape")
            assert len(driver.app.screen.listing.shown) == 7

    drive(test())


def test_the_cursor_stays_on_its_row_when_everything_changes(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            listing = driver.app.screen.listing
            listing.move_to(shop.guests["kvm1"][0].uuid)
            shop.guest("aaa-first")
            shop.save()
            driver.app.feed.look_now()
            await driver.see("aaa-first")
            assert listing.current.guest.name == "web-01"
            await driver.press("s")
            assert listing.current.guest.name == "web-01"

    drive(test())
