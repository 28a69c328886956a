"""Hostile names of guests, and a virsh that says more than it was asked, through the whole command line."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from e2e_world import World, drop_checkpoints, open_world, sha256
from lab.domain import HOSTILE_NAMES, MIB, DiskSpec
from lab.guest import Guest
from lab.leftovers import guest_leftovers
from lab.session import Lab

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

NAMES = (
    *HOSTILE_NAMES,
    "back\\slash \"double' single",
    "Überwachung №1 Größe",
    "[bold]x[link=file:etc]y[blink]",
)
DISK = DiskSpec("vda", size=8 * MIB)


@pytest.fixture(scope="module")
def guests(lab: Lab) -> Iterator[dict[str, Guest]]:
    """By name. Their processors never run, which saves the boot; every disk holds something of its own."""
    with ExitStack() as stack:
        found = {}
        for number, name in enumerate(NAMES):
            guest = stack.enter_context(lab.guest(name, [DISK], agent=False, start=False))
            write = f"write -P {number + 1} {number * 65536} 1M"
            guest.host.run(["qemu-io", "-f", "qcow2", "-c", write, str(guest.images["vda"])])
            guest.start(paused=True)
            found[name] = guest
        yield found


@pytest.fixture(scope="module")
def world(lab: Lab, guests: dict[str, Guest], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a restore point of all of them, made in one run."""
    with open_world(lab, tmp_path_factory.mktemp("names") / "world") as one:
        made = one.run("backup", "--all")
        assert {point["guest"] for point in made.events("point_made")} == set(NAMES)
        yield one


def harmless(text: str) -> bool:
    """Nothing that a terminal would obey."""
    return all(unicodedata.category(char) not in {"Cc", "Cf", "Zl", "Zp"} or char in "\n\t" for char in text)


def left(guest: Guest) -> list[str]:
    """As leftovers(), which cannot read libvirt's own file names when guests have such names."""
    find = "find /var/lib/libvirt /run /tmp -name '*vmconsole-*' ! -name '*.xml' ! -type d 2>/dev/null; true"
    return guest_leftovers(guest) + guest.host.run(["sh", "-c", find]).stdout.splitlines()


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_hostile_name(name: str, world: World, guests: dict[str, Guest], tmp_path: Path) -> None:
    guest = guests[name]
    made = world.backup(name)
    assert (made.point["guest"], made.point["mode"]) == (name, "incremental")
    newest, oldest = world.points(name)
    assert {point["guest"] for point in (newest, oldest)} == {name}
    assert {point["uuid"] for point in (newest, oldest)} == {guest.uuid}

    folder = tmp_path / "out"
    folder.mkdir()
    world.run("restore", "--to", str(folder), "--", f"{name}@latest")
    assert sha256(folder / "vda.raw") == sha256(guest.raw_copy("vda", tmp_path / "now"))
    assert left(guest) == [f"checkpoint {newest['disks'][0]['bitmap']}", "state paused"]


def test_lists_show_hostile_names_and_no_terminal_obeys_them(world: World, guests: dict[str, Guest]) -> None:
    (host,) = world.run("inventory", "--refresh").document["hosts"]
    assert set(NAMES) <= {guest["name"] for guest in host["guests"]}
    assert set(NAMES) <= {point["guest"] for point in world.points()}
    for words in (("inventory",), ("points",), ("runs",), ("runs", "last"), ("backup", "--all", "--dry-run")):
        ran = world.plain(*words)
        assert harmless(ran.out + ran.err), words
        if words[0] != "runs":
            assert "[red]d" in ran.out, "markup was taken for markup"
    ran = world.plain("backup", "--", "no \x1b[31m such [red] guest", expect=2)
    assert harmless(ran.out + ran.err)


@pytest.mark.parametrize("name", [NAMES[0], NAMES[1], NAMES[-2], NAMES[-1]])
def test_restored_under_a_hostile_name(name: str, world: World, lab: Lab, guests: dict[str, Guest]) -> None:
    place = lab.folder(f"names-{os.urandom(4).hex()}")
    new = name + " again"
    latest = f"{guests[name].uuid}@latest"
    world.run("restore", latest, "--host", "one", "--as", new, "--storage", str(place), expect=3)
    (uuid,) = [uuid for uuid, known in lab.host.domains().items() if known == new]
    lab.adopt(uuid).remove()
    assert world.journal() == []


@contextmanager
def noisy_virsh(lab: Lab, folder: Path, redirect: str) -> Iterator[World]:
    """A world whose logins get a virsh that prints first, on stdout or (redirect) elsewhere."""
    place = lab.folder(f"noisy-{os.urandom(4).hex()}")
    noise = f'echo "warning: qemu:///system is deprecated; error: not really" {redirect}'
    (place / "virsh").write_text(f'#!/bin/sh\n{noise}\nexec /usr/bin/virsh "$@"\n')
    (place / "virsh").chmod(0o755)
    path = f"{place}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with open_world(lab, folder, sshd_options={"SetEnv": f'HOME={place} PATH="{path}"'}) as world:
        yield world


def test_a_virsh_that_warns_first(lab: Lab, tmp_path: Path) -> None:
    with lab.guest("warned", [DISK]) as guest, noisy_virsh(lab, tmp_path / "world", ">&2") as world:
        for number, mode in enumerate(("full", "incremental")):
            guest.pattern("vda", MIB, MIB, seed=number)
            made = world.backup(guest)
            assert (made.point["mode"], made.point["consistency"]) == (mode, "application")
            images = world.restore(made.archive)
            assert sha256(images["vda"]) == sha256(guest.raw_copy("vda", tmp_path / f"now-{number}"))
        assert left(guest) == [f"checkpoint {world.newest(guest)['disks'][0]['bitmap']}"]
        assert all(check["ok"] for check in world.run("host", "check", "one").document["checks"])
        drop_checkpoints(guest)


def test_a_virsh_that_prints_into_its_own_answers(lab: Lab, tmp_path: Path) -> None:
    """Nothing it says can be relied on: that is said, and nothing is begun."""
    with (
        lab.guest("spoiled", [DISK], start=False) as guest,
        noisy_virsh(lab, tmp_path / "world", "") as world,
    ):
        guest.start(paused=True)
        world.run("inventory", "--refresh")
        for words in (("backup", guest.uuid), ("backup", "--full", guest.uuid)):
            refused = world.run(*words, expect=1).fails("ProtocolError")
            assert "deprecated" in refused["message"]
            assert "virsh list" in refused["hint"]
        assert left(guest) == ["state paused"]
        assert world.journal() == []
        assert world.points() == []
