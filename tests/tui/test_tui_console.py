"""What holds on every screen: help, palette, read-only, keys, themes, leaving."""

from __future__ import annotations

import pytest
from world import NOW, a_shop

from vmconsole.errors import VmconsoleError
from vmconsole.model.run import RunState
from vmconsole.tui.keymap import Risk
from vmconsole.tui.themes import THEMES


def test_help_tells_the_keys_that_work_here_and_what_the_words_mean(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("question_mark")
            await driver.see("back up now")
            await driver.press("G")
            await driver.see("restore point")
            await driver.press("escape")
            await driver.see("1 Guests")

    drive(test())


def test_the_palette_finds_actions_and_guests(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("colon")
            await driver.type("sql-02")
            await driver.press("enter")
            await driver.wait_for(lambda: len(driver.app.screen_stack) == 1, "the palette to close")
            assert driver.app.screen.listing.current.guest.name == "sql-02"
            await driver.press("colon")
            await driver.type("problems")
            await driver.press("enter")
            await driver.wait_for(lambda: driver.app.screen.listing.problems, "the problems alone")

    drive(test())


def test_read_only_has_no_key_that_changes_anything(shop, drive):
    async def test():
        async with shop.console(120, 36, read_only=True) as driver:
            assert "read-only" in driver.screen
            assert "back up" not in driver.screen
            assert all(key.risk is Risk.NONE for key in driver.app.keys_here())
            await driver.press("b")
            await driver.see("This console is read-only.")
            assert driver.asked == []

    drive(test())


def test_a_key_can_be_another(shop, drive):
    async def test():
        async with shop.console(120, 36, keys={"problems": "P"}) as driver:
            await driver.press("exclamation_mark")
            assert not driver.app.screen.listing.problems
            await driver.press("P")
            assert driver.app.screen.listing.problems
            assert "P problems" in driver.screen

    drive(test())


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_every_theme_tells_states_apart_and_draws_all_the_text(shop, drive, theme):
    async def test():
        async with shop.console(120, 36, theme=theme.name) as driver:
            assert driver.app.colours is theme
            strips = driver.app.screen._compositor.render_strips()
            styles = {}
            for line in strips:
                for segment in line:
                    for word in ("✓ ok", "✗ failed", "– never"):
                        if segment.text.strip() == word:
                            styles.setdefault(word, set()).add(segment.style.color)
            assert len(styles["✓ ok"] & styles["– never"]) == 0
            for line in strips:
                for segment in line:
                    style = segment.style
                    if segment.text.strip() and style and style.color and not style.color.is_default:
                        assert style.color != style.bgcolor, segment

    drive(test())


def test_the_themes_follow_each_other_and_back(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            for theme in (*THEMES[1:], THEMES[0]):
                await driver.press("T")
                assert driver.app.colours is theme
                assert driver.app.theme == f"vm-{theme.name}"

    drive(test())


def test_ascii_has_nothing_beyond_it_in_states_and_bars(shop, drive):
    async def test():
        async with shop.console(80, 24, ascii=True) as driver:
            assert "FAIL" in driver.screen
            assert not set("✓✗▶–‖…▁█") & set(driver.line("sql-02"))

    drive(test())


def test_leaving_says_that_runs_go_on(shop, drive):
    async def test():
        shop.run(ago=NOW - NOW, state=RunState.RUNNING)
        async with shop.console(120, 36) as driver:
            await driver.wait_for(lambda: driver.app.picture.running, "the run")
            await driver.press("q")
            assert not driver.app.is_running or driver.app._exit
            assert "1 run goes on in the background" in str(driver.app._exit_renderables)

    drive(test())


def test_a_host_that_does_not_answer_holds_up_nobody(shop, drive):
    async def test():
        shop.lost = {"kvm1"}
        async with shop.console(120, 36) as driver:
            await driver.wait_for(lambda: "kvm1" in driver.app.feed.unreachable, "kvm1 to be given up")
            assert "web-01" in driver.screen

    drive(test())


def test_what_was_run_from_here_can_be_seen(shop, drive):
    async def test():
        from vmconsole.tui.commands import Command

        async with shop.console(120, 36) as driver:
            driver.app.carry_out(Command(("pin", "web-01@latest"), "Pinned."))
            await driver.see("Pinned.")
            await driver.press("at")
            await driver.see("vmconsole pin web-01@latest")
            assert driver.asked == [["pin", "web-01@latest"]]

    drive(test())


def test_a_command_that_fails_says_why_and_what_to_do(shop, drive):
    async def test():
        import json

        from vmconsole.front.services import Captured
        from vmconsole.tui.commands import Command

        said = {
            "error": "PointNotFound",
            "message": "No point [bold]x[/].",
            "hint": "vmconsole points",
            "exit_code": 1,
        }
        shop.services.answers["pin"] = Captured(1, json.dumps(said), "")
        async with shop.console(80, 24) as driver:
            driver.app.carry_out(Command(("pin", "x"), "Pinned."))
            await driver.see("No point [bold]x[/].")
            await driver.see("vmconsole points")
            await driver.press("escape")
            await driver.see("1 Guests")

    drive(test())


def test_keys_of_a_dialog_do_not_reach_the_screen_below(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("question_mark", "2")
            assert driver.app.current_mode == "guests"

    drive(test())


def test_an_error_in_an_action_is_told_and_the_console_goes_on(shop, drive, monkeypatch):
    async def test():
        async with shop.console(120, 36) as driver:

            def fail():
                raise VmconsoleError("The disk is full.", hint="Make room.")

            monkeypatch.setattr(driver.app.screen, "action_wide", fail)
            await driver.press("w")
            await driver.see("The disk is full.")
            await driver.see("Make room.")
            await driver.press("2", "1")
            await driver.see("Guests")

    drive(test())


def test_a_bug_ends_in_one_sentence_and_a_file(tmp_path, monkeypatch, capsys):
    from vmconsole import __main__ as entry

    monkeypatch.setattr("vmconsole.cli.main._has_terminal", lambda args: True)

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("vmconsole.tui.start.run", broken)
    assert entry.main(["--config", str(a_shop(tmp_path).path)]) == 70
    said = capsys.readouterr().err
    assert "This is a bug in vmconsole" in said
    assert "Traceback" not in said
