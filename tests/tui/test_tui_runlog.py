"""The log of a run: followed, searched, copied."""

from __future__ import annotations

from datetime import timedelta

from nights import say
from world import GIB, World

from vmconsole.events import (
    GuestFailed,
    GuestPlanned,
    RunStarted,
    Warned,
)
from vmconsole.model.run import Run, RunState


def a_long_log(world: World) -> Run:
    events = [RunStarted("", "backup", "group daily")]
    for number in range(60):
        events.append(GuestPlanned("", f"g-{number}", "kvm1", "incremental", "", "pull", "", GIB))
    run = world.run(ago=timedelta(minutes=3), state=RunState.RUNNING)
    say(world, run, *((60.0 - number, event) for number, event in enumerate(events)))
    return run


def test_the_log_follows_while_the_cursor_is_at_its_end(shop, drive):
    run = a_long_log(shop)

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("3", "l")
            await driver.see("g-59 on kvm1")
            say(shop, run, (0, Warned("", "web-01", "the first")))
            await driver.see("the first")
            await driver.press("g")
            await driver.see("g-0 on kvm1")
            say(shop, run, (0, Warned("", "web-01", "the second")))
            log = driver.app.screen
            await driver.wait_for(
                lambda: any("second" in line.text for line in log.listing.rows), "the second"
            )
            assert "g-0 on kvm1" in driver.screen
            await driver.press("G")
            await driver.see("the second")

    drive(test())


def test_the_log_finds_and_copies_lines(shop, drive):
    run = a_long_log(shop)
    say(shop, run, (0, Warned("", "web-01", "It is slow.", "Look at its disks.")))

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("3", "l")
            await driver.see("It is slow.")
            await driver.press("slash")
            await driver.type("g-42")
            await driver.press("enter")
            await driver.wait_for(lambda: len(driver.app.screen.listing.shown) == 1, "the one line")
            await driver.press("y")
            assert driver.app.clipboard.endswith("▶ g-42 on kvm1: incremental, about 1 GiB to read")
            await driver.press("escape", "exclamation_mark")
            assert [line.text for line in driver.app.screen.listing.shown] == [
                "! web-01: It is slow.",
                "  → Look at its disks.",
            ]
            await driver.press("g", "space", "space", "y")
            assert driver.app.clipboard == "08:00:00 ! web-01: It is slow. · → Look at its disks."
            await driver.press("escape", "escape", "escape")
            await driver.see("Runs 1 running")

    drive(test())


def test_a_line_too_long_for_the_terminal_is_shown_whole(shop, drive):
    run = a_long_log(shop)
    say(shop, run, (0, Warned("", "web-01", f"It is {'very ' * 20}slow indeed.")))

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("3", "l")
            await driver.see("slow indeed.")

    drive(test())


def test_the_log_of_a_failed_run_opens_at_the_reason(shop, drive):
    events = [GuestFailed("", "web-01", "X", "The reason.", "The remedy.").as_json()]
    events += [Warned("", "kvm1", f"another thing {number}").as_json() for number in range(40)]
    shop.run(ago=timedelta(minutes=3), state=RunState.FAILED, events=events, error="The reason.")

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("3", "l")
            await driver.see("✗ web-01: The reason.")
            assert driver.app.screen.listing.current.text == "✗ web-01: The reason."

    drive(test())


def test_steps_are_shown_when_asked_for(shop, drive):
    step = {"event": "step_finished", "guest": "web-01", "step": "freeze", "seconds": 0.4}
    shop.run(ago=timedelta(minutes=3), events=[RunStarted("", "backup", "group daily").as_json(), step])

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("3", "l")
            await driver.see("backup group daily")
            assert "freeze" not in driver.screen
            await driver.press("w")
            await driver.see("web-01: freeze 400 ms")

    drive(test())
