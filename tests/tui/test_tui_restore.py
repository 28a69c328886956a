"""Restore: what, where, review; and what is asked when it is begun."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from snapshots import same_as_kept
from world import GIB, NIGHT, NOW, a_shop

from vmconsole.errors import VmconsoleError
from vmconsole.front.services import Captured
from vmconsole.model.guest import Disk, Storage
from vmconsole.model.history import BackupState
from vmconsole.model.ledger import Mark
from vmconsole.model.point import archive_name
from vmconsole.tui.states import Glyphs

CURSOR = Glyphs().cursor

SIZES = [(80, 24), (120, 36), (200, 50)]
HOME = Path("/tmp/vmconsole-nobody")
STORAGES = (
    Storage("local", "dir", True, "pve1", ("backup", "iso"), 900 * GIB, GIB),
    Storage("fast", "lvmthin", True, "pve1", ("images", "rootdir"), 900 * GIB, 500 * GIB),
    Storage("nas", "nfs", True, "", ("images",), 4000 * GIB, 1000 * GIB),
    Storage("old", "nfs", False, "", ("images",), 4000 * GIB, 0),
)


@pytest.fixture(autouse=True)
def this_machine(monkeypatch):
    """Where files would go by default, and how much is free there."""
    monkeypatch.setattr("vmconsole.tui.restoring.where_files.Path.home", lambda: HOME)
    usage = SimpleNamespace(free=300 * GIB)
    monkeypatch.setattr("vmconsole.tui.restoring.place.shutil.disk_usage", lambda _: usage)


@pytest.fixture
def shop(tmp_path):
    """With a guest of two disks, and a Proxmox host that tells of its storages."""
    world = a_shop(tmp_path / "shop")
    disks = (Disk("vda", 40 * GIB, "qcow2", "/images/a"), Disk("vdb", 200 * GIB, "raw", "/images/b"))
    pair = world.guest("pair", disks=disks)
    for night in (40, 35, 3, 1, 0):
        world.backup(pair, ago=timedelta(hours=6) + night * NIGHT)
    world.backup(pair, ago=timedelta(hours=6) + 2 * NIGHT, state=BackupState.FAILED, error="It was not well.")
    inventory = world.inventory
    world.inventory = lambda host: _with_storages(inventory(host))
    world.save()
    return world


def _with_storages(found):
    return replace(found, storages=STORAGES if found.name == "pve" else ())


def pair_of(world):
    return world.guests["kvm1"][-1]


def archive_of(guest, night=0):
    return archive_name(guest.name, guest.uuid, NOW - timedelta(hours=6) - night * NIGHT)


async def open_pair(driver):
    driver.app.screen.listing.move_to(pair_of(driver.world).uuid)
    await driver.press("r")
    await driver.see("2026-11-21 02:00")


def dry_run(world, **document):
    world.services.answers["restore"] = Captured(0, json.dumps(document), "")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_three_steps_as_they_look(shop, drive, width, height):
    async def test():
        dry_run(shop, notes=["The network card net0 goes to bridge vmbr0: there is no network 'lan' on pve."])
        async with shop.console(width, height) as driver:
            await open_pair(driver)
            same_as_kept(f"restore-what-{width}x{height}", driver.screen.replace(CURSOR, "▸"))
            await driver.press("enter", "enter")
            await driver.see("On which host")
            await driver.press("down")
            same_as_kept(f"restore-where-host-{width}x{height}", driver.screen.replace(CURSOR, "▸"))
            await driver.press("enter")
            await driver.see("net0 goes to bridge")
            same_as_kept(f"restore-review-{width}x{height}", driver.screen.replace(CURSOR, "▸"))
            await driver.press("escape", "escape", "down", "enter")
            await driver.see("A new folder is made.")
            same_as_kept(f"restore-where-files-{width}x{height}", driver.screen.replace(CURSOR, "▸"))

    drive(test())


def test_one_disk_goes_to_the_file_that_was_typed(shop, drive, tmp_path):
    async def test():
        guest = pair_of(shop)
        path = str(tmp_path / "boot.raw")
        dry_run(shop, files=[{"disk": "vdb", "path": path, "size": 200 * GIB}])
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            await driver.press("down", "enter", "down", "down", "enter")
            await driver.see("Which disk")
            await driver.press("up", "down", "tab", "ctrl+u")
            await driver.type(path)
            await driver.see("300 GiB free there, 200 GiB needed")
            assert path in "".join(line.strip() for line in driver.screen.split("\n"))
            await driver.press("enter")
            await driver.see("the repository has it, and the place is free")
            words = ["restore", archive_of(guest, 1), "--repository", "main", "--to", path, "--disk", "vdb"]
            assert driver.asked == [[*words, "--dry-run"]]
            await driver.press("Y")
            await driver.see("Copied: vmconsole restore")
            await driver.press("s")
            await driver.see("Restore has begun")
            assert driver.asked[-1] == [*words, "--yes"]
            assert shop.services.store.runs(1)[0].kind == "restore"
            assert "Guests" in driver.screen, "it leads back to where it was opened"

    drive(test())


def test_a_guest_goes_to_the_other_kind_of_host(shop, drive):
    async def test():
        guest = pair_of(shop)
        dry_run(shop, notes=["net0 goes to vmbr0."])
        async with shop.console(120, 36) as driver:
            await open_pair(driver)
            await driver.press("enter", "enter", "down")
            await driver.see("translated from libvirt")
            assert "pair-restored" in driver.screen, "the old one still exists"
            assert "local" not in driver.screen, "it takes no disks"
            assert "old " not in driver.screen, "it is not there"
            await driver.press("tab", "tab", "down", "down")
            assert driver.line("pve1/fast").strip().startswith(f"{CURSOR} ◉")
            await driver.press("tab", "space")
            await driver.see("runs on kvm1 now")
            await driver.press("enter")
            await driver.see("! net0 goes to vmbr0.")
            words = ["restore", archive_of(guest), "--repository", "main", "--host", "pve"]
            words += ["--as", "pair-restored", "--storage", "pve1/fast", "--start"]
            assert driver.asked == [[*words, "--dry-run"]]
            await driver.press("right", "enter")
            await driver.see("Restore has begun")
            assert driver.asked[-1] == [*words, "--yes"]

    drive(test())


def test_going_back_loses_nothing(shop, drive):
    async def test():
        dry_run(shop, notes=[])
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            await driver.press("down", "enter", "enter", "down", "tab", "ctrl+u")
            await driver.type("twin")
            await driver.press("enter")
            await driver.see("a new guest twin on pve")
            await driver.press("escape")
            assert "twin" in driver.screen
            assert "◉ pve" in driver.screen
            await driver.press("escape")
            assert f"{CURSOR} 2026-11-20 02:00" in driver.screen
            await driver.press("enter", "enter")
            await driver.see("a new guest twin on pve")
            assert len(driver.asked) == 1, "nothing changed, so nothing is asked again"
            await driver.press("escape", "escape", "escape")
            await driver.see("last good")
            assert len(driver.asked) == 1

    drive(test())


def test_a_refusal_is_told_with_its_remedy_and_nothing_can_be_started(shop, drive):
    async def test():
        refusal = {
            "error": "RepositoryLocked",
            "message": "main is locked by a backup.",
            "hint": "Wait for it.",
        }
        shop.services.answers["restore"] = Captured(11, json.dumps(refusal), "")
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            await driver.press("enter", "enter", "enter")
            await driver.see("✗ main is locked by a backup.")
            assert "→ Wait for it." in driver.screen
            await driver.press("s")
            await driver.see("It would fail")
            assert len(driver.asked) == 1
            dry_run(shop, notes=[])
            await driver.press("c")
            await driver.see("kvm1 would take it")
            assert [words[-1] for words in driver.asked] == ["--dry-run", "--dry-run"]

    drive(test())


def test_a_name_that_is_taken_and_a_file_that_exists_stop_step_two(shop, drive, tmp_path):
    async def test():
        (tmp_path / "vda.raw").touch()
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            await driver.press("enter", "enter", "tab", "ctrl+u")
            await driver.type("web-01")
            await driver.press("enter")
            await driver.see("There is a guest web-01 on kvm1 already")
            await driver.press("escape", "down", "enter", "ctrl+u")
            await driver.type(str(tmp_path))
            await driver.see("exists; a restore never overwrites")
            await driver.press("enter")
            assert "2 where" in driver.screen
            assert "dry run" not in driver.screen
            assert driver.asked == []

    drive(test())


def test_tab_completes_folders_as_a_shell_does(shop, drive, tmp_path):
    async def test():
        for name in ("images-a", "images-b", "other"):
            (tmp_path / name).mkdir()
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            await driver.press("enter", "down", "enter", "ctrl+u")
            await driver.type(f"{tmp_path}/i")
            await driver.see("images-a/  images-b/")
            await driver.press("tab")
            line = driver.app.screen.query_one("#to")
            assert line.value == f"{tmp_path}/images-"
            await driver.type("b")
            await driver.see("tab  images-b/")
            await driver.press("tab")
            assert line.value == f"{tmp_path}/images-b/"
            assert driver.app.focused is line
            await driver.wait_for(lambda: driver.app.screen.query_one("#where-files").looked, "the look")
            await driver.press("tab")
            assert driver.app.focused is not line, "there is nothing to complete"

    drive(test())


def test_what_is_typed_stays_when_hosts_answer(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            await driver.press("enter", "enter", "tab", "ctrl+u")
            shop.guest("newcomer")
            shop.save()
            driver.app.feed.look_now()
            await driver.wait_for(lambda: "7 guests" in driver.screen, "the new guest")
            assert driver.app.screen.query_one("#name").value == ""
            assert "The new guest needs a name." in driver.screen

    drive(test())


def test_points_in_two_repositories_and_pruned_ones_are_told_apart(shop, drive):
    async def test():
        guest = pair_of(shop)
        other = [
            replace(point, archive=f"{point.archive}-2") for point in shop.points if point.uuid == guest.uuid
        ]
        config = re.sub(r"(?m)^(\[groups.*)", r'\1\nrepository = "main"', shop.path.read_text())
        shop.path.write_text(f'{config}\n[repositories.second]\nlocation = "second"\nencryption = "none"\n')
        shop.services.reread()
        shop.services.store.save_points("second", other[-1:])
        old = next(point for point in shop.points if point.archive == archive_of(guest, 40))
        shop.services.ledger.mark([Mark("main", old.archive, old.archive_id, NOW)])
        async with shop.console(200, 50) as driver:
            await open_pair(driver)
            assert len(driver.app.screen.query_one("#points").shown) == 6
            assert "second" in driver.screen
            await driver.press("end")
            assert driver.line("2026-10-12").rstrip().endswith("pruned")
            assert "pruned: still there, until it is compacted" in driver.screen

    drive(test())


def test_what_comes_later_says_so_and_what_does_the_job_today(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await open_pair(driver)
            await driver.press("enter", *["down"] * 3)
            for option in ("Rolling a guest back", "Booting a guest"):
                await driver.press("down")
                await driver.see(f"  {option}")
                assert "is not in this version." in driver.screen
                assert f"restore {archive_of(pair_of(shop))[:20]}" in driver.screen
                await driver.press("enter")
                assert "On which host" not in driver.screen

    drive(test())


def test_the_calendar_leads_to_other_months(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            assert "November 2026" in driver.screen
            assert "19✗" in driver.screen
            assert "20✓" in driver.screen
            await driver.press("left_square_bracket")
            await driver.see("October 2026")
            assert f"{CURSOR} 2026-10-17 02:00" in driver.screen
            await driver.press("left_square_bracket")
            await driver.see("no older month")
            await driver.press("right_square_bracket")
            await driver.see(f"{CURSOR} 2026-11-21 02:00")

    drive(test())


def test_a_guest_without_points_says_what_to_do(shop, drive):
    async def test():
        async with shop.console(80, 24) as driver:
            never = next(guest for guest in shop.guests["kvm1"] if guest.name == "new-one")
            driver.app.screen.listing.move_to(never.uuid)
            for key in ("r", "f"):
                await driver.press(key)
                await driver.see("No restore point yet: back up this guest first (b).")
                assert len(driver.app.screen_stack) == 1

    drive(test())


def test_read_only_shows_everything_and_starts_nothing(shop, drive):
    async def test():
        dry_run(shop, notes=[])
        async with shop.console(80, 24, read_only=True) as driver:
            await open_pair(driver)
            await driver.press("enter", "enter", "enter")
            await driver.see("kvm1 would take it")
            await driver.press("s", "right", "enter")
            assert [words[-1] for words in driver.asked] == ["--dry-run"]
            assert "s restore" not in driver.screen

    drive(test())


def test_a_start_that_fails_keeps_what_was_chosen(shop, drive):
    async def test():
        dry_run(shop, notes=[])

        def refuse(argv):
            raise VmconsoleError("There is no room for another process.", hint="Stop one.")

        shop.services.detach = refuse
        async with shop.console(80, 24) as driver:
            await open_pair(driver)
            await driver.press("enter", "enter", "enter")
            await driver.see("kvm1 would take it")
            await driver.press("s")
            await driver.see("There is no room for another process.")
            await driver.press("escape")
            await driver.see("a new guest pair-restored on kvm1")
            assert not driver.app.screen.why_not("restore.start"), "it can be tried again"

    drive(test())


STRANGE = {
    "vm[/prod]": "vm[/prod]-restored",
    'a "b" [bold]': 'a "b" [bold]-restored',
    "x\x1b[2Jy": "x-2jy",
    "-rf": "-rf-restored",
    "": "guest",
    "line\nfeed\ttab": "line-feed-tab",
    "over\u202eride": "override",
    "備份主機-01": "備份主機-01-restored",
}


def harmless(screen):
    for line in screen.split("\n"):
        assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in line), repr(line)
        assert "\u202e" not in line


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_foreign_names_are_shown_and_never_obeyed(shop, drive, name):
    async def test():
        strange = shop.guest(name)
        shop.backup(strange, ago=timedelta(hours=3))
        shop.save()
        dry_run(shop, notes=[f"{name} has a [/strange] card."])
        async with shop.console(80, 24) as driver:
            driver.app.feed.look_now()
            await driver.wait_for(lambda: driver.app.picture.guest(strange.uuid), "the guest")
            driver.app.screen.listing.move_to(strange.uuid)
            await driver.press("r")
            await driver.see("2026-11-21 05:00")
            harmless(driver.screen)
            await driver.press("enter", "enter")
            await driver.see("On which host")
            harmless(driver.screen)
            await driver.press("enter")
            await driver.see("[/strange] card")
            harmless(driver.screen)
            (words,) = driver.asked
            assert any(word.removeprefix("--as=") == STRANGE[name] for word in words)
            assert "--dry-run" in words
            await driver.press("f")
            await driver.see("Inside ")
            harmless(driver.screen)

    drive(test())
