from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vmconsole.cli.main import parse
from vmconsole.model.guest import Guest, GuestKind, GuestState, HostInventory, HostKind, Storage
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.tui.restoring.choice import (
    Candidate,
    Choice,
    What,
    chosen_size,
    command,
    default_name,
    default_place,
    storage_argument,
    usable_storages,
    why_not_host,
    why_not_name,
    why_not_what,
)
from vmconsole.tui.restoring.review import folded

GIB = 1 << 30


def point(*disks: tuple[str, str], guest: str = "web-01") -> RestorePoint:
    stored = tuple(
        DiskPoint(name, f"disks/{name}.raw", (number + 1) * GIB, kind, Mode.FULL)
        for number, (name, kind) in enumerate(disks)
    )
    when = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
    return RestorePoint("web.1-x", guest, "u", "kvm1", "libvirt", when, Consistency.CRASH, stored)


PAIR = point(("vda", "qcow2"), ("vdb", "raw"))
CONTAINER = point(("rootfs", "tar"))
CHOICE = Choice(Candidate(PAIR, "main"))


def host(name: str, *guests: str, storages: tuple[Storage, ...] = ()) -> HostInventory:
    found = tuple(Guest(f"u{n}", str(n), g, name, GuestKind.VM, GuestState.OFF) for n, g in enumerate(guests))
    return HostInventory(name, HostKind.PROXMOX, True, guests=found, storages=storages)


def test_the_command_is_one_that_the_command_line_takes():
    for choice in (
        replace(CHOICE, what=What.DISKS, to="/srv/x/"),
        replace(CHOICE, what=What.DISK, to="/srv/x y.raw", disks=("vdb",)),
        replace(CHOICE, host="pve", name="-rf", storage="pve1/fast", start=True),
    ):
        args = parse([*command(choice), "--yes"])
        assert (args.point, args.repository, args.yes) == ("web.1-x", "main", True)
        assert (args.to or "", args.host or "") == (choice.to, choice.host)
        assert (args.new_name or "", args.storage, args.start) == (choice.name, choice.storage, choice.start)
        assert tuple(args.disk) == choice.disks


def test_what_belongs_to_the_other_way_is_not_said():
    files = replace(CHOICE, what=What.DISKS, to="/srv/x/", host="pve", name="copy", start=True)
    assert command(files) == ("restore", "web.1-x", "--repository", "main", "--to", "/srv/x/")
    guest = replace(CHOICE, to="/srv/x/", disks=("vda",), host="pve", name="copy")
    assert command(guest) == ("restore", "web.1-x", "--repository", "main", "--host", "pve", "--as", "copy")


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        ((), "web-01"),
        (("other",), "web-01"),
        (("web-01",), "web-01-restored"),
        (("web-01", "web-01-restored", "web-01-restored-2"), "web-01-restored-3"),
    ],
)
def test_a_name_that_is_free(taken, name):
    assert default_name(PAIR, [host("a", *taken[:1]), host("b", *taken[1:])]) == name
    assert why_not_name(name, host("a", *taken)) == ""


def test_a_name_that_a_terminal_would_obey_is_not_proposed():
    assert default_name(point(guest="x\x1b[2Jy"), []) == "x-2jy"


def test_reasons():
    assert "already" in why_not_name("web-01", host("a", "web-01"))
    assert "needs a name" in why_not_name("  ", None)
    assert why_not_name("web-01", None) == "", "the host will say"
    assert "Proxmox" in why_not_host(HostKind.LIBVIRT, CONTAINER)
    assert why_not_host(HostKind.PROXMOX, CONTAINER) == why_not_host(HostKind.LIBVIRT, PAIR) == ""
    assert "no disk" in why_not_what(What.GUEST, point())
    assert why_not_what(What.GUEST, PAIR) == ""
    assert why_not_what(What.FILES, PAIR) == ""
    for what in (What.ROLLBACK, What.BOOT):
        assert why_not_what(what, PAIR).endswith("is not in this version.")


def test_where_files_go_by_default():
    home = Path("/home/x")
    assert default_place(PAIR, What.DISKS, (), home, UTC) == "/home/x/restore/web-01-2026-11-21-0200/"
    assert default_place(PAIR, What.DISK, ("vdb",), home, UTC).endswith(
        "/restore/web-01-2026-11-21-0200-vdb.raw"
    )


def test_storages_that_take_such_disks_the_roomiest_first():
    storages = (
        Storage("small", "dir", True, "n1", ("images",), 100, 90),
        Storage("off", "dir", False, "n1", ("images",), 1000, 0),
        Storage("iso", "dir", True, "n1", ("iso",), 1000, 0),
        Storage("roomy", "nfs", True, "", ("images",), 100, 10),
        Storage("both", "zfspool", True, "n2", ("images", "rootdir"), 100, 50),
    )
    found = usable_storages(host("pve", storages=storages), PAIR)
    assert [storage_argument(item) for item in found] == ["roomy", "n2/both", "n1/small"]
    assert [s.name for s in usable_storages(host("pve", storages=storages), CONTAINER)] == ["both"]


def test_the_size_of_what_is_chosen():
    assert chosen_size(CHOICE) == 3 * GIB
    assert chosen_size(replace(CHOICE, disks=("vdb",))) == 2 * GIB


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a bc def", ["a bc", "def"]),
        ("abcdefghijk", ["abcde", "fghij", "k"]),
        ("ab cdefghij", ["ab", "cdefg", "hij"]),
        ("漢字漢字", ["漢字", "漢字"]),
        ("", [""]),
    ],
)
def test_folding(text, lines):
    assert folded(text, 5) == lines
