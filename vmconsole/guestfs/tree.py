"""The guest's own tree: its root, and on it what its fstab mounts where."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from vmconsole.guestfs.device import Stream
from vmconsole.guestfs.filesystems.node import FileSystem
from vmconsole.guestfs.volumes import Found
from vmconsole.model.files import FileKind, Volume

_MOST_LINKS = 40
"""Symbolic links on one way, as in the kernel."""
_FOLDERS_KEPT = 32
_NAMES_KEPT = 30_000
"""Of one folder; whoever looks for a later one has it read through."""
_LARGEST_FSTAB = 256 * 1024
_SUBVOLUMES = ("", "@", "@rootfs", "root")
"""Where distributions put the root within btrfs."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file, folder or anything else, in a file system; or the top that holds the volumes (fs is None)."""

    fs: FileSystem | None
    node: Any = None

    def facts(self) -> dict[str, Any]:
        return {"kind": FileKind.FOLDER.value} if self.fs is None else self.fs.facts(self.node)


class Missing(LookupError):
    """There is no such path. The message is the part of the path that is not there."""


class NotAFolder(LookupError):
    """The message is the path."""


class _Folders:
    """The names in the folders that ways led through last: who reads a folder file by file asks for each of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Any, dict[str, Any]]] = OrderedDict()

    def child(self, fs: FileSystem, node: Any, name: str) -> Any | None:
        known = self._kept.get(id(node))
        if known is None:
            known = node, self._read(fs, node)
            self._kept[id(node)] = known  # With the node: a number is only its own while it lives.
            if len(self._kept) > _FOLDERS_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(id(node))
        names = known[1]
        if name in names:
            return names[name]
        found = _scan(fs, node, name) if len(names) >= _NAMES_KEPT else None
        if found is None and fs.folds:
            return next(
                (child for other, child in names.items() if other.casefold() == name.casefold()), None
            )
        return found

    @staticmethod
    def _read(fs: FileSystem, node: Any) -> dict[str, Any]:
        return dict(islice(fs.children(node), _NAMES_KEPT))


def _scan(fs: FileSystem, node: Any, name: str) -> Any | None:
    return next((child for found, child in fs.children(node) if found == name), None)


class Tree:
    """Paths begin with a slash. Links are followed within the guest's tree, as a program in the guest would."""

    def __init__(self, found: Sequence[Found]) -> None:
        self._found = list(found)
        self._folders = _Folders()
        self._mounts = _mounts(self._found)

    def volumes(self) -> list[Volume]:
        where = {id(place.fs): path for path, (place, _) in reversed(self._mounts.items())}
        return [
            replace(found.volume, mounted=where.get(id(found.opened), "") if found.opened else "")
            for found in self._found
        ]

    def at(self, volume: str, path: str, *, follow: bool = False) -> Place:
        """volume: empty for the guest's own tree. follow: also a link that the path ends in.

        Raises Missing, NotAFolder, and anything that a broken file system may break.
        """
        walk = self._of(volume)
        return walk.to(path, follow=follow)

    def children(self, volume: str, path: str) -> Iterator[tuple[str, Place]]:
        """What is in a folder; a link to a folder is followed."""
        walk = self._of(volume)
        place = walk.to(path, follow=True)
        if place.facts()["kind"] != FileKind.FOLDER:
            raise NotAFolder(path)
        yield from walk.inside(place)

    def _of(self, volume: str) -> _Walk:
        if volume:
            for found in self._found:
                if found.volume.name == volume and found.opened is not None:
                    return _Walk(
                        {"/": (Place(found.opened, found.opened.root), found.volume.name)}, self._folders
                    )
            raise Missing(volume)
        if "/" in self._mounts:
            return _Walk(self._mounts, self._folders)
        tops = {f"/{found.volume.name}": found for found in self._found if found.opened is not None}
        mounts = {
            path: (Place(found.opened, found.opened.root), found.volume.name)
            for path, found in tops.items()
            if found.opened
        }
        return _Walk({"/": (Place(None), ""), **mounts}, self._folders)


class _Walk:
    def __init__(self, mounts: dict[str, tuple[Place, str]], folders: _Folders | None = None) -> None:
        self._folders = folders or _Folders()
        self._mounts = {path: place for path, (place, _) in mounts.items()}
        self._names: dict[int, str] = {id(place): path for path, place in self._mounts.items()}

    def to(self, path: str, *, follow: bool) -> Place:
        steps = _parts(path)
        way: list[tuple[str, Place]] = []
        links = 0
        while steps:
            name = steps.pop(0)
            if name == "..":
                if way:
                    way.pop()
                continue
            place = self._child(way, name)
            facts = place.facts() if place.fs else {"kind": FileKind.FOLDER}
            if facts["kind"] == FileKind.LINK and (steps or follow):
                links += 1
                if links > _MOST_LINKS:
                    raise Missing(self._path([*way, (name, place)]))
                target = str(facts.get("target", ""))
                if target.startswith("/"):
                    way = []
                steps = _parts(target) + steps
                continue
            if steps and facts["kind"] != FileKind.FOLDER:
                raise NotAFolder(self._path([*way, (name, place)]))
            way.append((name, place))
        return way[-1][1] if way else self._mounts["/"]

    def inside(self, place: Place) -> Iterator[tuple[str, Place]]:
        here = self._names.get(id(place))
        mounted = self._mounted_in(here) if here is not None else {}
        if place.fs is not None:
            for name, node in place.fs.children(place.node):
                yield name, mounted.pop(name) if name in mounted else Place(place.fs, node)
        yield from mounted.items()

    def _mounted_in(self, path: str) -> dict[str, Place]:
        above = path.rstrip("/")
        return {
            at[len(above) + 1 :]: place
            for at, place in self._mounts.items()
            if at != "/" and at.startswith(f"{above}/") and "/" not in at[len(above) + 1 :]
        }

    def _child(self, way: list[tuple[str, Place]], name: str) -> Place:
        above = way[-1][1] if way else self._mounts["/"]
        path = self._path(way)
        mounted = self._mounts.get(f"{path.rstrip('/')}/{name}")
        if mounted is not None:
            return mounted
        if above.fs is None:
            raise Missing(f"{path.rstrip('/')}/{name}")
        node = self._folders.child(above.fs, above.node, name)
        if node is None:
            raise Missing(f"{path.rstrip('/')}/{name}")
        return Place(above.fs, node)

    @staticmethod
    def _path(way: list[tuple[str, Place]]) -> str:
        return "/" + "/".join(name for name, _ in way)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _mounts(found: Sequence[Found]) -> dict[str, tuple[Place, str]]:
    """Path to the place that is mounted there and the volume's name; without `/` where no root was found."""
    root = _root(found)
    if root is None:
        readable = [one for one in found if one.opened is not None]
        systems = [
            one for one in readable if one.opened and (_has(one.opened, "windows") or _has(one.opened, "etc"))
        ]
        only = systems if len(systems) == 1 else readable
        if len(only) == 1 and only[0].opened is not None:
            return {"/": (Place(only[0].opened, only[0].opened.root), only[0].volume.name)}
        return {}
    top, name, fstab = root
    mounts = {"/": (top, name)}
    for device, path, options in _lines(fstab):
        if path == "/" or not path.startswith("/"):
            continue
        one = _by_device(found, device)
        if one is not None and one.opened is not None:
            place = _subvolume(one.opened, options)
            if place is not None:
                mounts["/" + "/".join(_parts(path))] = (place, one.volume.name)
    return mounts


def _root(found: Sequence[Found]) -> tuple[Place, str, str] | None:
    """The first volume that has an fstab, and what is in it."""
    for one in found:
        if one.opened is None or one.opened.folds:
            continue
        for subvolume in _SUBVOLUMES if one.opened.kind == "btrfs" else ("",):
            try:
                walk = _Walk({"/": (Place(one.opened, one.opened.root), "")})
                top = walk.to(subvolume, follow=True)
                inside = _Walk({"/": (top, "")})
                fstab = inside.to("/etc/fstab", follow=True)
                if fstab.facts()["kind"] == FileKind.FILE:
                    return top, one.volume.name, _text(one.opened.open(fstab.node))
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001, S112 - no root here, whatever the reason
                continue
    return None


def _text(stream: Stream) -> str:
    return stream.read_at(0, min(stream.size, _LARGEST_FSTAB)).decode("utf-8", "replace")


def _lines(fstab: str) -> Iterator[tuple[str, str, str]]:
    """Device, path and options; spaces in them are written as octal numbers, fstab(5)."""
    for line in fstab.splitlines():
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#"):
            device, path = (
                re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word) for word in words[:2]
            )
            yield device, path, words[3] if len(words) > 3 else ""


def _by_device(found: Sequence[Found], device: str) -> Found | None:
    word, _, value = device.partition("=")
    value = value.strip('"')
    wanted = f"{word}={value.lower() if 'UUID' in word else value}" if value else device
    for one in found:
        if wanted in one.ids:
            return one
    return _by_place(found, device)


def _by_place(found: Sequence[Found], device: str) -> Found | None:
    """/dev/vdb2 is the second partition of the second disk, whatever the host calls that."""
    match = re.fullmatch(r"/dev/(?:[vsh]|xv)d([a-z])(\d*)", device)
    if match is None:
        return None
    disks = list(dict.fromkeys(one.volume.disk for one in found))
    number = ord(match[1]) - ord("a")
    if number >= len(disks):
        return None
    disk = disks[number]
    wanted = disk + (f"p{match[2]}" if match[2] and disk[-1:].isdigit() else match[2])
    return next((one for one in found if one.volume.name == wanted), None)


def _subvolume(fs: FileSystem, options: str) -> Place | None:
    top = Place(fs, fs.root)
    if fs.kind != "btrfs":
        return top
    named = re.search(r"(?:^|,)subvol=([^,]*)", options)
    try:
        path = named[1] if named else str(getattr(fs, "default", ""))
        return _Walk({"/": (top, "")}).to(path, follow=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - hostile contents
        return None


def _has(fs: FileSystem, name: str) -> bool:
    try:
        return any(found.casefold() == name for found, _ in fs.children(fs.root))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - hostile contents
        return False
