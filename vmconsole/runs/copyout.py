"""Files and folders out of a virtual machine's disks: into a folder of this machine, or as a tar.

All names come from a guest. A folder is made as a new one beside its final place; nothing in it is ever followed or
overwritten, so that a name that comes twice, once as a link and once as a folder, leads nowhere.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from vmconsole.errors import FilesUnreadable, PathNotFound, RestoreFailed, UsageError
from vmconsole.events import Restored, Warned, step
from vmconsole.interfaces import Context, GuestFiles
from vmconsole.model.files import FileEntry, FileKind
from vmconsole.model.point import RestorePoint
from vmconsole.runs.takeout import refuse_existing

_PIECE = 1024 * 1024
_DEEPEST = 200
"""Folders in each other; a hostile file system can be endless."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """volume: empty for the guest's own tree. path: with a slash first."""

    volume: str
    path: str


@dataclass(frozen=True, slots=True)
class Item:
    """to: below the destination. source: in the guest."""

    to: str
    volume: str
    source: str
    entry: FileEntry


def choose(files: GuestFiles, chosen: Sequence[Chosen]) -> list[Item]:
    """What was named, each under its own name. Raises PathNotFound, UsageError, FilesUnreadable."""
    found: list[Item] = []
    for one in chosen:
        path = "/" + one.path.strip("/")
        name = path.rpartition("/")[2]
        # The last link is the file that is wanted; of a folder that is named with a slash, what it leads to.
        entry = files.entry(one.volume, path, follow=one.path.endswith("/"))
        found.append(Item(name or one.volume or "root", one.volume, path, replace(entry, name=name or "/")))
    names = [item.to for item in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"These would come to lie in each other's way: {', '.join(twice)}.",
            hint="Take them out one by one.",
        )
    return found


def everything(files: GuestFiles, items: Iterable[Item], warn: Callable[[str], None]) -> Iterator[Item]:
    """The items with all that is in them, folders before what they hold. Names no folder here can hold are left out."""
    stack = list(items)[::-1]
    while stack:
        item = stack.pop()
        yield item
        if item.entry.kind is not FileKind.FOLDER:
            continue
        if item.to.count("/") >= _DEEPEST:
            warn(f"{item.source} is too deep; what is in it was left out.")
            continue
        try:
            inside = sorted(
                files.entries(item.volume, item.source), key=lambda entry: entry.name, reverse=True
            )
        except (FilesUnreadable, PathNotFound) as error:
            warn(f"{item.source} was left out: {error.message}")
            continue
        seen: set[str] = set()
        for entry in inside:
            if entry.name in ("", ".", "..") or "/" in entry.name or "\0" in entry.name or entry.name in seen:
                warn(f"A name in {item.source} cannot be: {entry.name!r} was left out.")
                continue
            seen.add(entry.name)
            source = f"{item.source.rstrip('/')}/{entry.name}"
            stack.append(Item(f"{item.to}/{entry.name}", item.volume, source, entry))


def copy_out(
    point: RestorePoint, files: GuestFiles, items: Sequence[Item], folder: Path, context: Context
) -> None:
    """Write the items into the folder, which must be there. What failed or was stopped leaves nothing."""
    began = context.clock.monotonic()
    places = [folder / item.to for item in items]
    refuse_existing(places)
    with step(context.events, context.run, point.guest, "take out"):
        aside = Path(tempfile.mkdtemp(prefix=".vmconsole-", dir=folder))
        try:
            writer = _Folder(point, files, aside, context)
            for item in everything(files, items, writer.warn):
                context.cancel.check()
                writer.add(item)
            writer.finish()
            context.cancel.check()
            refuse_existing(places)
            for place in places:
                if os.path.lexists(aside / place.name):
                    os.rename(aside / place.name, place)  # noqa: PTH104 - Path.rename() is the same
        except OSError as error:
            raise RestoreFailed(
                f"The files could not be written to {folder}: {error.strerror or error}.", subject=str(folder)
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    seconds = context.clock.monotonic() - began
    context.events(Restored(context.run, point.archive, str(folder), writer.written, seconds))


class _Folder:
    """Writes items below a new folder that is ours alone."""

    def __init__(self, point: RestorePoint, files: GuestFiles, top: Path, context: Context) -> None:
        self._point, self._files, self._top, self._context = point, files, top, context
        self._made: dict[tuple[str, str], Path] = {}
        self._folders: list[tuple[Path, FileEntry]] = []
        self._skipped: set[str] = set()
        self.written = 0

    def warn(self, message: str) -> None:
        self._context.events(Warned(self._context.run, self._point.guest, message))

    def add(self, item: Item) -> None:
        parent = item.to.rpartition("/")[0]
        if parent in self._skipped:
            self._skipped.add(item.to)
            return
        place = self._top / item.to
        try:
            if item.entry.kind is FileKind.FOLDER:
                place.mkdir(mode=0o700)
                self._folders.append((place, item.entry))
            elif item.entry.kind is FileKind.FILE:
                self._file(item, place)
            elif item.entry.kind is FileKind.LINK:
                self._link(item, place)
            else:
                self.warn(f"{item.source} was left out: it is a {item.entry.kind.value}.")
        except FilesUnreadable as error:
            place.unlink(missing_ok=True)
            self.warn(f"{item.source} was left out: {error.message}")
        except FileExistsError:
            self._skipped.add(item.to)
            self.warn(f"{item.source} was left out: two names are the same here.")
        except OSError as error:
            if error.errno not in _NAME_ERRORS:
                raise
            self._skipped.add(item.to)
            self.warn(f"{item.source} was left out: {error.strerror}.")

    def _file(self, item: Item, place: Path) -> None:
        key = (item.volume, item.entry.identity)
        if item.entry.links > 1 and item.entry.identity and key in self._made:
            os.link(self._made[key], place, follow_symlinks=False)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(place, flags, 0o600), "wb") as file:
            for piece in self._files.read(item.volume, item.source, 0, item.entry.size):
                self._context.cancel.check()
                if piece.count(0) == len(piece):
                    file.seek(len(piece), os.SEEK_CUR)
                else:
                    file.write(piece)
                self.written += len(piece)
            file.truncate(item.entry.size)
            _dress(file.fileno(), item.entry)
        self._made[key] = place

    def _link(self, item: Item, place: Path) -> None:
        """Only where it stays within what is taken out with it: others would lead somewhere else here."""
        target = item.entry.target
        top = len(PurePosixPath(item.to).parts) - 1
        depth = top
        for part in PurePosixPath(target).parts:
            depth += -1 if part == ".." else 1
            if part == "/" or depth < 1:
                self.warn(f"{item.source} was left out: it is a link to {target}, which is outside.")
                return
        place.symlink_to(target)

    def finish(self) -> None:
        """Modes and times of folders, the innermost first: they change while something is put into them."""
        for place, entry in reversed(self._folders):
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _dress(descriptor, replace(entry, mode=None if entry.mode is None else entry.mode | 0o700))
            finally:
                os.close(descriptor)


_NAME_ERRORS = {36, 22, 84}
"""ENAMETOOLONG, EINVAL, EILSEQ: what a name can be that is none here."""


def _dress(descriptor: int, entry: FileEntry) -> None:
    """Permissions without set-user-id and the like, for the files belong to whoever takes them out; and the time."""
    if entry.mode is not None:
        os.fchmod(descriptor, entry.mode & 0o777)
    if entry.changed is not None and abs(entry.changed) < 2**40:
        moment = int(entry.changed * 10**9)
        os.utime(descriptor, ns=(moment, moment))


class _Sink:
    """What tarfile writes to."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def write(self, content: bytes) -> int:
        self._put(bytes(content))
        return len(content)


def as_tar(
    files: GuestFiles, items: Sequence[Item], put: Callable[[bytes], None], warn: Callable[[str], None]
) -> None:
    """A tar with modes, owners, times and links as the guest has them. put: takes its bytes, in order."""
    made: dict[tuple[str, str], str] = {}
    sink = _Sink(put)
    with tarfile.open(fileobj=cast("BinaryIO", sink), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for item in everything(files, items, warn):
            member = _member(item, made)
            if member is None:
                warn(f"{item.source} was left out: it is a {item.entry.kind.value}.")
            elif member.isreg() and member.size:
                tar.addfile(member, cast("BinaryIO", _Reading(files, item, warn)))
            else:
                tar.addfile(member)


def _member(item: Item, made: dict[tuple[str, str], str]) -> tarfile.TarInfo | None:
    entry = item.entry
    member = tarfile.TarInfo(item.to)
    member.mode = entry.mode if entry.mode is not None else 0o755 if entry.kind is FileKind.FOLDER else 0o644
    member.uid, member.gid = entry.owner or 0, entry.group or 0
    member.mtime = entry.changed or 0
    kinds = {FileKind.FOLDER: tarfile.DIRTYPE, FileKind.LINK: tarfile.SYMTYPE, FileKind.FILE: tarfile.REGTYPE}
    kinds[FileKind.PIPE] = tarfile.FIFOTYPE
    if entry.kind not in kinds:
        return None
    member.type = kinds[entry.kind]
    if entry.kind is FileKind.LINK:
        member.linkname = entry.target
    if entry.kind is FileKind.FILE:
        key = (item.volume, entry.identity)
        if entry.links > 1 and entry.identity and key in made:
            member.type, member.linkname = tarfile.LNKTYPE, made[key]
        else:
            member.size = entry.size
            made[key] = item.to
    return member


class _Reading:
    """A file's bytes as tarfile asks for them; what cannot be read is zeros, and said."""

    def __init__(self, files: GuestFiles, item: Item, warn: Callable[[str], None]) -> None:
        self._pieces = self._all(files, item, warn)
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size:
            self._rest += next(self._pieces)
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    @staticmethod
    def _all(files: GuestFiles, item: Item, warn: Callable[[str], None]) -> Iterator[bytes]:
        left = item.entry.size
        try:
            for piece in files.read(item.volume, item.source, 0, left):
                yield piece
                left -= len(piece)
        except FilesUnreadable as error:
            warn(f"The end of {item.source} is missing, zeros stand in its place: {error.message}")
        while True:
            yield bytes(min(max(left, 1), _PIECE))
            left -= _PIECE
