"""Points: what can be gone back to, and what is done with it."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
from snapshots import same_as_kept
from world import NOW

from vmconsole.front.services import Captured
from vmconsole.model.ledger import Mark

SIZES = [(80, 24), (120, 36), (200, 50)]


async def opened(driver, key="4"):
    await driver.press(key)
    await driver.wait_for(lambda: driver.app.screen.listing.rows, "the points")
    await driver.wait_for(
        lambda: not driver.app.screen._reading and not driver.app.screen._asked_nights, "the nights"
    )


def pruned(shop, point):
    shop.services.ledger.mark([Mark("main", point.archive, point.archive_id, NOW, "not kept by any rule")])


def a_mixed_shop(shop):
    """One pinned, one pruned, one with warnings, of the first guest."""
    own = [number for number, point in enumerate(shop.points) if point.guest == "web-01"]
    shop.points[own[3]] = replace(shop.points[own[3]], pinned=True)
    shop.points[own[5]] = replace(shop.points[own[5]], warnings=("vdb was left out: it is raw.",))
    shop.save()
    pruned(shop, shop.points[own[0]])
    return [shop.points[number] for number in own]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_points_as_they_look(shop, drive, width, height):
    async def test():
        a_mixed_shop(shop)
        async with shop.console(width, height) as driver:
            await opened(driver)
            driver.app.screen.listing.move_to(f"main/{shop.points[-2].archive}")
            await driver.press("down", "down", "down")
            await driver.wait_for(lambda: not driver.app.screen._asked_nights, "the nights")
            same_as_kept(f"points-{width}x{height}", driver.screen)

    drive(test())


def test_points_in_ascii_and_the_detail_of_one(shop, drive):
    async def test():
        a_mixed_shop(shop)
        async with shop.console(80, 24, ascii=True) as driver:
            await opened(driver)
            await driver.press("enter")
            await driver.see("November 2026")
            same_as_kept("points-detail-ascii-80x24", driver.screen)
            await driver.press("escape")
            assert driver.app.screen.PLACE == "points"

    drive(test())


def test_the_failed_nights_of_a_guest_are_in_its_calendar(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            files = shop.guests["kvm1"][1]
            await opened(driver)
            driver.app.screen.listing.move_to(
                f"main/{next(p.archive for p in shop.points if p.uuid == files.uuid)}"
            )
            await driver.see("20✗")
            assert "[ 8✓]" in driver.screen
            assert "2 failed days" in driver.screen

    drive(test())


def test_one_guests_points_from_guests_and_back_to_all(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            web = shop.guests["kvm1"][0]
            driver.app.screen.listing.move_to(web.uuid)
            await opened(driver, "p")
            await driver.see("Points of web-01 14")
            assert {row.point.guest for row in driver.app.screen.listing.shown} == {"web-01"}
            await driver.press("escape")
            assert len({row.point.guest for row in driver.app.screen.listing.shown}) == 4
            await driver.press("t")
            assert len({row.point.guest for row in driver.app.screen.listing.shown}) == 1
            await driver.press("t")
            assert len({row.point.guest for row in driver.app.screen.listing.shown}) == 4

    drive(test())


def test_a_guest_without_points_says_what_makes_one(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            driver.app.screen.listing.move_to(shop.guests["kvm1"][3].uuid)
            assert driver.app.screen.current.guest.name == "new-one"
            await driver.press("p")
            await driver.see("This guest has no restore point yet.")
            for key in ("o", "r", "f", "c", "u"):
                await driver.press(key)
            assert not [words for words in driver.asked if words[0] in ("pin", "restore", "undo-prune")]

    drive(test())


def test_pins_and_takes_pins_away(shop, drive):
    async def test():
        own = a_mixed_shop(shop)
        async with shop.console(120, 36) as driver:
            await opened(driver)
            driver.app.screen.listing.move_to(f"main/{own[3].archive}")
            await driver.press("o")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["pin", "--remove", own[3].archive]]
            driver.app.screen.listing.marks = {f"main/{own[3].archive}", f"main/{own[4].archive}"}
            await driver.press("o")
            await driver.wait_for(lambda: len(driver.asked) == 2, "the command")
            assert driver.asked[1] == ["pin", own[4].archive, own[3].archive]
            await driver.see("2 points are pinned.")

    drive(test())


def test_a_pin_that_fails_says_why(shop, drive):
    async def test():
        answer = '{"error": "RepositoryLocked", "message": "Repository main is locked.", "hint": "Wait."}'
        shop.services.answers["pin"] = Captured(11, answer, "")
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.press("o")
            await driver.see("Repository main is locked.")
            await driver.see("exit code 11")

    drive(test())


def test_what_was_pruned_is_hidden_until_asked_for_and_can_be_had_back(shop, drive):
    async def test():
        own = a_mixed_shop(shop)
        async with shop.console(120, 36) as driver:
            await opened(driver)
            key = f"main/{own[0].archive}"
            assert key not in [row.key for row in driver.app.screen.listing.shown]
            await driver.see("1 pruned, P shows")
            await driver.press("u")
            await driver.see("This point is not pruned.")
            await driver.press("P")
            assert driver.app.screen.listing.move_to(key)
            await driver.see("u has it back")
            shop.services.ledger.unmark("main", [own[0].archive])
            await driver.press("u")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["undo-prune", own[0].archive]]
            await driver.wait_for(lambda: not driver.app.screen.shelf.pruned, "the points read anew")
            assert "∘ pruned" not in driver.line("main")

    drive(test())


def test_two_marked_points_are_compared(shop, drive):
    async def test():
        own = [point for point in shop.points if point.guest == "web-01"]
        disk = own[-1].disks[0]
        grown = replace(disk, size=disk.size * 2)
        shop.points[shop.points.index(own[-1])] = replace(own[-1], disks=(grown, replace(disk, id="vdb")))
        shop.save()
        async with shop.console(120, 36) as driver:
            await opened(driver)
            driver.app.screen.listing.marks = {f"main/{own[-1].archive}", f"main/{own[-3].archive}"}
            await driver.press("c")
            await driver.see("2 d apart, 2 backups to the newer one")
            same_as_kept("points-compare-120x36", driver.screen)

    drive(test())


def test_comparing_says_what_must_be_marked(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.press("c")
            await driver.see("Mark two points with space")
            await driver.press("space", "c")
            await driver.see("these are points of two different guests")

    drive(test())


def test_read_only_changes_nothing(shop, drive):
    async def test():
        a_mixed_shop(shop)
        async with shop.console(120, 36, read_only=True) as driver:
            await opened(driver)
            await driver.press("o")
            await driver.see("This console is read-only.")
            assert driver.asked == []

    drive(test())


def test_verifying_one_point_names_what_there_is(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.press("v")
            await driver.see("Single points cannot be verified yet.")

    drive(test())


@pytest.mark.parametrize(
    ("key", "module", "name"), [("r", "restore", "open_restore"), ("f", "browse", "open_browse")]
)
def test_restore_and_files_are_handed_the_point(shop, drive, monkeypatch, key, module, name):
    async def test():
        handed = []
        opening = types.ModuleType(module)
        setattr(opening, name, lambda console, point, repository: handed.append((console, point, repository)))
        monkeypatch.setitem(sys.modules, f"vmconsole.tui.screens.{module}", opening)
        async with shop.console(80, 24) as driver:
            await opened(driver)
            await driver.press("down", key)
            assert handed == [(driver.app, driver.app.screen.current.point, "main")]

    drive(test())


def test_foreign_names_do_no_harm(shop, drive):
    async def test():
        evil = shop.guest("vm[/prod]\x1b[31m")
        point = replace(shop.points[0], uuid=evil.uuid, guest=evil.name, archive="x[/b]-1", time=NOW, run="[/]",
                        reason="[/nothing] to close", warnings=("[/red]",), archive_id="ff" * 32)  # fmt: skip
        shop.points.append(point)
        shop.save()
        async with shop.console(120, 36) as driver:
            await opened(driver)
            driver.app.screen.listing.move_to("main/x[/b]-1")
            await driver.see("vm[/prod]\\x1b[31m")
            await driver.press("t")
            await driver.see("Points of vm[/prod]")
            await driver.press("enter")
            await driver.see("[/nothing] to close")
            await driver.press("escape", "o")
            await driver.see("x[/b]-1 is pinned.")

    drive(test())
