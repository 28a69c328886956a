"""Repositories: where everything lies, and what is done about it."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from snapshots import same_as_kept
from world import GIB, NIGHT, NOW

from vmconsole.errors import RepositoryLocked, RepositoryMissing
from vmconsole.front.services import Captured
from vmconsole.model.ledger import Mark
from vmconsole.model.repository import RepositoryInfo, RepositorySpace
from vmconsole.model.run import RunState

SIZES = [(80, 24), (120, 36), (200, 50)]
VERDICTS = {
    "dry_run": True,
    "kept": 1,
    "pruned": 1,
    "guests": [
        {
            "guest": "web-01", "uuid": "u", "host": "kvm1", "repository": "main",
            "points": [
                {"archive": "web-new", "time": NOW.isoformat(), "group": "daily", "schedule": None,
                 "pinned": False, "keep": True, "again": False, "why": "daily 1 of 7, weekly 1 of 4",
                 "rules_of": "daily"},
                {"archive": "web-old", "time": (NOW - 40 * NIGHT).isoformat(), "group": "daily", "schedule": None,
                 "pinned": False, "keep": False, "again": False, "why": "not kept by any rule",
                 "rules_of": "daily"},
            ],
        }
    ],
}  # fmt: skip


class Repository:
    """Answers with what the test says; error: raised instead. hold: it answers when that is set."""

    def __init__(self, shop):
        self.shop, self.error, self.hold, self.asked = shop, None, None, 0

    @contextmanager
    def reader(self, *, wait=None):
        self.asked += 1
        if self.hold:
            self.hold.wait(60)
        if self.error:
            raise self.error
        yield self

    def points(self):
        return self.shop.points

    def info(self):
        return RepositoryInfo(
            "main", "/srv/main", "ab" * 32, "none", len(self.shop.points), 4096 * GIB, 512 * GIB, NOW
        )


@pytest.fixture
def repository(shop):
    shop.path.write_text(shop.path.read_text().replace('location = "repository"', 'location = "/srv/main"'))
    shop.services.reread()
    made = Repository(shop)
    shop.services.repository = lambda name: made
    shop.services.space = lambda name: RepositorySpace(name, 4096 * GIB, 1024 * GIB)
    return made


async def opened(driver):
    await driver.press("5")
    await answered(driver)


async def answered(driver):
    screen, memory = driver.app.screen, driver.app.remembered
    await driver.wait_for(
        lambda: not memory.asked and not screen._reading and screen.listing.rows and memory.answers,
        "the answer",
    )


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_repositories_as_they_look(shop, repository, drive, width, height):
    async def test():
        async with shop.console(width, height) as driver:
            await opened(driver)
            await driver.see("512 GiB")
            same_as_kept(f"repositories-{width}x{height}", driver.screen)

    drive(test())


def test_the_detail_in_ascii(shop, repository, drive):
    async def test():
        async with shop.console(80, 24, ascii=True) as driver:
            await opened(driver)
            await driver.press("enter")
            await driver.see("Added in the last 14 days")
            same_as_kept("repositories-detail-ascii-80x24", driver.screen)

    drive(test())


def test_a_slow_repository_holds_up_nobody(shop, repository, drive):
    async def test():
        repository.hold = threading.Event()
        async with shop.console(120, 36) as driver:
            await driver.press("5")
            await driver.see("it has not answered yet")
            await driver.see("41 of 4 guests")
            await driver.press("R")
            assert repository.asked == 1, "who is being asked is not asked again"
            repository.hold.set()
            await answered(driver)
            await driver.see("512 GiB for 4 TiB of guests, 8 : 1")
            await driver.press("R")
            await driver.wait_for(lambda: repository.asked == 2, "the second question")
            await answered(driver)

    drive(test())


@pytest.mark.parametrize(
    ("error", "word", "told"),
    [
        (RepositoryMissing("Nothing is at /srv/main.", hint="Is it mounted?"), "✗ missing", "Is it mounted?"),
        (RepositoryLocked("Repository main is locked by host nas, process 7."), "▶ in use", "locked by host nas"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_remedy(shop, repository, drive, error, word, told):
    async def test():
        repository.error = error
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.see(word)
            await driver.see(told)

    drive(test())


def test_nearly_full(shop, repository, drive):
    async def test():
        shop.services.space = lambda name: RepositorySpace(name, 100 * GIB, 5 * GIB)
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.see("! nearly full")
            await driver.see("95 % full: 5 GiB of 100 GiB are free")

    drive(test())


def test_a_check_goes_on_in_the_background(shop, repository, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.press("v")
            await driver.see("Verifying reads every chunk")
            await driver.press("enter")
            assert driver.asked == [], "the safe answer has the focus"
            await driver.press("v", "right", "right", "enter")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["repo", "check", "main", "--verify-data"]]
            await driver.see("goes on in the background")

    drive(test())


def test_a_check_that_found_problems_stays_seen(shop, repository, drive):
    async def test():
        shop.run(
            "check",
            "main",
            ago=timedelta(hours=3),
            state=RunState.FAILED,
            error="borg check found 2 problems",
        )
        async with shop.console(80, 24) as driver:
            await opened(driver)
            await driver.see("✗ damaged")
            await driver.see("borg check found 2 problems")
            await driver.press("l")
            await driver.see("Log  check main")

    drive(test())


def test_a_check_that_ends_is_seen_at_once(shop, repository, drive):
    async def test():
        run = shop.services.store.start_run("check", "main")
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.see("running since")
            shop.services.store.finish_run(run.id, RunState.DONE, "", 0)
            driver.app.feed.look_now()
            await driver.see("just now: no problems")

    drive(test())


def test_a_prune_is_seen_before_it_is_done(shop, repository, drive):
    async def test():
        shop.services.answers["prune"] = Captured(0, json.dumps(VERDICTS), "")
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.press("p")
            await driver.see("1 kept, 1 to go")
            assert driver.asked == [["prune", "--dry-run", "--repository", "main"]]
            await driver.wait_for(lambda: not driver.app.screen.query("Toast"), "a clear view")
            same_as_kept("prune-120x36", driver.screen)
            await driver.press("exclamation_mark")
            assert "web-new" not in driver.screen
            await driver.press("p")
            await driver.see("1 point is hidden in main; 1 are kept")
            await driver.press("n")
            assert len(driver.asked) == 1
            await driver.press("p", "y")
            await driver.wait_for(lambda: len(driver.asked) == 2, "the command")
            assert driver.asked[1] == ["prune", "--repository", "main"]
            await driver.wait_for(lambda: hasattr(driver.app.screen, "PLACE"), "the place again")

    drive(test())


def test_what_was_pruned_comes_back(shop, repository, drive):
    async def test():
        point = shop.points[0]
        shop.services.ledger.mark([Mark("main", point.archive, point.archive_id, NOW, "")])
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.see("1 pruned")
            await driver.press("u")
            await driver.see("1 point is pruned in main")
            await driver.press("y")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["undo-prune", "--all", "--repository", "main"]]

    drive(test())


def test_compacting_shows_what_goes_and_wants_the_name(shop, repository, drive):
    async def test():
        found = {
            "name": "main",
            "delete": ["web-old"],
            "later": ["web-young"],
            "spared": ["dc-last"],
            "bytes_freed": None,
        }
        answer = json.dumps({"dry_run": True, "repositories": [found]})
        shop.services.answers["repo"] = Captured(0, answer, "")
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.press("C")
            await driver.see("1 pruned point of main will be deleted. Nobody can undo that.")
            await driver.see("dc-last stays")
            await driver.press("y", "enter")
            assert driver.asked == [["repo", "compact", "main", "--dry-run"]]
            await driver.press("backspace")
            await driver.type("main")
            await driver.press("tab", "tab", "enter")
            await driver.wait_for(lambda: len(driver.asked) == 2, "the command")
            assert driver.asked[1] == ["repo", "compact", "main"]
            assert shop.services.store.runs(1)[0].kind == "repo"

    drive(test())


def test_what_vanished_is_accepted_only_when_asked_for(shop, repository, drive):
    async def test():
        shop.services.ledger.compare("main", shop.points[1:])
        gone = shop.points.pop(0)
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.see("✗ vanished")
            await driver.see(gone.archive)
            await driver.press("C")
            await driver.see("Points vanished: nothing is compacted")
            await driver.press("a")
            await driver.see("Accept that they are gone?")
            await driver.press("y")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["repo", "accept", "main"]]

    drive(test())


def test_read_only_shows_the_preview_and_prunes_nothing(shop, repository, drive):
    async def test():
        shop.services.answers["prune"] = Captured(0, json.dumps(VERDICTS), "")
        async with shop.console(120, 36, read_only=True) as driver:
            await opened(driver)
            for key in ("v", "c", "u", "a"):
                await driver.press(key)
            await driver.press("p")
            await driver.see("1 kept, 1 to go")
            await driver.press("p")
            assert driver.asked == [["prune", "--dry-run", "--repository", "main"]]

    drive(test())


def test_foreign_names_in_verdicts_do_no_harm(shop, repository, drive):
    async def test():
        guest = VERDICTS["guests"][0]
        evil = VERDICTS | {"guests": [guest | {"guest": "vm[/x]\x1b[2J"}]}
        shop.services.answers["prune"] = Captured(0, json.dumps(evil), "")
        shop.points[0] = replace(shop.points[0], guest="vm[/prod]")
        shop.save()
        async with shop.console(120, 36) as driver:
            await opened(driver)
            await driver.press("p")
            await driver.see("vm[/x]\\x1b[2J")

    drive(test())
