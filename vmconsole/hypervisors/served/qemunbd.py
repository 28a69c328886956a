"""Disk images served by qemu-nbd on the host, for as long as our session there lives.

`qemunbd.sh` runs on the host, holds the servers, and ends them when its standard input ends: when
we close it, and also when we die or the connection breaks. Images are named as `json:` block
device options (QEMU's qemu-block-drivers(7)), so that no path can be mistaken for an option list.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vmconsole.errors import CommandFailed, HostError, ToolMissing, VmconsoleError
from vmconsole.remote.machine import Machine, Process, Stream

START_SECONDS = 90.0
STOP_SECONDS = 60.0
"""Longer than qemunbd.sh's own patience, so that its answer is heard."""
_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Image:
    """An image and how to serve it. options: QEMU block device options, as in its JSON.

    export: the NBD export's name. bitmap: a persistent bitmap to offer as
    `qemu:dirty-bitmap:NAME`. allocation_depth: offer `qemu:allocation-depth`.
    """

    export: str
    options: Mapping[str, Any]
    writable: bool = False
    bitmap: str = ""
    allocation_depth: bool = False


def read_options(path: str, image_format: str, *, block: bool = False, alone: bool = False) -> dict[str, Any]:
    """Options to read an image without ever taking a lock that a starting guest would trip over.

    block: the path is a block device. alone: never open the backing file that the image names.
    """
    protocol = {"driver": "host_device" if block else "file", "filename": path, "locking": "off"}
    options: dict[str, Any] = {"driver": image_format, "file": protocol}
    if alone:
        options["backing"] = None
    return options


def write_options(path: str, image_format: str, *, block: bool = False) -> dict[str, Any]:
    """Options to fill a new image; QEMU's lock keeps everybody else away meanwhile."""
    protocol = {"driver": "host_device" if block else "file", "filename": path}
    return {"driver": image_format, "file": protocol}


def command_line(image: Image) -> list[str]:
    """qemu-nbd's arguments for an image, socket and pid file aside."""
    words = ["--persistent", f"--shared={_CLIENTS}", f"--export-name={image.export}"]
    words += ["--discard=unmap", "--detect-zeroes=unmap"] if image.writable else ["--read-only"]
    if image.bitmap:
        words.append(f"--bitmap={image.bitmap}")
    if image.allocation_depth:
        words.append("--allocation-depth")
    return [*words, "--", "json:" + json.dumps(image.options)]


class NbdServers:
    """Running servers, one per image. close() ends them all and may be called twice."""

    def __init__(self, machine: Machine, process: Process, sockets: Mapping[str, str]) -> None:
        self._machine = machine
        self._process = process
        self._sockets = sockets
        self._open = True

    def connect(self, export: str) -> Stream:
        """A new connection to one export's server; the caller speaks NBD and closes it."""
        return self._machine.open_unix(self._sockets[export])

    def stop(self) -> None:
        """End the servers, waiting until the images are closed. Raises HostError when one failed."""
        if not self._open:
            return
        self._open = False
        try:
            self._process.close_stdin()
            ended = self._process.wait(STOP_SECONDS)
        except (TimeoutError, OSError) as error:
            raise HostError(
                f"The disk servers (qemu-nbd) on {self._machine.name} did not end in time.",
                hint="Is the storage on that host still answering?",
                subject=self._machine.name,
            ) from error
        finally:
            self._process.close()
        statuses = _stopped_statuses(ended.text)
        if statuses is None or any(statuses):
            raise CommandFailed(
                f"A disk server (qemu-nbd) on {self._machine.name} ended with an error: "
                f"{ended.errors or ended.text}",
                hint="Is the storage on that host full, or failing?",
                subject=self._machine.name,
                exit_status=ended.status,
                stderr=ended.errors,
            )

    def close(self) -> None:
        """End the servers, come what may. Never raises."""
        try:
            self.stop()
        except VmconsoleError:
            # The host's shell ends them as soon as it notices that we are gone.
            self._open = False


def serve(machine: Machine, images: Sequence[Image]) -> NbdServers:
    """Start one server per image and wait until all are ready.

    Raises ToolMissing, CommandFailed (an image cannot be opened), HostError, HostUnreachable.
    """
    arguments = [shlex.join(command_line(image)) for image in images]
    process = machine.start(["sh", "-c", _script(), "vmconsole-nbd", *arguments])
    try:
        folder = _wait_ready(machine, process, images)
    except BaseException:
        process.close()
        raise
    return NbdServers(
        machine, process, {image.export: f"{folder}/{number}" for number, image in enumerate(images)}
    )


def sweep(machine: Machine) -> None:
    """End the servers, and remove the sockets, of scripts that were killed. Raises HostError."""
    machine.script(_script(), ["sweep"], timeout=STOP_SECONDS)


def _wait_ready(machine: Machine, process: Process, images: Sequence[Image]) -> str:
    try:
        line = process.read_line(START_SECONDS).decode("utf-8", "replace").rstrip("\n")
    except TimeoutError as error:
        raise HostError(
            f"qemu-nbd on {machine.name} was not ready after {START_SECONDS:.0f} s.",
            hint="Is the storage on that host still answering?",
            subject=machine.name,
        ) from error
    word, _, rest = line.partition(" ")
    if word == "ready" and rest.startswith("/"):
        return rest
    if word == "missing":
        raise ToolMissing(
            f"qemu-nbd is not installed on {machine.name}.",
            hint="On the host: apt install qemu-utils  (or: dnf install qemu-img)",
            subject=machine.name,
        )
    number, _, why = rest.partition(" ")
    which = images[int(number)].export if number.isdecimal() and int(number) < len(images) else "an image"
    raise CommandFailed(
        f"{machine.name}: qemu-nbd cannot serve {which}: {why or line or 'it ended without a word'}",
        hint="The login user must be able to read the guest's images; root always can.",
        subject=machine.name,
        stderr=why,
    )


def _stopped_statuses(text: str) -> list[int] | None:
    """The exit statuses after `stopped`; None when that line never came."""
    lines = [line for line in text.splitlines() if line.startswith("stopped")]
    words = lines[-1].split()[1:] if lines else ["?"]
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else None


@cache
def _script() -> str:
    return files("vmconsole.hypervisors.served").joinpath("qemunbd.sh").read_text("utf-8")
