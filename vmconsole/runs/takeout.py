"""Single files and folders out of a container's tar: only what belongs to them is read.

The tar comes from a guest, so nothing in it is believed: Python's `data` filter keeps everything inside the
folder, without devices, foreign owners and set-user-id bits. What it refuses is left out with a warning.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmconsole.disks.tarstream import BLOCK
from vmconsole.errors import PointNotFound, RestoreFailed, UsageError
from vmconsole.events import Restored, Warned, step
from vmconsole.interfaces import Context, DiskReader, RepositoryReader
from vmconsole.model.point import TAR, DiskPoint, RestorePoint
from vmconsole.runs.feed import INDEX
from vmconsole.runs.tarindex import clean, read_index

_PIECE = 1024 * 1024
_END = bytes(2 * BLOCK)


@dataclass(frozen=True, slots=True)
class Taken:
    """One member. path: in the container, clean. to: below the folder, from the chosen file or folder on."""

    path: str
    to: str
    member: Mapping[str, Any]

    @property
    def size(self) -> int:
        return int(self.member.get("size", 0))

    @property
    def end(self) -> int:
        return int(self.member["data"]) + -(-int(self.member.get("stored", 0)) // BLOCK) * BLOCK


def tar_of(point: RestorePoint) -> DiskPoint | None:
    """A container's tar; None for a virtual machine."""
    return next((disk for disk in point.stored_disks if disk.format == TAR), None)


def choose(point: RestorePoint, reader: RepositoryReader, wanted: Sequence[str]) -> list[Taken]:
    """The members that are these paths or lie in them, in the tar's order. Raises PointNotFound, UsageError."""
    index = reader.open_disk(point.archive, INDEX)
    paths = [clean(path) for path in wanted]
    _all_different(paths)
    found: list[Taken] = []
    missing = set(paths)
    for member in read_index(index.read_at(0, index.size)):
        path = clean(str(member["path"]))
        for chosen in paths:
            if path == chosen or path.startswith(f"{chosen}/"):
                parent = chosen.rpartition("/")[0]
                found.append(Taken(path, path[len(parent) :].lstrip("/"), member))
                missing.discard(chosen)
    if missing:
        raise PointNotFound(
            f"{point.archive} has no {', '.join(sorted(missing))}.",
            hint="Look inside with the console: f on a guest.",
            subject=point.archive,
        )
    return found


def _all_different(paths: Sequence[str]) -> None:
    names = [path.rpartition("/")[2] for path in paths]
    if not all(names):
        raise UsageError(
            "All files at once are the tar itself.", hint="Restore it: vmconsole restore POINT --to FOLDER/"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or any(a != b and b.startswith(f"{a}/") for a in paths for b in paths):
        which = ", ".join(twice) or "one lies in another"
        raise UsageError(
            f"These would come to lie in each other's way: {which}.", hint="Take them out one by one."
        )


def destinations(taken: Sequence[Taken], folder: Path) -> list[Path]:
    """What will be new in the folder. Raises RestoreFailed when something is there already."""
    places = [folder / name for name in dict.fromkeys(item.to.partition("/")[0] for item in taken)]
    refuse_existing(places)
    return places


def refuse_existing(places: Iterable[Path]) -> None:
    """Raises RestoreFailed when something is at one of the places, a link that leads nowhere included."""
    for place in places:
        if os.path.lexists(place):
            raise RestoreFailed(
                f"{place} exists; nothing is ever overwritten.",
                hint="Name another folder.",
                subject=str(place),
            )


def take_out(
    point: RestorePoint, taken: Sequence[Taken], reader: RepositoryReader, folder: Path, context: Context
) -> None:
    """Write the members into the folder, which must be there. What failed or was stopped leaves nothing."""
    tar = tar_of(point)
    assert tar is not None, "a virtual machine has no tar"
    began = context.clock.monotonic()
    places = destinations(taken, folder)
    with step(context.events, context.run, point.guest, "take out"):
        source = reader.open_disk(point.archive, tar.path)
        # Beside its final place, so that it only has to be renamed.
        aside = Path(tempfile.mkdtemp(prefix=".vmconsole-", dir=folder))
        try:
            _extract(point, taken, source, aside, context)
            context.cancel.check()
            destinations(taken, folder)
            for place in places:
                if (aside / place.name).is_symlink() or (aside / place.name).exists():
                    os.rename(aside / place.name, place)  # noqa: PTH104 - Path.rename() is the same
        except (tarfile.TarError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RestoreFailed(
                f"The files could not be written to {folder}: {reason}.", subject=str(folder)
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    written = sum(item.size for item in taken)
    seconds = context.clock.monotonic() - began
    context.events(Restored(context.run, point.archive, str(folder), written, seconds))


def _extract(
    point: RestorePoint, taken: Sequence[Taken], source: DiskReader, aside: Path, context: Context
) -> None:
    names = {item.path: item.to for item in taken}

    def keep(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        context.cancel.check()
        where = names.get(clean(member.name))
        if where is None:
            return None
        changes: dict[str, Any] = {"name": where}
        if member.islnk():
            target = names.get(clean(member.linkname))
            if target is None:
                _warn(
                    point,
                    context,
                    f"{member.name} is a hard link to {member.linkname}: take that out as well.",
                )
                return None
            changes["linkname"] = target
        try:
            return tarfile.data_filter(member.replace(**changes, deep=False), path)
        except tarfile.FilterError as error:
            _warn(point, context, f"{member.name} was left out: {error}.")
            return None

    if not hasattr(tarfile, "data_filter"):
        raise RestoreFailed(
            "Single files cannot be taken out safely with this Python: it is older than 3.11.4.",
            hint="Restore the whole tar with `vmconsole restore POINT --to DIR/`, or use a newer Python.",
        )
    stream = _Pieces(_bytes_of(taken, source))
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK * 128) as tar:
        tar.extractall(aside, filter=keep)  # noqa: S202 - that is what the filter is for


def _warn(point: RestorePoint, context: Context, message: str) -> None:
    context.events(Warned(context.run, point.guest, message))


def _bytes_of(taken: Sequence[Taken], source: DiskReader) -> Iterator[bytes]:
    """A tar of these members alone."""
    for item in taken:
        position = int(item.member.get("start", 0))
        while position < item.end:
            data = source.read_at(position, min(_PIECE, item.end - position))
            if not data:
                raise RestoreFailed(
                    f"The tar ends at {position}, before {item.path} does.", subject=item.path
                )
            yield data
            position += len(data)
    yield _END


class _Pieces(io.RawIOBase):
    """What tarfile reads from: it asks for so many bytes, and takes fewer for the end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, got = [], 0
        while size < 0 or got < size:
            piece = self._rest or next(self._pieces, b"")
            self._rest = b""
            if not piece:
                break
            parts.append(piece)
            got += len(piece)
        joined = b"".join(parts)
        if 0 <= size < len(joined):
            joined, self._rest = joined[:size], joined[size:]
        return joined
