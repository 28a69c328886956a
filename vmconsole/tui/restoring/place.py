"""Looking at a place on this machine where disks may be written. Asks the file system: not for the screen's thread."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from vmconsole.errors import VmconsoleError
from vmconsole.model.point import DiskPoint, RestorePoint
from vmconsole.model.words import size
from vmconsole.runs.restore import file_destinations, file_name

_MOST = 200
"""Folders that are offered."""


@dataclass(frozen=True, slots=True)
class Looked:
    """text: what was looked at. refusal: why nothing can be written there, and remedy.

    files: where each disk goes. free: bytes, -1 when unknown. folders: that the text could be completed to.
    """

    text: str
    refusal: str = ""
    files: tuple[tuple[str, Path], ...] = ()
    new_folder: bool = False
    free: int = -1
    mount: str = ""
    folders: tuple[str, ...] = ()

    def note(self, needed: int) -> str:
        """How it stands with the space. needed: bytes at most."""
        if self.free < 0:
            return ""
        told = f"{size(self.free)} free there, {size(needed)} needed at most (zeros stay holes)."
        if needed > self.free:
            return f"{told} It fits only when much of the disks is empty."
        return told


def absolute(text: str) -> str:
    """The path as a command that runs from `/` must be told it; / at its end stays."""
    if not text.strip():
        return ""
    # Unlike pathlib's, these neither follow links nor raise for a user that nobody has.
    path = Path(os.path.abspath(os.path.expanduser(text.strip())))  # noqa: PTH100, PTH111
    return f"{path}/" if text.strip().endswith("/") and str(path) != "/" else str(path)


def look_at(text: str, point: RestorePoint, disks: list[DiskPoint]) -> Looked:
    """text: as typed. Never raises."""
    to = absolute(text)
    if not to:
        return Looked(text, "Say where: a folder with / at its end, or a file for one disk.")
    if "\0" in to:
        return Looked(text, "A path cannot hold a null character.")
    try:
        folders = tuple(complete(text))
        files, new_folder = _files(to, point, disks)
        around = _existing(files[0][1].parent if files else Path(to))
        refusal = _refusal(files, around, new_folder=new_folder)
        return Looked(
            text,
            refusal,
            tuple((disk.id, path) for disk, path in files),
            new_folder,
            shutil.disk_usage(around).free,
            str(around),
            folders,
        )
    except VmconsoleError as error:
        return Looked(text, f"{error.message} {error.hint}".strip(), folders=tuple(complete(text)))
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return Looked(text, f"{to} cannot be looked at: {reason}.")


def _files(to: str, point: RestorePoint, disks: list[DiskPoint]) -> tuple[list[tuple[DiskPoint, Path]], bool]:
    """As the command does it."""
    folder = Path(to)
    if to.endswith("/") and not folder.exists():
        return [(disk, folder / file_name(disk)) for disk in disks], True
    return file_destinations(point, disks, folder), False


def _existing(path: Path) -> Path:
    """The nearest folder above, or the path itself, that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _refusal(files: list[tuple[DiskPoint, Path]], around: Path, *, new_folder: bool) -> str:
    if not around.is_dir():
        return f"{around} is not a folder."
    if files and not new_folder and not files[0][1].parent.exists():
        return f"The folder {files[0][1].parent} does not exist. Put / at the end to have a folder made."
    if not os.access(around, os.W_OK | os.X_OK):
        return f"Nothing can be written in {around}: permission denied."
    return ""


def complete(text: str) -> list[str]:
    """The folders that what was typed could become, each with / at its end; hidden ones when a dot was typed."""
    stem, _, start = text.rpartition("/")
    if "/" not in text and text not in ("~", ""):
        stem, start = ".", text
    if text == "~":
        return ["~/"]
    folder = os.path.expanduser(f"{stem}/" if stem else "/")  # noqa: PTH111 - as in absolute()
    prefix = text[: len(text) - len(start)]
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") and not start.startswith(".")
                # A name that a terminal could obey is not offered; it can still be typed.
                plain = entry.name.isprintable() and entry.name.startswith(start)
                if plain and not hidden and entry.is_dir():
                    found.append(f"{prefix}{entry.name}/")
                    if len(found) >= _MOST:
                        break
    except (OSError, ValueError):
        return []
    return sorted(found)


def common_start(folders: tuple[str, ...], text: str) -> str:
    """What tab completes to: the longest text that all of them begin with; text itself when that is no longer."""
    first, last = min(folders, default=""), max(folders, default="")
    same = next(
        (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first)
    )
    longest = first[:same]
    return longest if len(longest) > len(text) else text
