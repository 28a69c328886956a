"""Back up now: one question, answered before or after the plan is there."""

from __future__ import annotations

import json
import threading

import pytest
from nights import CURSOR, SIZES
from snapshots import same_as_kept
from world import GIB

from vmconsole.front.services import Captured
from vmconsole.model.run import RunState
from vmconsole.tui.dialogs.backup import open_backup


def plan(*items: dict[str, object], code: int = 0) -> Captured:
    return Captured(code, json.dumps({"plan": list(items)}), "")


WEB = {"guest": "web-01", "host": "kvm1", "mode": "incremental", "reason": None, "bytes_expected": 3 * GIB,
       "warnings": ["The guest agent is not connected: this backup is crash-consistent."]}  # fmt: skip
DC = {"guest": "dc-01", "host": "pve", "mode": "full", "reason": "no restore point yet", "bytes_expected": 7 * GIB,
      "warnings": []}  # fmt: skip
REFUSED = {
    "guest": "files",
    "host": "kvm1",
    "error": "HostError",
    "message": "It is being moved.",
    "hint": "Wait.",
}


def window(screen: str) -> str:
    """The dialog without what it lies over."""
    lines = screen.split("\n")
    top = next(number for number, line in enumerate(lines) if "╭─ Back up" in line)
    left = lines[top].index("╭─ Back up")
    right = lines[top].index("╮", left) + 1
    bottom = next(number for number in range(top, len(lines)) if lines[number][left:].startswith("╰"))
    return "\n".join(line[left:right] for line in lines[top : bottom + 1])


def mark(driver, *names: str) -> None:
    listing = driver.app.screen.listing
    listing.marks = {row.key for row in listing.rows if row.guest.name in names}


def on(driver, name: str) -> None:
    listing = driver.app.screen.listing
    listing.move_to(next(row.key for row in listing.rows if row.guest.name == name))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_back_up_now_as_it_looks(shop, drive, width, height):
    shop.services.answers["backup"] = plan(WEB, DC, REFUSED, code=1)

    async def test():
        async with shop.console(width, height) as driver:
            mark(driver, "web-01", "dc-01", "files")
            await driver.press("b")
            await driver.see("About 10 GiB to read from 2 guests.")
            same_as_kept(f"backup-{width}x{height}", window(driver.screen))

    drive(test())


def test_backing_up_the_marked_guests(shop, drive):
    shop.services.answers["backup"] = plan(WEB, DC)

    async def test():
        async with shop.console(120, 36) as driver:
            mark(driver, "web-01", "dc-01")
            await driver.press("b")
            await driver.see("Back up 2 guests?")
            await driver.see("no restore point yet")
            await driver.see("crash-consistent")
            await driver.press("y")
            await driver.see("has begun; 3 shows how far.")
            assert driver.asked == [
                ["backup", "--dry-run", "--", "kvm1/web-01", "pve/dc-01"],
                ["backup", "--", "kvm1/web-01", "pve/dc-01"],
            ] or driver.asked == [
                ["backup", "--dry-run", "--", "pve/dc-01", "kvm1/web-01"],
                ["backup", "--", "pve/dc-01", "kvm1/web-01"],
            ]
            run = shop.services.store.runs(1)[0]
            assert run.state is RunState.RUNNING
            assert f"Run {run.id} has begun" in driver.screen
            assert driver.app.screen.listing.marks == set()
            await driver.press("3")
            await driver.see(f"{CURSOR} ▶ running")

    drive(test())


def test_it_can_be_begun_before_the_plan_has_arrived(shop, drive):
    answer = threading.Event()
    real = shop.services.capture

    def slow(argv):
        answer.wait(60)
        return real(argv)

    shop.services.capture = slow

    async def test():
        async with shop.console(80, 24) as driver:
            on(driver, "web-01")
            await driver.press("b")
            await driver.see("Asking what would be read")
            await driver.press("y")
            await driver.see("has begun;")
            answer.set()
            assert driver.asked[0] == ["backup", "--", "kvm1/web-01"]

    drive(test())


def test_cancel_is_in_focus_and_begins_nothing(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            for key in ("enter", "escape", "n"):
                await driver.press("b")
                await driver.see("Back up files?")
                await driver.press(key)
                assert "Back up files?" not in driver.screen
            assert all("--dry-run" in words for words in driver.asked)

    drive(test())


def test_reading_everything_is_planned_and_begun_with_full(shop, drive):
    shop.services.answers["backup"] = plan(WEB)

    async def test():
        async with shop.console(120, 36) as driver:
            on(driver, "web-01")
            await driver.press("b", "f")
            await driver.see("[x] read everything anew")
            await driver.see("vmconsole backup --full -- kvm1/web-01")
            await driver.press("f")
            await driver.see("[ ] read everything anew")
            await driver.press("f", "y")
            await driver.see("has begun;")
            assert driver.asked.count(["backup", "--dry-run", "--full", "--", "kvm1/web-01"]) == 1
            assert driver.asked[-1] == ["backup", "--full", "--", "kvm1/web-01"]

    drive(test())


def test_a_whole_group(shop, drive):
    gone = {"error": "HostUnreachable", "message": "pve does not answer.", "hint": "Check it."}
    shop.services.answers["backup"] = Captured(20, f"{json.dumps({'plan': [WEB]})}\n{json.dumps(gone)}", "")

    async def test():
        async with shop.console(120, 36) as driver:
            rows = [row for row in driver.app.picture.guests if "daily" in row.groups]
            open_backup(driver.app, rows, "daily")
            await driver.see("Back up group daily?")
            await driver.see("pve does not answer.")
            assert "not in the plan" in driver.line("│ dc-01 ")
            await driver.press("y")
            await driver.see("has begun;")
            assert driver.asked[-1] == ["backup", "--group=daily"]

    drive(test())
