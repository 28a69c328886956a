"""The archives of an open repository, and the restore points among them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from borg.item import ArchiveItem

from vmconsole.borg.engine.access import BATCH, Access
from vmconsole.borg.engine.chunks import ChunkList
from vmconsole.borg.engine.items import Member, find, members
from vmconsole.borg.engine.translate import translated
from vmconsole.borg.pinlist import is_pinlist
from vmconsole.errors import PointNotFound, RepositoryDamaged
from vmconsole.model.point import GUEST_JSON, RestorePoint

_log = logging.getLogger("vmconsole.borg")

CHECKPOINT = ".checkpoint"
"""Borg's own suffix for archives of unfinished work; `borg list` hides them, `borg prune` removes them."""
DISKS = "disks/"
DATA = ("container/", DISKS)
"""Where the guest's own data is, in the order in which it is stored."""
MAX_FILE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive's own record. items: the chunks of its member list."""

    name: str
    id: bytes
    items: Sequence[bytes]
    comment: str


def archive_ids(access: Access) -> dict[str, bytes]:
    """Name to id of every archive, checkpoints among them."""
    with access.locked():
        return {info.name: bytes(info.id) for info in access.manifest.archives.list()}


def load(access: Access, name: str) -> Archive:
    """Raises PointNotFound."""
    ids = archive_ids(access)
    if name not in ids:
        raise PointNotFound(
            f"Repository {access.settings.name} has no archive {name}.",
            hint="See what is there: vmconsole points",
            subject=name,
        )
    return load_many(access, {name: ids[name]})[0]


def load_many(access: Access, ids: dict[str, bytes]) -> list[Archive]:
    names, wanted = list(ids), list(ids.values())
    return [_parse(access, *each) for each in zip(names, wanted, access.fetch(wanted), strict=True)]


def _parse(access: Access, name: str, id_: bytes, data: bytes) -> Archive:
    with translated(access.settings):
        # As Borg's own archive listing: archives older than authentication may be read.
        document, _, _ = access.key.unpack_and_verify_archive(data, force_tam_not_required=True)
        record = ArchiveItem(internal_dict=document)
        if record.version != 1:
            raise RepositoryDamaged(f"Archive {name} has an unknown version.", subject=name)
        return Archive(name, id_, record.items, record.get("comment", ""))


def points(
    access: Access,
    warn: Callable[[str], None] = _log.warning,
    known: dict[bytes, RestorePoint | None] | None = None,
) -> list[RestorePoint]:
    """Every restore point, newest first. Foreign archives are skipped; unreadable ones are warned about.

    Three small objects are read per archive, asked for in batches: its record, the first piece of
    its member list (guest.json comes first), and guest.json. known: what was found before, by
    archive id, and is not read again; None for an archive that is no point. It is added to, and may be
    shared by threads.
    """
    found = {} if known is None else known
    ids = {
        name: id_
        for name, id_ in archive_ids(access).items()
        if not name.endswith(CHECKPOINT) and not is_pinlist(name)
    }
    names = [name for name, id_ in ids.items() if id_ not in found]
    for start in range(0, len(names), BATCH):
        archives = load_many(access, {name: ids[name] for name in names[start : start + BATCH]})
        made = {bytes.fromhex(point.archive_id): point for point in _points(access, archives, warn)}
        # At once: who looks meanwhile, from another thread, must not take a point for none.
        found.update({archive.id: made.get(archive.id) for archive in archives})
    listed = [point for id_ in ids.values() if (point := found[id_]) is not None]
    return sorted(listed, key=lambda point: (point.time, point.archive), reverse=True)


def _points(access: Access, archives: list[Archive], warn: Callable[[str], None]) -> list[RestorePoint]:
    firsts = [archive for archive in archives if archive.items]
    pieces = access.fetch([archive.items[0] for archive in firsts])
    candidates: list[tuple[Archive, ChunkList]] = []
    for archive, piece in zip(firsts, pieces, strict=True):
        chunks = _guest_json(access, archive, piece)
        if chunks is not None:
            candidates.append((archive, chunks))
    flat = [chunks.id_at(index) for _, chunks in candidates for index in range(chunks.count)]
    contents = iter(access.fetch(flat))
    made = []
    for archive, chunks in candidates:
        data = b"".join(next(contents) for _ in range(chunks.count))
        try:
            made.append(point_of(archive, data))
        except RepositoryDamaged as error:
            warn(f"Archive {archive.name} is left out: {error.message}")
    return made


def _guest_json(access: Access, archive: Archive, piece: bytes) -> ChunkList | None:
    """The chunks of guest.json when it is the first member; piece: the first item chunk, read already."""

    def fetch(ids: Sequence[bytes]) -> list[bytes]:
        return [piece if id_ == archive.items[0] else access.fetch([id_])[0] for id_ in ids]

    try:
        first = next(members(fetch, archive.items, GUEST_JSON.__eq__), None)
    except RepositoryDamaged:
        return None
    if first is None or first.path != GUEST_JSON or first.chunks is None or first.chunks.size > MAX_FILE:
        return None
    return first.chunks


def point_of(archive: Archive, data: bytes) -> RestorePoint:
    """guest.json as a restore point. Raises RepositoryDamaged. The archive's present name counts."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RepositoryDamaged(f"guest.json of {archive.name} is not JSON.", subject=archive.name) from error
    point = RestorePoint.from_json(document, archive_id=archive.id.hex())
    if point.time.tzinfo is None:
        raise RepositoryDamaged(
            f"guest.json of {archive.name} has a time without zone.", subject=archive.name
        )
    return replace(point, archive=archive.name)


def disk(access: Access, archive_name: str, path: str) -> ChunkList:
    """The chunk list of a member. Raises PointNotFound, RepositoryDamaged."""
    archive = load(access, archive_name)
    member: Member | None = find(access.fetch, archive.items, path)
    if member is None:
        raise PointNotFound(f"Archive {archive_name} has no member {path}.", subject=archive_name)
    if member.damaged:
        raise RepositoryDamaged(
            f"{path} in archive {archive_name} lost data: a repair put zeros in its place.",
            hint="Use another restore point; `borg extract` still gives what is left of this one.",
            subject=archive_name,
        )
    return member.chunks if member.chunks is not None else ChunkList(bytearray(), 0, 0)


def files(access: Access, archive_name: str) -> dict[str, bytes]:
    """The members that are not the guest's data: what is below `disks/`, or larger than 64 MiB, is.

    Raises PointNotFound, RepositoryDamaged.
    """
    archive = load(access, archive_name)
    found: dict[str, bytes] = {}
    for member in members(access.fetch, archive.items, lambda path: not path.startswith(DATA)):
        if member.path.startswith(DISKS):
            break  # Nothing but disks follows in ours, and their lists are long.
        if member.path.startswith(DATA):
            continue
        chunks = member.chunks or ChunkList(bytearray(), 0, 0)
        if chunks.size > MAX_FILE:
            continue
        found[member.path] = b"".join(
            piece
            for start in range(0, chunks.count, BATCH)
            for piece in access.fetch(
                [chunks.id_at(i) for i in range(start, min(start + BATCH, chunks.count))]
            )
        )
    return found
