"""Hosts: do they answer, are they ready, what did killed runs leave on them?"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from snapshots import same_as_kept

from vmconsole.front.services import Captured
from vmconsole.interfaces import HostKey
from vmconsole.model.guest import HostLoad, Node, Storage
from vmconsole.tui.widgets.listing import Listing

SIZES = [(80, 24), (120, 36), (200, 50)]
OURS, OTHER = "SHA256:" + "a" * 43, "SHA256:" + "b" * 43


@pytest.fixture
def cluster(shop, monkeypatch):
    """pve has two nodes, one of which is down, and a storage that is nearly full; kvm1 does not answer."""
    told = shop.inventory

    def inventory(host):
        found = told(host)
        if host != "pve":
            return found
        nodes = (
            Node("pve1", True, "10.0.0.1", "9.1.1", HostLoad(0.55, 0.1, 0.0)),
            Node("pve2", False, "10.0.0.2"),
        )
        storages = (
            Storage("local-zfs", "zfspool", True, "pve1", ("images",), 1000 << 30, 400 << 30),
            Storage("tank", "nfs", True, "", ("images",), 1000 << 30, 960 << 30),
        )
        return replace(found, nodes=nodes, storages=storages)

    monkeypatch.setattr(shop, "inventory", inventory)
    shop.lost.add("kvm1")
    shop.save()
    return shop


def trusts(shop, monkeypatch, *, before=""):
    """Hosts show OURS; before: what was trusted until now."""
    monkeypatch.setattr(
        shop.services,
        "scan_host_key",
        lambda host: HostKey(host, f"root@{host}.example", "ssh-ed25519", OURS, "line", before),
        raising=False,
    )


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_hosts_as_they_look(cluster, drive, width, height):
    async def test():
        async with cluster.console(width, height) as driver:
            await driver.press("6")
            await driver.see("no answer")
            driver.app.screen.listing.move_to("pve")
            await driver.see("cannot be reached: pve2")
            same_as_kept(f"hosts-{width}x{height}", driver.screen)

    drive(test())


def test_a_failed_check_is_shown_with_its_remedy(shop, drive):
    checks = [
        {"host": "kvm1", "name": "qemu-img", "ok": True, "warning": False, "detail": "9.0", "remedy": None},
        {"host": "kvm1", "name": "qemu-nbd", "ok": False, "warning": False, "detail": "qemu-nbd is missing.",
         "remedy": "apt install qemu-utils"},
    ]  # fmt: skip
    shop.services.answers["host"] = Captured(1, json.dumps({"checks": checks}), "")

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("6")
            driver.app.screen.listing.move_to("kvm1")
            await driver.press("c")
            await driver.see("apt install qemu-utils")
            assert driver.asked == [["host", "check", "kvm1"]]
            assert "✗ not ready" in driver.line("kvm1")
            assert "It did not work" not in driver.screen

    drive(test())


def test_what_a_check_found_is_remembered_with_its_time_in_every_place(shop, drive):
    checks = [{"host": "kvm1", "name": "qemu-nbd", "ok": False, "warning": False, "detail": "qemu-nbd is missing.",
               "remedy": "apt install qemu-utils"}]  # fmt: skip
    shop.services.answers["host"] = Captured(1, json.dumps({"checks": checks}), "")

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("6")
            driver.app.screen.listing.move_to("kvm1")
            await driver.press("c")
            await driver.see("0 of 1 well")
            shop.clock.time += timedelta(minutes=7)
            driver.app.feed.look_now()
            await driver.see("0 of 1 well, 7 min ago")
            await driver.press("1", "W")
            await driver.see("Welcome")
            driver.app.screen.query_one(Listing).move_to("check")
            await driver.see("0 of 1 well, 7 min ago")
            await driver.press("escape", "W")
            driver.app.screen.query_one(Listing).move_to("check")
            await driver.see("apt install qemu-utils")
            assert driver.asked == [["host", "check", "kvm1"]]

    drive(test())


def test_a_key_is_compared_before_it_is_trusted(shop, drive, monkeypatch):
    trusts(shop, monkeypatch)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("6")
            driver.app.screen.listing.move_to("kvm1")
            await driver.press("t")
            await driver.see(OURS)
            await driver.see("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
            await driver.press("enter")
            assert driver.asked == []
            await driver.press("t")
            await driver.see(OURS)
            await driver.press("y")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["host", "trust", "kvm1", "--fingerprint", OURS]]

    drive(test())


def test_a_changed_key_needs_the_name_of_the_host(shop, drive, monkeypatch):
    trusts(shop, monkeypatch, before=OTHER)

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("6")
            driver.app.screen.listing.move_to("kvm1")
            await driver.press("t")
            await driver.see("CHANGED")
            await driver.see(OTHER)
            await driver.press("y", "tab", "tab", "enter")
            assert driver.asked == []
            await driver.press("escape", "t")
            await driver.see("CHANGED")
            await driver.type("kvm1")
            await driver.press("tab", "tab", "enter")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["host", "trust", "kvm1", "--replace", "--fingerprint", OURS]]

    drive(test())


def test_every_node_of_a_cluster_is_asked_for_its_key(shop, drive, monkeypatch):
    trusts(shop, monkeypatch)
    nodes = [{"host": "pve/pve2", "fingerprint": OURS, "trusted": False}]
    shop.services.answers["host"] = Captured(
        3, json.dumps({"host": "pve", "trusted": True, "nodes": nodes}), ""
    )

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("6")
            driver.app.screen.listing.move_to("pve")
            await driver.press("t")
            await driver.see("Is this the key of pve?")
            await driver.press("y")
            await driver.see("Is this the key of pve/pve2?")
            shop.services.answers["host"] = Captured(0, "{}", "")
            await driver.press("y")
            await driver.see("pve is trusted.")
            assert [words[2] for words in driver.asked] == ["pve", "pve/pve2"]

    drive(test())


def test_a_host_is_added_by_a_form_that_keeps_what_was_typed(shop, drive, monkeypatch):
    trusts(shop, monkeypatch)
    problem = {
        "error": "ConfigError",
        "message": "There is a host kvm2 already.",
        "hint": "Take another name.",
    }
    shop.services.answers["host"] = Captured(2, json.dumps(problem), "")

    async def test():
        async with shop.console(80, 24) as driver:
            await driver.press("6", "n")
            await driver.type("kvm2")
            await driver.press("enter")
            await driver.see("address is missing")
            await driver.type("root@kvm2.example")
            await driver.press("down", "space")
            await driver.see("--kind proxmox")
            assert "scratch folder" not in driver.screen
            await driver.press("down", "enter")
            await driver.see("There is a host kvm2 already.")
            await driver.see("root@kvm2.example")
            shop.services.answers["host"] = Captured(0, "{}", "")
            await driver.press("enter")
            await driver.see("Is this the key of kvm2?")
            wanted = ["host", "add", "kvm2", "root@kvm2.example", "--kind", "proxmox"]
            assert driver.asked == [wanted, wanted]

    drive(test())


def test_leftovers_are_listed_before_they_are_removed(shop, drive, monkeypatch):
    monkeypatch.setattr(type(shop.services.store), "process_is_dead", lambda store, process: True)
    run = shop.services.store.start_run("backup", "group daily")
    shop.services.store.journal(run.id).acquire("kvm1", "scratch", {"name": "web-01"})
    cleaned = {"checks": [], "cleaned": [{"host": "kvm1", "run": run.id, "done": True, "detail": ""}]}
    shop.services.answers["doctor"] = Captured(1, json.dumps(cleaned), "")

    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("6")
            await driver.see("left by killed runs")
            await driver.press("x")
            await driver.see("kvm1: scratch of web-01")
            await driver.press("n")
            assert driver.asked == []
            await driver.press("x", "y")
            await driver.see("Removed 1 of 1 leftovers.")
            assert driver.asked == [["doctor", "--clean"]]

    drive(test())


def test_a_host_is_removed_once_its_name_is_typed(shop, drive):
    async def test():
        async with shop.console(120, 36) as driver:
            await driver.press("6")
            driver.app.screen.listing.move_to("kvm1")
            await driver.press("D")
            await driver.see("Its restore points stay.")
            await driver.type("kvm1")
            await driver.press("tab", "tab", "enter")
            await driver.wait_for(lambda: driver.asked, "the command")
            assert driver.asked == [["host", "remove", "kvm1"]]

    drive(test())


def test_nothing_is_changed_by_a_console_that_only_reads(shop, drive):
    async def test():
        async with shop.console(120, 36, read_only=True) as driver:
            await driver.press("6", "D", "n", "t")
            await driver.see("This console is read-only.")
            assert driver.asked == []

    drive(test())


def test_nothing_that_a_host_tells_is_obeyed(shop, drive, monkeypatch):
    evil = "[/x]\x1b[2J\n[bold]"
    told = shop.inventory

    def inventory(host):
        nodes = (Node(evil, True, "", evil), Node(evil + "2", False))
        storages = (Storage(evil, evil, False, evil),)
        return replace(told(host), nodes=nodes, storages=storages, warnings=(evil,))

    monkeypatch.setattr(shop, "inventory", inventory)
    check = {"host": "kvm1", "name": evil, "ok": False, "warning": False, "detail": evil, "remedy": evil}
    shop.services.answers["host"] = Captured(1, json.dumps({"checks": [check]}), "")
    monkeypatch.setattr(
        shop.services,
        "scan_host_key",
        lambda host: HostKey(host, evil, evil, evil, evil, evil + "2"),
        raising=False,
    )
    shop.save()

    async def test():
        async with shop.console(200, 50) as driver:
            await driver.press("6", "c")
            await driver.see("not ready")
            assert "[/x]\\x1b[2J" in driver.screen
            await driver.press("enter")
            await driver.see("limits")
            await driver.press("escape", "t")
            await driver.see("CHANGED")
            assert "[/x]\\x1b[2J" in driver.screen
            assert "\x1b" not in driver.screen

    drive(test())
