"""A container's files as GuestFiles: from the index that was made when its tar was stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vmconsole.errors import FilesUnreadable, PathNotFound
from vmconsole.interfaces import RepositoryReader
from vmconsole.model.files import FileEntry, FileKind, Volume
from vmconsole.model.point import TAR, RestorePoint
from vmconsole.runs.feed import INDEX
from vmconsole.runs.tarindex import clean, read_index

_KINDS = {
    "dir": FileKind.FOLDER, "file": FileKind.FILE, "hardlink": FileKind.FILE, "symlink": FileKind.LINK,
    "char": FileKind.DEVICE, "block": FileKind.DEVICE, "fifo": FileKind.PIPE,
}  # fmt: skip
_PIECE = 1024 * 1024
_MOST_LINKS = 40


class TarFiles:
    """The only volume is `rootfs`. Links are followed within the container."""

    def __init__(self, point: RestorePoint, reader: RepositoryReader) -> None:
        """Raises PointNotFound when the point has no index, as one made by an older version."""
        tar = next(disk for disk in point.stored_disks if disk.format == TAR)
        self._source = reader.open_disk(point.archive, tar.path)
        index = reader.open_disk(point.archive, INDEX)
        self._folders: dict[str, dict[str, Mapping[str, Any]]] = {"": {}}
        self._members: dict[str, Mapping[str, Any]] = {"": {"type": "dir"}}
        for member in read_index(index.read_at(0, index.size)):
            self._add(clean(str(member["path"])), member)
        self.volumes: Sequence[Volume] = (
            Volume("rootfs", tar.id, "tar", tar.size, readable=True, mounted="/"),
        )

    def _add(self, path: str, member: Mapping[str, Any]) -> None:
        self._members[path] = member
        while path:
            above, _, name = path.rpartition("/")
            inside = self._folders.setdefault(above, {})
            known = name in inside
            inside[name] = self._members.setdefault(path, {"type": "dir"})
            if known:
                return
            path = above

    def entry(self, volume: str, path: str, *, follow: bool = False) -> FileEntry:
        found = self._resolve(path, follow=follow)
        return self._entry(found.rpartition("/")[2] or "/", found)

    def entries(self, volume: str, path: str) -> Iterator[FileEntry]:
        found = self._resolve(path, follow=True)
        if _kind(self._members[found]) is not FileKind.FOLDER:
            raise PathNotFound(f"{path} is not a folder.", subject=path)
        for name in self._folders.get(found, {}):
            yield self._entry(name, f"{found}/{name}".lstrip("/"))

    def read(self, volume: str, path: str, offset: int, length: int) -> Iterator[bytes]:
        member = self._file(path)
        end = min(int(member.get("size", 0)), offset + length)
        place = int(member["data"])
        while offset < end:
            piece = self._source.read_at(place + offset, min(_PIECE, end - offset))
            if not piece:
                raise FilesUnreadable(f"{path} cannot be read: the tar ends before it does.", subject=path)
            yield piece
            offset += len(piece)

    def _file(self, path: str) -> Mapping[str, Any]:
        member = self._members[self._resolve(path, follow=True)]
        if member.get("type") == "hardlink":
            member = self._members[self._resolve("/" + clean(str(member.get("link", ""))), follow=True)]
        if _kind(member) is not FileKind.FILE or "data" not in member:
            raise FilesUnreadable(f"{path} is not a file.", subject=path)
        if member.get("sparse"):
            raise FilesUnreadable(
                f"{path} is stored with its holes left out, which is not read piece by piece.",
                hint="Take it out instead: vmconsole get",
                subject=path,
            )
        return member

    def _entry(self, name: str, path: str) -> FileEntry:
        member = self._members[path]
        kind = _kind(member)
        known = bool(member.get("path"))
        size = int(member.get("size", 0))
        identity = path
        if member.get("type") == "hardlink":
            identity = clean(str(member.get("link", "")))
            size = int(self._members.get(identity, {}).get("size", 0))
        return FileEntry(
            name, kind, size if kind is FileKind.FILE else 0,
            changed=float(member["mtime"]) if "mtime" in member else None,
            mode=int(member.get("mode", 0)) & 0o7777 if known else None,
            owner=int(member.get("uid", 0)) if known else None,
            group=int(member.get("gid", 0)) if known else None,
            target=str(member.get("link", "")) if kind is FileKind.LINK else "",
            identity=identity,
            links=2 if member.get("type") == "hardlink" else 1,
        )  # fmt: skip

    def _resolve(self, path: str, *, follow: bool) -> str:
        """The member's path. Raises PathNotFound."""
        steps, way, links = _parts(path), list[str](), 0
        while steps:
            name = steps.pop(0)
            if name == "..":
                way = way[:-1]
                continue
            here = "/".join([*way, name])
            member = self._members.get(here)
            if member is None:
                raise PathNotFound(f"There is no /{here}.", subject=path)
            if _kind(member) is FileKind.LINK and (steps or follow):
                links += 1
                if links > _MOST_LINKS:
                    raise PathNotFound(f"/{here} is a link that leads nowhere.", subject=path)
                target = str(member.get("link", ""))
                way = [] if target.startswith("/") else way
                steps = _parts(target) + steps
                continue
            way.append(name)
        return "/".join(way)


def _kind(member: Mapping[str, Any]) -> FileKind:
    return _KINDS.get(str(member.get("type")), FileKind.OTHER)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
