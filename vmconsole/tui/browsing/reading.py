"""Reading a restore point. Opens the repository and takes a while: not for the screen's thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmconsole.errors import PointNotFound
from vmconsole.front.inside import why_unreadable
from vmconsole.front.services import Services
from vmconsole.interfaces import RepositoryReader
from vmconsole.model.point import TAR, RestorePoint
from vmconsole.runs.feed import INDEX
from vmconsole.runs.looking import LOCK_PATIENCE, live_marks
from vmconsole.runs.tarindex import read_index
from vmconsole.tui.browsing.session import Session
from vmconsole.tui.browsing.tree import Entry, Tree, add_volumes, make_tree

MAX_SHOWN = 256 * 1024
"""Bytes of a guest's file that are shown."""


@dataclass(frozen=True, slots=True)
class Opened:
    """doubt: why the guest's files are not shown; empty when they are, or are still to be looked for."""

    point: RestorePoint
    tree: Tree
    doubt: str = ""


def newest_point(services: Services, guest: str, repository: str) -> RestorePoint:
    """guest: its uuid. Pruned points do not count. Raises PointNotFound, VmconsoleError."""
    points = [point for point in services.store.points(repository) if point.uuid == guest]
    marks = live_marks(services.ledger.marks(repository), points)
    for point in points:
        if point.archive not in marks:
            return point
    raise PointNotFound(
        f"Repository {repository} has no restore point of this guest any more.",
        hint="Read it again with: vmconsole points",
    )


def open_point(services: Services, point: RestorePoint, repository: str) -> Opened:
    """Raises VmconsoleError; RepositoryLocked after some seconds."""
    with services.repository(repository).reader(wait=LOCK_PATIENCE) as reader:
        files = reader.files(point.archive)
        if not any(disk.format == TAR for disk in point.stored_disks):
            return Opened(point, make_tree(point, files, ()))
        try:
            return Opened(point, make_tree(point, files, _members(reader, point)))
        except PointNotFound:
            doubt = "This restore point has no index of its files, as one made by an older version."
            return Opened(point, make_tree(point, files, ()), doubt)


def read_file(services: Services, point: RestorePoint, repository: str, entry: Entry) -> bytes:
    """The content of a container's file that is not sparse, at most MAX_SHOWN bytes. Raises VmconsoleError."""
    tar = next(disk for disk in point.stored_disks if disk.format == TAR)
    with services.repository(repository).reader(wait=LOCK_PATIENCE) as reader:
        source = reader.open_disk(point.archive, tar.path)
        return source.read_at(int(entry.member["data"]), min(entry.size, MAX_SHOWN))


def open_disks(session: Session, tree: Tree) -> str:
    """Add what a virtual machine's disks hold. Returns what is wrong with it, in sentences. Raises VmconsoleError."""
    volumes = session.volumes()
    add_volumes(tree, volumes)
    if any(one.readable for one in volumes):
        return " ".join(f"{one.name}: {one.note}" for one in volumes if one.readable and one.note)
    told = " ".join(f"{one.name}: {why_unreadable(one)}" for one in volumes)
    return f"Its disks hold no files that can be read here. {told}"


def _members(reader: RepositoryReader, point: RestorePoint) -> Iterator[Mapping[str, Any]]:
    index = reader.open_disk(point.archive, INDEX)
    return read_index(index.read_at(0, index.size))
