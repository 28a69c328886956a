"""Welcome: from nothing to a first backup, and a configuration that cannot be read."""

from __future__ import annotations

import json

import pytest
from snapshots import same_as_kept
from world import World

from vmconsole.front.services import Captured
from vmconsole.interfaces import HostKey
from vmconsole.tui.screens.welcome import Welcome

SIZES = [(80, 24), (120, 36), (200, 50)]
OURS = "SHA256:" + "a" * 43
START = 'state_dir = "state"\ntimezone = "UTC"\n'
HOST = '\n[hosts.kvm1]\nkind = "libvirt"\naddress = "root@kvm1.example"\n'
REPOSITORY = '\n[repositories.main]\nlocation = "/srv/backup/vms"\npassphrase = { file = "passphrase" }\n'
GROUP = '\n[groups.all]\nhosts = ["*"]\nwhen = "daily 22:00"\n'


@pytest.fixture
def nothing(tmp_path):
    """A world whose configuration names nothing yet, and whose commands write into it what they would."""
    world = World(tmp_path, START)
    world.guests = {"kvm1": []}
    world.guest("web-01")
    (tmp_path / "passphrase").write_text("secret\n")
    services, captured = world.services, world.services.capture
    writes = {("host", "add"): HOST, ("init",): REPOSITORY, ("group", "add"): GROUP}

    def capture(argv):
        words = [word for word in argv if not word.startswith("--")]
        for head, text in writes.items():
            if tuple(words[: len(head)]) == head:
                world.path.write_text(world.path.read_text() + text)
        answer = captured(argv)
        if words[:2] == ["host", "check"]:
            checks = [{"host": "kvm1", "name": "virsh", "ok": True, "warning": False, "detail": ""}]
            return Captured(0, json.dumps({"checks": checks}), "")
        return answer

    services.capture = capture
    services.scan_host_key = lambda host: HostKey(host, "root@kvm1.example", "ssh-ed25519", OURS, "line")
    return world


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_welcome_as_it_looks(nothing, drive, width, height):
    async def test():
        async with nothing.console(width, height) as driver:
            await driver.see("Welcome")
            same_as_kept(f"welcome-{width}x{height}", driver.screen)

    drive(test())


async def done(driver, count):
    """So many steps, and no form any more: what a command changes is seen before it has ended."""
    await driver.wait_for(
        lambda: isinstance(driver.app.screen, Welcome) and f"Welcome {count} of 7 steps" in driver.screen,
        f"{count} steps done",
    )


def test_from_the_first_start_to_the_first_backup(nothing, drive):
    async def test():
        async with nothing.console(80, 24) as driver:
            await done(driver, 0)
            await driver.press("enter")
            await driver.type("kvm1")
            await driver.press("down")
            await driver.type("root@kvm1.example")
            await driver.press("enter")
            await driver.see(OURS)
            await driver.press("y")
            await driver.see("All 1 checks are well.")
            await done(driver, 3)
            await driver.press("enter")
            await driver.see("New repository")
            await driver.type("/srv/backup/vms")
            await driver.press("enter")
            await done(driver, 4)
            await driver.see("borg key export")
            await driver.press("enter")
            await driver.see("Recovery kit")
            await driver.press("y")
            await done(driver, 5)
            await driver.press("enter")
            await driver.see("New group")
            await driver.press("enter")
            await done(driver, 6)
            await driver.press("enter")
            await driver.see("Back up")
            await driver.press("y")
            await driver.wait_for(lambda: driver.asked[-1][0] == "backup", "the backup")
            assert driver.asked == [
                ["host", "add", "kvm1", "root@kvm1.example", "--kind", "libvirt"],
                ["host", "trust", "kvm1", "--fingerprint", OURS],
                ["host", "check", "kvm1"],
                ["init", "--repository=/srv/backup/vms"],
                [
                    "group",
                    "add",
                    "all",
                    "--hosts=*",
                    "--when=daily 22:00",
                    "--keep=daily=14,weekly=8,monthly=6",
                ],
                ["backup", "--dry-run", "--group=all"],
                ["backup", "--group=all"],
            ]

    drive(test())


def test_that_the_kit_was_copied_is_remembered(nothing, drive):
    nothing.path.write_text(START + HOST + REPOSITORY)

    async def test():
        async with nothing.console(120, 36) as driver:
            await driver.see("Welcome")
            driver.app.screen.query_one("Listing").move_to("kit")
            await driver.press("enter")
            await driver.see("I have copied it")
            await driver.press("y")
            await driver.see("You said that you have copied it.")
            await driver.press("escape")
            await driver.wait_for(lambda: "Welcome" not in driver.screen, "Guests")
            await driver.press("W")
            await driver.see("You said that you have copied it.")
            driver.app.screen.query_one("Listing").move_to("kit")
            await driver.press("D")
            await driver.wait_for(lambda: "You said" not in driver.screen, "the step taken back")

    drive(test())


def test_a_step_that_cannot_be_taken_yet_says_why(nothing, drive):
    async def test():
        async with nothing.console(120, 36) as driver:
            await driver.see("Welcome")
            driver.app.screen.query_one("Listing").move_to("backup")
            await driver.press("enter")
            await driver.see("There is no repository yet")
            await driver.press("s")
            await driver.see("Without this step there is no backup.")
            assert driver.asked == []

    drive(test())


def test_a_shop_that_is_complete_is_not_welcomed(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            assert "Welcome" not in driver.screen

    drive(test())


def test_a_wrong_configuration_is_told_with_its_line_until_it_is_mended(shop, drive, monkeypatch):
    good = shop.path.read_text()
    shop.path.write_text(good + '\n[hosts.kvm3]\nkind = "vmware"\n')
    opened = []
    monkeypatch.setenv("EDITOR", "ed -s")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setattr(shop.services, "edit_config", lambda: opened.append(1))

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.see("The configuration cannot be used")
            await driver.see("kind")
            await driver.press("E")
            await driver.see("cannot be handed to an editor")
            shop.path.write_text(good)
            driver.app.feed.look_now()
            await driver.see("web-01")
            assert "cannot be used" not in driver.screen
            assert opened == []

    drive(test())


def test_a_mended_configuration_that_names_nothing_leads_to_the_first_steps(nothing, drive):
    nothing.path.write_text(START + "[hosts.kvm1]\n")

    async def test():
        async with nothing.console(120, 36) as driver:
            await driver.see("The configuration cannot be used")
            nothing.path.write_text(START)
            driver.app.feed.look_now()
            await driver.see("Welcome 0 of 7 steps")

    drive(test())
