"""From `POINT:VOLUME:PATH` to the files in a restore point, for the command line and the console."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vmconsole.errors import PathNotFound, UsageError
from vmconsole.front.services import Services
from vmconsole.interfaces import GuestFiles, RepositoryReader
from vmconsole.model.files import Volume
from vmconsole.model.point import TAR, RestorePoint
from vmconsole.runs.tarfiles import TarFiles


@dataclass(frozen=True, slots=True)
class Where:
    """point: as it was typed. volume: empty for the guest's own tree. path: with a slash first; empty when none was
    given."""

    point: str
    volume: str
    path: str


def where(text: str) -> Where:
    """Splits POINT[:VOLUME][:PATH]. A time within POINT has colons too: they stand between digits."""
    before, colon, path = text.partition(":/")
    if colon:
        return Where(*_volume(before), "/" + path)
    point, volume = _volume(text)
    if "/" in volume:  # A path that was typed without its first slash.
        return Where(*_volume(point), "/" + volume)
    return Where(point, volume, "")


def _volume(text: str) -> tuple[str, str]:
    point, colon, last = text.rpartition(":")
    if colon and re.match(r"\d\d(\D|$)", last) and re.search(r"\d$", point):
        return text, ""
    return (point, last) if colon else (text, "")


@contextmanager
def open_inside(services: Services, point: RestorePoint, reader: RepositoryReader) -> Iterator[GuestFiles]:
    """The files in a restore point. Raises FilesUnreadable, RepositoryError."""
    if any(disk.format == TAR for disk in point.stored_disks):
        yield TarFiles(point, reader)
        return
    disks = {disk.id: reader.open_disk(point.archive, disk.path) for disk in point.stored_disks}
    with services.files(disks) as files:
        yield files


def check_volume(files: GuestFiles, wanted: Where) -> None:
    """Raises UsageError, PathNotFound when there is no such volume, or it holds no files."""
    if not wanted.volume:
        return
    found = next((one for one in files.volumes if one.name == wanted.volume), None)
    if found is None:
        names = ", ".join(one.name for one in files.volumes) or "none"
        raise PathNotFound(
            f"There is no volume {wanted.volume}; there are: {names}.",
            hint=f"A path begins with a slash: {wanted.point}:/{wanted.volume}",
            subject=wanted.volume,
        )
    if not found.readable:
        raise UsageError(
            f"{found.name} holds no files that can be read: {why_unreadable(found)}", subject=found.name
        )


def why_unreadable(volume: Volume) -> str:
    """A sentence, or the beginning of one."""
    words = {
        "swap": "It is swap space.",
        "lvm": "It is a physical volume of LVM; its logical volumes stand beside it.",
        "unknown": "What is on it is not known.",
    }
    return volume.note if volume.kind not in words or volume.note else words[volume.kind]
