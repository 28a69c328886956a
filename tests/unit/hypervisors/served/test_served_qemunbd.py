"""qemu-nbd held by the guard script: real servers, hostile names, and ends of every kind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import CommandFailed
from vmconsole.hypervisors.served.qemunbd import (
    Image,
    command_line,
    read_options,
    serve,
    sweep,
    write_options,
)
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.machine import Completed, Process

MIB = 1024 * 1024
pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-nbd")


class Recorder(LocalMachine):
    """This machine; remembers what it started, and gives it a temporary folder to look into."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.started: list[Process] = []

    def start(self, argv: object) -> Process:
        words = ["env", f"TMPDIR={self.folder}", *argv]  # type: ignore[misc]
        self.started.append(super().start(words))
        return self.started[-1]

    def script(self, source: str, args: Sequence[str] = (), **more: Any) -> Completed:
        return super().script(f"TMPDIR={self.folder}\n{source}", args, **more)

    def left(self) -> list[Path]:
        return list(self.folder.iterdir())


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    return Recorder(tmp_path_factory.mktemp("t"))


@pytest.fixture
def image(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "disk.qcow2", image_format: str = "qcow2", size: int = MIB) -> Path:
        path = tmp_path / name
        path.touch()
        options = f"driver={image_format}" if image_format == "raw" else ""
        assert not options or image_format == "raw"
        made = tmp_path / "made"
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, str(made), str(size)], check=True)
        made.rename(path)
        return path

    return make


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "comma,locking=on,x", "quote's \"double\"", "$(touch x)`id`", "new\nline", "-rf",
     "json:{}", "nbd:x", "100%s", "ünï", "back\\slash"],
)  # fmt: skip
def test_an_image_of_any_name_is_served_and_nothing_else(
    machine: Recorder, image: Callable[..., Path], name: str
) -> None:
    path = image(name)
    servers = serve(machine, [Image("vda", write_options(str(path), "qcow2"), writable=True)])
    client = NbdClient.connect(servers.connect("vda"), "vda", ())
    client.write(65536, b"x" * 4096)
    client.flush()
    client.close()
    servers.stop()

    servers = serve(machine, [Image("vda", read_options(str(path), "qcow2"))])
    with NbdClient.connect(servers.connect("vda"), "vda") as client:
        assert client.read_only
        assert dict(client.read([(65536, 4096)])) == {65536: b"x" * 4096}
    servers.close()
    servers.close()
    assert machine.left() == []


def test_several_images_have_a_server_each(machine: Recorder, image: Callable[..., Path]) -> None:
    first, second = image("a", "raw", 2 * MIB), image("b", "qcow2", 3 * MIB)
    servers = serve(
        machine,
        [Image("vda", read_options(str(first), "raw")), Image("vdb", read_options(str(second), "qcow2"))],
    )
    for name, size in (("vda", 2 * MIB), ("vdb", 3 * MIB)):
        with NbdClient.connect(servers.connect(name), name) as client:
            assert client.size == size
    servers.stop()


def test_an_image_that_cannot_be_opened_is_named_and_nothing_stays(
    machine: Recorder, image: Callable[..., Path], tmp_path: Path
) -> None:
    good, missing = image("a"), tmp_path / "missing"
    images = [Image(n, read_options(str(p), "qcow2")) for n, p in (("vda", good), ("vdb", missing))]
    with pytest.raises(CommandFailed, match=r"vdb.*No such file") as caught:
        serve(machine, images)
    assert caught.value.hint
    machine.started[-1].close()
    assert machine.left() == []


def test_when_our_end_goes_away_the_servers_end(machine: Recorder, image: Callable[..., Path]) -> None:
    servers = serve(machine, [Image("vda", read_options(str(image()), "qcow2"))])
    client = NbdClient.connect(servers.connect("vda"), "vda")

    machine.started[-1].close_stdin()
    machine.started[-1].wait(20)

    assert machine.left() == []
    client.abandon()
    servers.close()


def killed_script(machine: Recorder, image: Callable[..., Path]) -> tuple[Path, int]:
    """kill -9 of a script that serves an image. Returns its folder and its orphaned server's number."""
    before = machine.left()
    servers = serve(machine, [Image("vda", read_options(str(image()), "qcow2"))])
    (folder,) = (path for path in machine.left() if path not in before)
    script = int((folder / "owner").read_text().split()[0])
    server = int((folder / "0.pid").read_text())
    os.kill(script, signal.SIGKILL)
    servers.close()
    assert folder in machine.left()
    assert Path(f"/proc/{server}").exists()
    return folder, server


def ended(pid: int) -> bool:
    """A child of nobody here may stay a zombie for a moment."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_a_killed_script_left_is_swept_away(machine: Recorder, image: Callable[..., Path]) -> None:
    living = serve(machine, [Image("vdb", read_options(str(image("other")), "qcow2"))])
    (kept,) = machine.left()
    _, server = killed_script(machine, image)

    sweep(machine)

    assert machine.left() == [kept]
    assert ended(server)
    living.connect("vdb").close()
    living.stop()


def test_the_next_one_sweeps_too(machine: Recorder, image: Callable[..., Path]) -> None:
    folder, server = killed_script(machine, image)
    servers = serve(machine, [Image("vda", read_options(str(image("next")), "qcow2"))])
    assert folder not in machine.left()
    assert ended(server)
    servers.stop()
    assert machine.left() == []


def test_a_lock_for_reading_is_never_taken(machine: Recorder, image: Callable[..., Path]) -> None:
    """Somebody else may open the image for writing while we serve it."""
    path = image()
    reading = serve(machine, [Image("vda", read_options(str(path), "qcow2"))])
    writing = serve(machine, [Image("vda", write_options(str(path), "qcow2"), writable=True)])
    writing.stop()
    reading.stop()


def test_a_backing_file_is_not_opened_when_told_so(
    machine: Recorder, image: Callable[..., Path], tmp_path: Path
) -> None:
    below = image("below", "qcow2")
    top = tmp_path / "top"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below), "-F", "qcow2", str(top)], check=True
    )
    below.unlink()
    servers = serve(
        machine, [Image("vda", read_options(str(top), "qcow2", alone=True), allocation_depth=True)]
    )
    with NbdClient.connect(servers.connect("vda"), "vda", ("qemu:allocation-depth",)) as client:
        assert client.block_status()["qemu:allocation-depth"] == [(0, MIB, 0)]
    servers.stop()


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(min_size=1, max_size=8))
def test_the_path_is_one_json_string_whatever_it_holds(path: str, image_format: str) -> None:
    words = command_line(Image("vda", read_options(path, image_format)))
    assert words[-2] == "--"
    options = json.loads(words[-1].removeprefix("json:"))
    assert options["file"]["filename"] == path
    assert options["driver"] == image_format
    assert options["file"]["locking"] == "off"
