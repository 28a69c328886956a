"""Runs: what goes on, how it went, and stopping them."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta

import pytest
from nights import CURSOR, SIZES, a_busy_night, say
from snapshots import same_as_kept
from world import GIB, a_shop

from vmconsole.events import (
    DiskProgress,
    GuestFailed,
    PointMade,
    RunFinished,
    StepStarted,
    Throttled,
    Warned,
)
from vmconsole.front.services import Captured
from vmconsole.model.history import BackupState
from vmconsole.model.run import RunState

HOSTILE = "[/bold]\x1b[31mred\u202e [@click=app.quit]x"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_runs_as_they_look(tmp_path, drive, width, height, monkeypatch):
    # Runs of one second are in the order of their ids, and these end in letters drawn by lot.
    digits = (digit for number in itertools.count() for digit in f"{number:04}")
    monkeypatch.setattr("vmconsole.state.store.secrets.choice", lambda letters: next(digits))
    world = a_shop(tmp_path)
    a_busy_night(world)

    async def test():
        async with world.console(width, height) as driver:
            await driver.press("3")
            await driver.see("100 MiB/s")
            await driver.see("stored 512 MiB" if width >= 120 else "512 MiB")
            same_as_kept(f"runs-{width}x{height}", driver.screen.replace(CURSOR, ">"))

    drive(test())


def test_a_run_that_goes_on_says_how_fast_how_long_and_why_so_slow(shop, drive):
    a_busy_night(shop)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3")
            await driver.see("100 MiB/s  1 m 2 s left")
            assert "32 %" in driver.line("100 MiB/s")
            assert "kvm1 held to 200 MiB/s: its disks are busy" in driver.screen
            assert "50 MiB/s" in driver.line(" vda ")
            assert "25 MiB/s" in driver.line(" vdb ")
            assert "2 to come: new-one, sql-02" in driver.screen
            assert "1 GiB read" in driver.line("ok       dc-01")
            assert "The guest agent took 9 s" in driver.screen
            assert "1/5" in driver.line(f"{CURSOR} ▶ running")

    drive(test())


def test_progress_comes_in_by_itself_and_the_end_too(shop, drive):
    run = a_busy_night(shop)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3")
            await driver.see("2.9/9.0 GiB")
            say(shop, run, (0, DiskProgress("", "web-01", "vda", 6 * GIB, 9 * GIB)))
            await driver.see("6.0/9.0 GiB")
            say(shop, run, (0, PointMade("", "web-01", "w.1", "full", "application", 99.0, 9 * GIB, GIB)),
                (0, GuestFailed("", "files", "HostError", "The disk is gone.", "Put it back.")),
                (0, RunFinished("", "failed", 120.0, 1)))  # fmt: skip
            records = shop.services.history.of_run(run.id)
            for record in records[1:]:
                shop.backup(shop.guests["kvm1"][0 if record.guest == "web-01" else 1], ago=timedelta(seconds=1),
                            run=run.id, state=BackupState.DONE if record.guest == "web-01" else BackupState.FAILED,
                            error="" if record.guest == "web-01" else "The disk is gone.",
                            hint="" if record.guest == "web-01" else "Put it back.")  # fmt: skip
            shop.services.store.finish_run(run.id, RunState.FAILED, "The disk is gone.", 1)
            await driver.see(f"{CURSOR} ✗ failed")
            await driver.see("→ Put it back.")
            await driver.see("none running")
            assert "1 of 3 failed. files: The disk is go" in driver.line(f"{CURSOR} ✗ failed")

    drive(test())


def test_that_nothing_comes_is_told_though_nothing_comes(shop, drive):
    a_busy_night(shop)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3")
            await driver.see("100 MiB/s")
            shop.clock.time += timedelta(seconds=15)
            await driver.see("nothing came for 15 s")
            assert "2 m 15 s" in driver.line(f"{CURSOR} ▶ running")

    drive(test())


def test_held_still_nothing_moves(shop, drive):
    run = a_busy_night(shop)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3")
            await driver.see("2.9/9.0 GiB")
            await driver.press("z")
            say(shop, run, (0, DiskProgress("", "web-01", "vda", 6 * GIB, 9 * GIB)))

            def read() -> int:
                return driver.app.screen.watched[run.id].following.guests["web-01"].done

            await driver.wait_for(lambda: read() == 6 * GIB, "the next look")
            assert "2.9/9.0 GiB" in driver.screen
            await driver.press("z")
            await driver.see("6.0/9.0 GiB")

    drive(test())


def test_on_a_narrow_terminal_enter_opens_the_run_and_l_its_log(shop, drive):
    a_busy_night(shop)

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("3")
            await driver.see("100 MiB/s")
            await driver.press("enter")
            await driver.see("2 to come: new-one, sql-02")
            assert "25 MiB/s" in driver.line("vdb")
            await driver.press("l")
            await driver.see("Log  backup group daily")
            await driver.press("escape", "escape")
            await driver.see("Runs 1 running")

    drive(test())


def test_only_what_needs_attention(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3", "exclamation_mark")
            shown = driver.app.screen.listing.shown
            assert {row.word for row in shown} == {"failed"}
            assert len(shown) == 2
            await driver.see("Scratch space on kvm1 would not hold")
            await driver.see("→ Choose another scratch folder")

    drive(test())


def test_names_from_outside_harm_no_screen(shop, drive):
    run = shop.run(subject=HOSTILE, ago=timedelta(minutes=1), state=RunState.RUNNING)
    say(shop, run, (50, StepStarted("", HOSTILE, HOSTILE)), (40, Throttled("", HOSTILE, 5, HOSTILE)),
        (30, Warned("", HOSTILE, HOSTILE, HOSTILE)), (20, DiskProgress("", HOSTILE, HOSTILE, 1, 9)))  # fmt: skip

    async def test():
        for size in SIZES:
            async with shop.console(*size) as driver:
                await driver.press("3")
                await driver.see("[/bold]\\x1b[31mred\\u202e")
                await driver.press("x")
                await driver.see("Stop this run?")
                await driver.press("escape", "l")
                await driver.see("Log  backup [/bold]\\x1b")
                await driver.press("escape", "enter")
                assert "\x1b" not in driver.screen

    drive(test())


# --- stopping ---


def test_stopping_says_what_is_lost_and_the_safe_answer_is_in_focus(shop, drive):
    run = a_busy_night(shop)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3")
            await driver.see("100 MiB/s")
            await driver.press("x")
            await driver.see("Stop this run?")
            assert "web-01: 2.9 GiB of 9 GiB was read so far; it has to be read again." in driver.screen
            assert "2 guests to come are not begun." in driver.screen
            assert "1 restore point of this run stays." in driver.screen
            await driver.press("enter")
            assert driver.asked == []
            await driver.press("x")
            await driver.press("y")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["stop", run.id]]
            await driver.see(f"Run {run.id} has stopped.")

    drive(test())


def test_what_stop_refuses_is_told_with_its_reason(shop, drive):
    run = a_busy_night(shop)
    refused = {
        "error": "VmconsoleError",
        "message": "It is not a process of this machine.",
        "hint": "Stop it there.",
    }
    shop.services.answers["stop"] = Captured(1, json.dumps(refused), "")

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3", "x", "y")
            await driver.see("It is not a process of this machine.")
            await driver.see("Stop it there.")
            assert driver.asked == [["stop", run.id]]

    drive(test())


def test_a_run_that_has_ended_cannot_be_stopped_and_says_so(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3", "x")
            await driver.see("is not running: done.")
            assert driver.asked == []

    drive(test())


def test_nothing_is_stopped_or_begun_in_a_read_only_console(shop, drive):
    a_busy_night(shop)

    async def test():
        async with shop.console(120, 36, read_only=True) as driver:
            await driver.press("b")
            await driver.see("This console is read-only.")
            await driver.press("3", "x")
            assert "Stop this run?" not in driver.screen
            assert driver.asked == []

    drive(test())
