"""From an empty configuration to restore points, by keys alone, on the demo's hosts: everything is real."""

from __future__ import annotations

from world import Driver

from vmconsole.interfaces import Cancel
from vmconsole.tui.app import Console, Settings
from vmconsole.tui.screens.welcome import Welcome
from vmconsole.wiring.services import Wiring


async def fill_in(driver, *lines):
    """Into the lines of a form, from the first; None goes past one."""
    for number, line in enumerate(lines):
        if number:
            await driver.press("down")
        if line:
            driver.app.screen.focused.insert_text_at_cursor(line)
            await driver.settle()
    await driver.press("enter")


async def done(app, driver, count):
    """So many steps, and no form any more: what a command changes is seen before it has ended."""
    await driver.wait_for(
        lambda: isinstance(app.screen, Welcome) and f"Welcome {count} of 7 steps" in driver.screen,
        f"{count} steps done",
    )


async def first_steps(app, driver, folder, port):
    await done(app, driver, 0)
    await driver.press("enter")
    await driver.see("New host")
    host = folder / "demo" / "host"
    await fill_in(driver, "kvm1", f"demo@127.0.0.1:{port}", None, str(host / "client_key"),
                  str(host / "scratch"), "qemu:///session")  # fmt: skip
    await driver.see("Is this the key of kvm1?")
    await driver.press("y")
    await done(app, driver, 3)
    await driver.press("enter")
    await driver.see("New repository")
    await fill_in(driver, str(folder / "repository"))
    await done(app, driver, 4)
    await driver.press("enter")
    await driver.see("I have copied it")
    await driver.press("y")
    await done(app, driver, 5)
    await driver.press("enter")
    await driver.see("New group")
    await driver.press("enter")
    await done(app, driver, 6)
    await driver.press("enter")
    await driver.see("Back up")
    await driver.press("y")
    await driver.wait_for(lambda: any(ended.run for ended in app.commands), "the run")
    await driver.wait_for(lambda: app.picture.runs and not app.picture.running, "its end")
    app.go("guests")
    await done(app, driver, 7)


def test_from_nothing_to_restore_points_on_hosts_that_answer(tmp_path, drive, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    config = mine / "config.toml"
    config.write_text('state_dir = "state"\n')
    wiring, services = Wiring(None, Cancel()), Wiring(config, Cancel())

    async def test(port):
        app = Console(services, Settings())
        async with app.run_test(size=(120, 36), notifications=True) as pilot:
            await first_steps(app, Driver(app, pilot, None), tmp_path, port)
            assert [ended.error for ended in app.commands if not ended.ok] == []

    with wiring.demo(tmp_path / "demo") as shop:
        drive(test(shop._shop.ssh.port))
    points = services.history.latest_good()
    assert len(points) == 5
    services.close()
    wiring.close()
