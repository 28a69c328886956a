"""The state database locked or full while the console is open: it says so, goes on, and sees that it is over."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import event

from vmconsole.state import engine as state_engine

SIZES = [(80, 24), (120, 36)]


@contextmanager
def locked(shop):
    """Nobody else can even read."""
    connection = sqlite3.connect(shop.path.parent / "state" / "state.sqlite", isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("PRAGMA user_version")
        yield
    finally:
        connection.close()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_locked_state_database_is_told_and_what_was_read_before_stays(
    shop, drive, width, height, monkeypatch
):
    # What waits for its turn is told soon instead of after a quarter of a minute.
    monkeypatch.setattr(state_engine, "BUSY_SECONDS", 0.2)

    async def test():
        async with shop.console(width, height) as driver:
            await driver.see("web-01")
            shop.services.store.close()
            with locked(shop):
                driver.app.feed.look_now()
                await driver.see("✗ The state database")
                await driver.see("→ See who has it open: fuser -v")
                assert "web-01" in driver.screen
                assert "The configuration cannot be used" not in driver.screen
                for place in "23456":
                    await driver.press(place)
                    await driver.see("✗ The state database")
                await driver.press("1")
            driver.app.feed.look_now()
            await driver.wait_for(lambda: "The state database" not in driver.screen, "the end of it")
            assert "web-01" in driver.screen

    drive(test())


def test_a_full_disk_is_told_and_the_hosts_are_asked_again_afterwards(shop, drive):
    full = True

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.see("web-01")
            nonlocal full

            def grow_no_more(connection) -> None:
                connection.exec_driver_sql(f"PRAGMA max_page_count={1 if full else 1 << 30}")

            event.listen(shop.services.store._database._engine, "begin", grow_no_more)
            for number in range(200):
                shop.guest(f"more-{number}")
            await driver.press("R")
            await driver.see("There is no space left for the state database")
            full = False
            await driver.press("R")
            await driver.see("of 206 safe")
            await driver.wait_for(lambda: "no space left" not in driver.screen, "the end of it")

    drive(test())


def test_a_console_that_is_opened_meanwhile_fills_itself_afterwards(shop, drive, monkeypatch):
    monkeypatch.setattr(state_engine, "BUSY_SECONDS", 0.2)

    async def test():
        shop.services.store.close()
        with ExitStack() as stack:
            stack.enter_context(locked(shop))
            async with shop.console(120, 36) as driver:
                await driver.see("✗ The state database")
                assert "The configuration cannot be used" not in driver.screen
                assert "web-01" not in driver.screen
                await driver.press("R")
                stack.close()
                driver.app.feed.look_now()
                await driver.see("web-01")
                await driver.press("R")
                await driver.wait_for(lambda: "The state database" not in driver.screen, "the end of it")

    drive(test())
