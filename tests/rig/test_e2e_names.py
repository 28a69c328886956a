"""Hostile names of guests, and a virsh that says more than it was asked, through the whole command line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e_world import World, drop_checkpoints, open_world, sha256
from lab.domain import HOSTILE_NAMES, MIB, DiskSpec
from lab.guest import Guest
from lab.leftovers import leftovers
from lab.session import Lab

pytestmark = [pytest.mark.rig, pytest.mark.timeout(400)]

NAMES = (
    *HOSTILE_NAMES,
    "back\\slash \"double' single",
    "Überwachung №1 Größe",
    "[/bold][link=file:///etc]x[/]",
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
        made = one.run("backup", "--all", expect=3)
        assert {point["guest"] for point in made.events("point_made")} == set(NAMES)
        yield one


def harmless(text: str) -> bool:
    """Nothing that a terminal would obey."""
    return all(unicodedata.category(char) not in {"Cc", "Cf", "Zl", "Zp"} or char in "\n\t" for char in text)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_hostile_name(name: str, world: World, guests: dict[str, Guest], tmp_path: Path) -> None:
    guest = guests[name]
    made = world.backup(name, expect=3)
    assert (made.point["guest"], made.point["mode"]) == (name, "incremental")
    newest, oldest = world.points(name)
    assert {point["guest"] for point in (newest, oldest)} == {name}
    assert {point["uuid"] for point in (newest, oldest)} == {guest.uuid}

    folder = tmp_path / "out"
    folder.mkdir()
    world.run("restore", "--to", str(folder), "--", f"{name}@latest")
    assert sha256(folder / "vda.raw") == sha256(guest.raw_copy("vda", tmp_path / "now"))
    assert [line for line in leftovers(guest) if not line.startswith(("checkpoint", "state paused"))] == []


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
    place = lab.folder(f"names-{abs(hash(name))}")
    new = name + " again"
    world.run("restore", f"{guests[name].uuid}@latest", "--host", "one", "--as", new, "--storage", str(place))
    (uuid,) = [uuid for uuid, known in lab.host.domains().items() if known == new]
    lab.adopt(uuid).remove()
    assert world.journal() == []


WRAPPER = """#!/bin/sh
{noise}
exec /usr/bin/virsh "$@"
"""


@pytest.mark.parametrize("where", ["stderr", "stdout"])
def test_a_virsh_that_prints_warnings_first(where: str, lab: Lab, tmp_path: Path) -> None:
    """On stderr it changes nothing. On stdout it must never end in wrong data or a traceback."""
    folder = lab.folder(f"noisy-{where}")
    noise = 'echo "warning: qemu:///system is about to be deprecated; error: not really"'
    (folder / "virsh").write_text(WRAPPER.format(noise=noise + (" >&2" if where == "stderr" else "")))
    (folder / "virsh").chmod(0o755)
    home = lab.folder("noisy-home")
    options = {
        "SetEnv": f'HOME={home} PATH="{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"'
    }
    with (
        lab.guest(f"noisy {where}", [DISK, DiskSpec("vdb", size=8 * MIB, fs=None)]) as guest,
        open_world(lab, tmp_path / "world", sshd_options=options) as world,
    ):
        guest.pattern("vda", 0, 2 * MIB, seed=1)
        for number, mode in enumerate(("full", "incremental")):
            guest.pattern("vda", MIB, MIB, seed=2 + number)
            made = world.backup(guest)
            assert made.point["mode"] == mode
            images = world.restore(made.archive)
            assert sha256(images["vda"]) == sha256(guest.raw_copy("vda", tmp_path / f"now-{number}"))
        (only,) = leftovers(guest)
        assert only.startswith("checkpoint vmconsole-")
        assert world.run("host", "check", "one").document["checks"]
        drop_checkpoints(guest)
