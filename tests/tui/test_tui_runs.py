"""Runs: what goes on, how it went, the log, stopping, and backing up now."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta

import pytest
from snapshots import same_as_kept
from world import GIB, NOW, World, a_shop

from vmconsole.events import (
    DiskProgress,
    Event,
    GuestFailed,
    GuestPlanned,
    PointMade,
    RunFinished,
    RunStarted,
    StepStarted,
    Throttled,
    Warned,
)
from vmconsole.front.services import Captured
from vmconsole.model.history import BackupState
from vmconsole.model.run import Run, RunState
from vmconsole.tui.states import Glyphs

CURSOR = Glyphs().cursor
SIZES = [(80, 24), (120, 36), (200, 50)]
HOSTILE = "[/bold]\x1b[31mred\u202e [@click=app.quit]x"


def say(world: World, run: Run, *events: tuple[float, Event]) -> None:
    """Each so many seconds before now."""
    for ago, event in events:
        world.clock.time = NOW - timedelta(seconds=ago)
        world.services.store.add_event(run.id, event.as_json() | {"run": run.id})
    world.clock.time = NOW


def reading(world: World, run: Run, guest: str, disk: str, total: int, rate: int, seconds: int = 30) -> None:
    """At that rate, for so long, until now."""
    for second in range(seconds, -1, -1):
        say(world, run, (second, DiskProgress("", guest, disk, rate * (seconds - second), total)))


def a_busy_night(world: World) -> Run:
    """A group's run that goes on: one guest done, two being read, one of them with two disks; two to come."""
    names = {guest.name: guest for host in world.guests.values() for guest in host}
    run = world.run(ago=timedelta(minutes=2), state=RunState.RUNNING)
    world.services.store._throttle.let_through = lambda run, topic: True
    say(
        world, run,
        (119, RunStarted("", "backup", "group daily")),
        (118, GuestPlanned("", "dc-01", "pve", "incremental", "", "pull", "", GIB)),
        (100, Warned("", "dc-01", "The guest agent took 9 s to answer.")),
        (90, PointMade("", "dc-01", "dc-01.x-1", "incremental", "application", 28.0, GIB, GIB // 4)),
        (80, GuestPlanned("", "web-01", "kvm1", "full", "the last restore point left no bitmap", "pull", "", 9 * GIB)),
        (80, GuestPlanned("", "files", "kvm1", "incremental", "", "pull", "", 20 * GIB)),
        (70, StepStarted("", "web-01", "read")),
        (70, StepStarted("", "files", "read")),
        (20, Throttled("", "kvm1", 200 << 20, "its disks are busy")),
    )  # fmt: skip
    reading(world, run, "web-01", "vda", 9 * GIB, 100 << 20)
    reading(world, run, "files", "vda", 12 * GIB, 50 << 20)
    reading(world, run, "files", "vdb", 8 * GIB, 25 << 20)
    world.backup(names["dc-01"], ago=timedelta(seconds=118), run=run.id)
    for name in ("web-01", "files"):
        world.backup(names[name], ago=timedelta(seconds=80), run=run.id, state=BackupState.RUNNING)
    return run


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


def test_held_still_nothing_moves(shop, drive):
    run = a_busy_night(shop)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("3")
            await driver.see("2.9/9.0 GiB")
            await driver.press("z")
            say(shop, run, (0, DiskProgress("", "web-01", "vda", 6 * GIB, 9 * GIB)))
            watched = driver.app.screen.watched
            await driver.wait_for(lambda: driver.app.screen.watched is not watched, "the next look")
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


# --- the log ---


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


# --- back up now ---


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
    import threading

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
    from vmconsole.tui.dialogs.backup import open_backup

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
