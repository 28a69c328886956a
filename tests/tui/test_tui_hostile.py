"""Names that want to be something else go through every screen as what they are."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rich.cells import cell_len
from world import GIB, World

from vmconsole.model.history import BackupState
from vmconsole.tui.keymap import PLACES

NAMES = (
    "vm[/prod]",
    "[bold red]not bold[/]",
    "x" * 200,
    "שרת-גיבוי",
    "خادم ملفات",
    "備份主機-01",
    "emoji-👩‍👩‍👧-✓ ok",
    "esc\x1b[2J\x1b]0;owned\x07",
    "line\nfeed\rand\ttab",
    "over\u202eride\u2066",
    "$(reboot) `id` ; rm -rf /",
    "",
)
MESSAGE = "The host said: \x1b[31m[/red] \u202e\n✓ forged line"


@pytest.fixture
def shop(tmp_path) -> World:
    world = World(tmp_path)
    for number, name in enumerate(NAMES):
        guest = world.guest(
            name,
            "pve" if number % 2 else "kvm1",
            warnings=(MESSAGE,),
            pool=name[:40],
            tags=("prod", name[:40]),
        )
        if number % 3 == 0:
            world.backup(guest, ago=timedelta(hours=5), state=BackupState.FAILED, error=MESSAGE, hint=MESSAGE)
        else:
            event = {
                "event": "guest_failed",
                "guest": name,
                "error": "HostError",
                "message": MESSAGE,
                "hint": MESSAGE,
            }
            run = world.run(subject=name, ago=timedelta(hours=4), error=MESSAGE, events=[event])
            world.backup(guest, ago=timedelta(hours=4), run=run.id, dirty=GIB, reason=MESSAGE)
    world.save()
    return world


def harmless(screen: str, width: int) -> None:
    for line in screen.split("\n"):
        assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in line), repr(line)
        assert "\u202e" not in line
        assert "\u2066" not in line
        assert cell_len(line) <= width, repr(line)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 36), (200, 50)])
@pytest.mark.parametrize("place", PLACES)
def test_every_row_of_every_place(shop, drive, place, width, height):
    async def test():
        async with shop.console(width, height) as driver:
            await driver.press(str(PLACES.index(place) + 1))
            await driver.wait_for(lambda: driver.app.current_mode == place, place)
            harmless(driver.screen, width)
            for _ in NAMES:
                await driver.press("down")
                harmless(driver.screen, width)
            await driver.press("enter")
            harmless(driver.screen, width)

    drive(test())


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_guest_of_that_name_is_filtered_logged_and_copied(shop, drive, name):
    async def test():
        async with shop.console(80, 24) as driver:
            row = next(row for row in driver.app.picture.guests if row.guest.name == name)
            assert driver.app.screen.listing.move_to(row.key)
            for key in ("y", "Y", "l", "escape", "question_mark", "escape", "colon", "escape"):
                await driver.press(key)
                harmless(driver.screen, 80)

    drive(test())
