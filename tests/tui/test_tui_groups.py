"""Groups: which guests, when, how long."""

from __future__ import annotations

import contextlib
import json

import pytest
from snapshots import same_as_kept
from world import CONFIG, World

from vmconsole.__main__ import main
from vmconsole.front.services import Captured
from vmconsole.tui.screens.group_form import GroupForm
from vmconsole.tui.widgets.opener import Opener

SIZES = [(80, 24), (120, 36), (200, 50)]


def carried_out(shop: World) -> str:
    """The last command that was asked for, done for real; returns the file afterwards."""
    assert main(["--config", str(shop.path), *shop.services.asked[-1]]) == 0
    return shop.path.read_text()


async def checked(driver):
    """Waits until what stands in the form has been looked at."""
    form = driver.app.screen
    assert isinstance(form, GroupForm)
    await driver.wait_for(lambda: form.preview is not None and not form._thinking, "the preview")
    return form.preview


async def fill(driver, **texts):
    for key, text in texts.items():
        driver.app.screen.query_one(f"#{key}").value = text
    await driver.settle()
    await driver.wait_for(lambda: driver.app.screen.preview is not None, "the preview")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_groups_as_they_look(shop, drive, width, height):
    async def test():
        async with shop.console(width, height) as driver:
            await driver.press("2")
            await driver.see("hourly")
            same_as_kept(f"groups-{width}x{height}", driver.screen)

    drive(test())


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_form_as_it_looks(shop, drive, width, height):
    async def test():
        async with shop.console(width, height) as driver:
            await driver.press("2", "e")
            await fill(driver, keep="3 daily", tags="prod, other")
            await checked(driver)
            driver.app.screen.set_focus(None)
            await driver.settle()
            same_as_kept(f"group-form-{width}x{height}", driver.screen)

    drive(test())


def test_a_group_is_as_well_as_its_worst_guest_and_says_who_that_is(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("2")
            await driver.see("3 of 5")
            assert "✗ failed" in driver.line("daily  ")
            assert "✓ ok" in driver.line("hourly  ")
            assert "files (failed), new-one (never)" in driver.screen
            await driver.press("enter")
            await driver.see("scan-station")
            assert "in no group at all" in driver.screen
            assert "sql-02 is also in hourly" in driver.screen

    drive(test())


def test_guests_in_no_group_have_a_row_that_no_action_takes_for_a_group(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "G")
            await driver.see("1 guest is in no group")
            for key in ("e", "p", "D", "b"):
                await driver.press(key)
                await driver.see("These guests are in no group: n makes one")
                driver.app.clear_notifications()
            assert driver.asked == []

    drive(test())


def test_a_group_is_changed_by_a_command_and_comments_stay(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            await driver.see("Nothing is changed yet.")
            await fill(driver, when="daily 03:30", keep="14 daily, 8 weekly")
            await driver.see("Sun 03:30")
            await driver.press("ctrl+s")
            await driver.see("Group daily was changed.")
            assert driver.asked == [
                ["group", "edit", "daily", "--when", "daily 03:30", "--keep", "daily=14,weekly=8"]
            ]
            text = carried_out(shop)
            assert "# The shop. This comment stays." in text
            assert 'when = "daily 03:30"' in text
            assert "daily = 14" in text
            driver.app.services.reread()
            driver.app.feed.look_now()
            await driver.see("daily 03:30")

    drive(test())


def test_the_form_tells_what_is_wrong_and_then_saves_nothing(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            await fill(driver, when="daily 25:00")
            await driver.see('✗ when: "daily 25:00"')
            await driver.press("ctrl+s")
            await driver.see("It cannot be saved yet")
            driver.app.clear_notifications()
            await fill(driver, when="daily 02:00", window="22:00-01:00")
            await driver.see("02:00 is never within")
            await fill(driver, window="", keep="14 dayly")
            await driver.see('"14 dayly" is not understood')
            assert driver.asked == []

    drive(test())


def test_guests_that_would_lose_their_only_group_are_told_and_asked_about(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            await fill(driver, exclude="web-*")
            await driver.see("- web-01  kvm1  not any more")
            assert "! web-01 would be in no group" not in driver.screen  # it is left out on purpose
            await fill(driver, exclude="", tags="", guests="dc-*")
            await driver.see("! web-01 would be in no group: nothing backs it up.")
            await driver.press("ctrl+s")
            await driver.see("Save all the same?")
            await driver.press("n")
            assert driver.asked == []
            await driver.press("ctrl+s", "y")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["group", "edit", "daily", "--guests", "dc-*", "--tags", ""]]
            assert "tags" not in carried_out(shop).partition("[groups.daily]")[2].partition("[")[0]

    drive(test())


def test_the_preview_says_how_many_points_would_go(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            before = (await checked(driver)).points
            assert before.going == before.going_now > 0
            await fill(driver, keep="1 daily")
            after = (await checked(driver)).points
            assert after.going > before.going
            assert after.going_now == before.going
            assert after.kept + after.going == before.kept + before.going
            await fill(driver, keep="")
            assert (await checked(driver)).points.going == 0

    drive(test())


def test_what_was_typed_is_not_lost_without_asking(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            await checked(driver)
            await driver.press("escape")
            await driver.wait_for(lambda: not isinstance(driver.app.screen, GroupForm), "the list")
            await driver.press("e")
            await fill(driver, tags="other")
            await driver.press("escape")
            await driver.see("What was typed is lost.")
            await driver.press("n")
            assert driver.app.screen.query_one("#tags").value == "other"
            await driver.press("escape", "y")
            await driver.wait_for(lambda: not isinstance(driver.app.screen, GroupForm), "the list")
            assert driver.asked == []

    drive(test())


def test_a_new_group_by_hand(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("2", "n")
            await driver.type("night")
            await driver.press("enter")
            await driver.type("scan*")
            await fill(driver, when="weekdays 12:30")
            await driver.see("scan-station")
            await driver.press("f2")
            await driver.see("Group night was made.")
            assert driver.asked == [
                ["group", "add", "night", "--guests", "scan*", "--when", "weekdays 12:30"]
            ]
            assert "[groups.night]" in carried_out(shop)

    drive(test())


def test_a_taken_name_is_told_at_once(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "n")
            await fill(driver, name="daily", guests="scan*")
            await driver.see("there is already a group 'daily'")

    drive(test())


def test_choices_go_round_with_space_and_the_arrows(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            driver.app.screen.query_one("#freeze").focus()
            await driver.press("space", "right")
            await driver.see("--freeze no")
            await driver.press("left", "left")
            await driver.see("Nothing is changed yet.")
            driver.app.screen.query_one("#together").focus()
            await driver.press("space")
            await driver.see("--together")
            await driver.press("ctrl+s")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert "together = true" in carried_out(shop)

    drive(test())


def test_a_command_that_fails_leaves_the_form_as_it_is(shop, drive):
    async def test():
        said = {"message": "The file was changed by somebody else.", "hint": "Do it again.", "exit_code": 4}
        shop.services.answers["group"] = Captured(4, json.dumps(said), "")
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            await fill(driver, jitter="20 min")
            await driver.press("ctrl+s")
            await driver.see("The file was changed by somebody else.")
            await driver.press("escape")
            assert driver.app.screen.query_one("#jitter").value == "20 min"

    drive(test())


def test_pause_for_a_while_and_go_on(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "p")
            await driver.see("1 week (w)")
            await driver.press("enter")  # the safe button
            assert driver.asked == []
            await driver.press("p", "w")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["group", "edit", "daily", "--pause", "2026-11-28 08:00"]]
            carried_out(shop)
            driver.app.services.reread()
            driver.app.feed.look_now()
            await driver.see("1 paused")
            await driver.press("p")
            await driver.see("Resume daily?")
            await driver.press("y")
            await driver.wait_for(lambda: len(driver.asked) == 2, "the command")
            assert driver.asked[-1] == ["group", "edit", "daily", "--resume"]
            assert "paused" not in carried_out(shop)

    drive(test())


def test_pause_until_somebody_resumes(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("2", "p", "u")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["group", "edit", "daily", "--pause"]]
            assert "paused = true" in carried_out(shop)

    drive(test())


def test_a_group_is_removed_only_when_its_name_is_typed(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "D")
            await driver.see("4 guests are then in no group")
            await driver.press("y")
            assert driver.asked == []
            await driver.press("backspace")
            await driver.type("daily")
            await driver.press("tab", "tab", "enter")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["group", "remove", "daily"]]
            assert "[groups.daily]" not in carried_out(shop)

    drive(test())


def test_read_only_looks_and_changes_nothing(shop, drive):
    async def test():
        async with shop.console(120, 36, read_only=True) as driver:
            await driver.press("2")
            await driver.see("hourly")
            for key in ("e", "n", "p", "D", "b", "E"):
                await driver.press(key)
                await driver.see("This console is read-only.")
                driver.app.clear_notifications()
            assert driver.asked == []
            assert len(driver.app.screen_stack) == 1

    drive(test())


def test_the_file_in_an_editor_and_what_is_wrong_with_it_afterwards(shop, drive, monkeypatch, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "\\n[groups.bad]\\nwhen = \\"daily 22:00\\"\\n" >> "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "E")
            await driver.see("cannot be handed to an editor")
            assert shop.path.read_text() == CONFIG
            monkeypatch.setattr(driver.app, "suspend", contextlib.nullcontext)
            await driver.press("E")
            await driver.see("The configuration cannot be used")
            await driver.see("groups.bad")
            editor.write_text('#!/bin/sh\ncat > "$1" <<EOF\n' + CONFIG + "# mended\nEOF\n")
            await driver.press("E")
            await driver.see("was read again and is right")
            await driver.press("E")
            await driver.see("The file is as it was.")

    drive(test())


def test_guests_are_put_into_a_group_with_one_question(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            driver.app.screen.listing.move_to(shop.guests["kvm1"][2].uuid)
            await driver.press("a")
            await driver.see("Put scan-station into a group")
            await driver.see("adds 1")
            assert "a new group" in driver.screen
            await driver.press("enter")
            await driver.see("vmconsole group edit daily --guests kvm1/scan-station")
            await driver.press("enter")  # the safe button
            assert driver.asked == []
            await driver.press("a", "down", "enter", "y")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["group", "edit", "hourly", "--guests", "sql-*,kvm1/scan-station"]]
            carried_out(shop)
            driver.app.services.reread()
            driver.app.feed.look_now()
            await driver.wait_for(
                lambda: driver.app.picture.guest(shop.guests["kvm1"][2].uuid).groups == ("hourly",),
                "the group",
            )

    drive(test())


def test_a_group_that_has_the_guest_already_is_no_choice(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            driver.app.screen.listing.move_to(shop.guests["kvm1"][0].uuid)
            await driver.press("a")
            await driver.see("covers it already")
            await driver.press("enter")
            await driver.see("That changes nothing")
            assert driver.asked == []

    drive(test())


def test_marked_guests_go_into_a_new_group(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("space", "space", "a", "G", "enter")
            await driver.see("Group new")
            assert driver.app.screen.query_one("#guests").value == "kvm1/files, kvm1/new-one"
            await fill(driver, name="pair")
            await driver.press("ctrl+s")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["group", "add", "pair", "--guests", "kvm1/files,kvm1/new-one"]]

    drive(test())


def test_hostile_names_are_shown_and_not_obeyed(shop, drive):
    async def test():
        shop.guest("vm[/prod]\x1b[31m", tags=("[red]",))
        shop.save()
        async with shop.console(120, 36) as driver:
            await driver.press("2", "n")
            await fill(driver, name="x", tags="[red]")
            await driver.see("vm[/prod]\\x1b[31m")
            await driver.press("escape", "y")
            await driver.press("G")
            await driver.see("vm[/prod]")

    drive(test())


def test_the_arrows_go_through_the_fields_and_round(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("2", "e")
            assert driver.app.focused.id == "guests"
            await driver.press("up")
            assert driver.app.focused.id == "ping"
            await driver.see("a watchdog")  # scrolled into sight, with what it means
            assert any(line.startswith(" ping") for line in driver.screen.split("\n"))
            await driver.press("down", "down")
            assert driver.app.focused.id == "tags"

    drive(test())


def test_the_command_can_be_copied_before_anything_is_done(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("2", "e")
            await checked(driver)
            await driver.press("ctrl+y")
            await driver.see("Nothing is changed yet.")
            await fill(driver, guests="-x*")
            await driver.press("ctrl+y")
            assert driver.app.clipboard == "vmconsole group edit daily '--guests=-x*'"
            assert driver.asked == []

    drive(test())


SEVERAL = """
[groups.both]
hosts = ["kvm1"]
exclude = ["web-*"]
together = true
overdue_after = "2 d"
ping = "https://hc.example/x"

[groups.both.schedules.night]
when = "daily 22:00"
window = "23:00-05:00"
keep = { daily = 7 }

[groups.both.schedules.noon]
when = "weekdays 12:00"
paused = "2026-12-24"
keep = { last = 2, minimum = 2 }
"""


def test_several_schedules_are_told_one_by_one(tmp_path, drive):
    text = CONFIG + SEVERAL.replace('window = "23:00-05:00"', 'window = "22:00-05:00"')

    async def test():
        shop = World(tmp_path, text)
        shop.guest("files")
        shop.guest("web-01")
        shop.save()
        async with shop.console(120, 40) as driver:
            await driver.press("2", "G")
            await driver.see("night: daily 22:00, only 22:00–05:00")
            await driver.see("noon: weekdays 12:00, paused until 2026-12-24 00:00")
            assert "7d / last 2" in driver.line("both  ")
            await driver.see("keeps the last 2; at least 2")
            await driver.see("none of them")
            await driver.press("enter")
            await driver.see("web-01  by web-*")
            await driver.press("escape", "e")
            await driver.see("> night: daily 22:00, only 22:00-05:00,")
            assert "> noon: weekdays 12:00, keeps last 2," in driver.screen
            assert not driver.app.screen.query("#when")
            await fill(driver, window="11:00-23:00")
            await driver.press("ctrl+s")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["group", "edit", "both", "--window", "11:00-23:00"]]

    drive(test())


def test_one_of_several_schedules_is_changed_in_a_form_of_its_own(tmp_path, drive):
    text = CONFIG + SEVERAL.replace(
        'window = "23:00-05:00"', 'window = "22:00-05:00"  # when the line is free'
    )

    async def test():
        shop = World(tmp_path, text)
        shop.guest("files")
        shop.save()
        async with shop.console(120, 40) as driver:
            await driver.press("2", "G", "e")
            await fill(driver, jitter="10 min")
            driver.app.screen.query(Opener).first().focus()
            await driver.see("enter changes this one")
            await driver.press("enter")
            await driver.see("Group both, schedule night")
            driver.app.screen.query_one("#keep").focus()
            await driver.see("empty: as in the group")
            await fill(driver, when="daily 21:00")
            await driver.see("21:00 is never within")
            await fill(driver, when="daily 22:30", keep="14 daily, 4 weekly", full_every="10")
            await driver.see("keeps 14 daily, 4 weekly")
            await driver.press("ctrl+s")
            await driver.see("Schedule night of group both was changed.")
            assert driver.asked == [
                [
                    *("group", "edit", "both", "--schedule", "night", "--when", "daily 22:30"),
                    *("--keep", "daily=14,weekly=4", "--full-every", "10"),
                ]
            ]
            assert driver.app.screen.query_one("#jitter").value == "10 min"
            changed = carried_out(shop)
            assert "# when the line is free" in changed
            assert 'when = "weekdays 12:00"' in changed
            assert (
                "full_every = 10" in changed.partition("[groups.both.schedules.night]")[2].partition("[")[0]
            )

    drive(test())


def test_disks_fulls_and_what_happens_when_not_together(shop, drive):
    async def test():
        async with shop.console(120, 40) as driver:
            await driver.press("2", "e")
            await fill(driver, exclude_disks="vda")
            await driver.see('✗ but no disks: "vda" does not say which disk of which guest.')
            await driver.see("→ Write it as GUEST=DISK")
            await fill(driver, exclude_disks="web-01=vda, #other=scsi1", full_every="often")
            await driver.see('✗ full every: "often" is not a number of runs.')
            await fill(driver, full_every="12")
            await driver.see("without vda: no disk is left")
            driver.app.screen.query_one("#when_not_together").focus()
            await driver.press("space")
            await driver.see("< each is backed up by itself >")
            await driver.see("--when-not-together")
            await driver.press("ctrl+s")
            await driver.wait_for(lambda: driver.asked, "the command")
            text = carried_out(shop)
            assert "# The shop. This comment stays." in text
            daily = text.partition("[groups.daily]")[2].partition("\n[")[0]
            assert 'exclude_disks = {web-01 = ["vda"], "#other" = ["scsi1"]}' in daily
            assert "full_every = 12" in daily
            assert 'when_not_together = "apart"' in daily

    drive(test())


def test_a_pause_in_a_schedules_own_table_is_not_ended_from_here(tmp_path, drive):
    text = CONFIG + SEVERAL.replace('when = "daily 22:00"', 'when = "daily 22:00"\npaused = true').replace(
        'window = "23:00-05:00"\n', ""
    )

    async def test():
        shop = World(tmp_path, text)
        shop.guest("files")
        shop.save()
        async with shop.console(120, 36) as driver:
            await driver.press("2", "G", "p")
            await driver.see("A schedule is paused by itself: e,")
            assert driver.asked == []

    drive(test())


def test_a_shop_without_groups_says_how_to_make_one(tmp_path, drive):
    async def test():
        shop = World(tmp_path, CONFIG.partition("[groups.daily]")[0])
        async with shop.console(80, 24) as driver:
            await driver.press("2")
            await driver.see("No group yet: nothing is backed up by itself. n makes one.")
            await driver.press("e")
            await driver.see("There is no group yet: n makes one.")
            driver.app.clear_notifications()
            await driver.press("n")
            await driver.see("Group new")
            await driver.see("covers no guest")

    drive(test())


def test_a_broken_configuration_is_told_and_can_only_be_opened(tmp_path, drive):
    async def test():
        shop = World(tmp_path, CONFIG)
        shop.path.write_text(CONFIG + "[groups.bad]\n")
        async with shop.console(80, 24) as driver:
            await driver.press("2")
            await driver.see("the configuration cannot be used: E opens it")
            for key in ("n", "e", "p"):
                await driver.press(key)
                await driver.see("The configuration cannot be used: E opens it.")
                driver.app.clear_notifications()

    drive(test())


def test_ascii_needs_no_other_glyphs_for_states(shop, drive):
    async def test():
        async with shop.console(80, 24, ascii=True) as driver:
            await driver.press("2")
            await driver.see("FAIL")
            assert not set("✓✗▶‖") & set(driver.screen)
            await driver.press("e")
            await fill(driver, when="nonsense")
            await driver.see("FAIL when:")

    drive(test())
