"""Groups: which guests, when, how long."""

from __future__ import annotations

import pytest
from snapshots import same_as_kept

SIZES = [(80, 24), (120, 36), (200, 50)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_groups_as_they_look(shop, drive, width, height):
    async def test():
        async with shop.console(width, height) as driver:
            await driver.press("2")
            await driver.see("hourly")
            same_as_kept(f"groups-{width}x{height}", driver.screen)

    drive(test())
