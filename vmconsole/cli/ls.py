"""List the files in a restore point, without restoring it.

  vmconsole ls web-01@latest          its volumes: partitions, logical volumes
  vmconsole ls web-01@latest:/etc     a folder, as the guest itself has it
  vmconsole ls web-01@-2:vda1:/       a folder of one volume

Volumes that the guest's fstab mounts are in its tree, too. Nothing is mounted
here, and no root is needed: the disks are read from the repository, by a
process that can do nothing else.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import choose_point, seen_points
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE
from vmconsole.front.inside import Where, check_volume, open_inside, where, why_unreadable
from vmconsole.front.services import Services
from vmconsole.interfaces import GuestFiles
from vmconsole.model.files import FileEntry, FileKind, Volume
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import LOCK_PATIENCE

HELP = "list the files in a restore point"

_LETTERS = {
    FileKind.FOLDER: "d", FileKind.FILE: "-", FileKind.LINK: "l", FileKind.DEVICE: "b",
    FileKind.PIPE: "p", FileKind.SOCKET: "s",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place",
        metavar="POINT[:VOLUME][:PATH]",
        help="archive name, GUEST@latest, GUEST@2026-11-22, GUEST@-2",
    )
    parser.add_argument("--repository", "-r", metavar="NAME", help="look in this repository only")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    wanted = where(args.place)
    found = choose_point(wanted.point, seen_points(services, output, args.repository), output)
    repository = services.repository(found.repository)
    with (
        output.busy(f"Reading {found.point.archive} …"),
        repository.reader(wait=LOCK_PATIENCE) as reader,
        open_inside(services, found.point, reader) as files,
    ):
        if not wanted.path and not wanted.volume:
            volumes, entries = list(files.volumes), None
        else:
            check_volume(files, wanted)
            volumes, entries = list(files.volumes), listing(files, wanted)
    if entries is None:
        _show_volumes(found.point, volumes, output)
    else:
        _show(found.point, wanted, entries, output)
        _tell(wanted, volumes, output)
    return EXIT_DONE


def listing(files: GuestFiles, wanted: Where) -> list[FileEntry]:
    """What is in a folder, folders first; of anything else, that alone."""
    path = wanted.path or "/"
    entry = files.entry(wanted.volume, path, follow=path.endswith("/"))
    if entry.kind is FileKind.LINK:
        target = files.entry(wanted.volume, path, follow=True)
        entry = target if target.kind is FileKind.FOLDER else entry
    if entry.kind is not FileKind.FOLDER:
        return [entry]
    found = list(files.entries(wanted.volume, path))
    return sorted(found, key=lambda one: (one.kind is not FileKind.FOLDER, one.name))


def entry_document(entry: FileEntry) -> dict[str, Any]:
    """As `ls --json` gives it. Letters of a name that are no letters are escapes (PEP 383)."""
    document: dict[str, Any] = {"name": entry.name, "kind": entry.kind.value, "size": entry.size}
    document["changed"] = _moment(entry)
    document |= {"mode": entry.mode, "owner": entry.owner, "group": entry.group, "links": entry.links}
    if entry.kind is FileKind.LINK:
        document["target"] = entry.target
    return document


def _show_volumes(point: RestorePoint, volumes: list[Volume], output: Output) -> None:
    output.document(
        {
            "point": point.archive,
            "volumes": [
                {
                    "name": one.name, "disk": one.disk, "kind": one.kind, "size": one.size, "label": one.label,
                    "uuid": one.uuid, "readable": one.readable, "mounted": one.mounted, "note": one.note,
                }
                for one in volumes
            ],
        }
    )  # fmt: skip
    columns = [
        Column("volume"),
        Column("kind"),
        Column("size", right=True),
        Column("label", drop=3),
        Column("in the guest"),
        Column("note", drop=1),
    ]
    rows = [
        (
            one.name,
            one.kind,
            size(one.size),
            one.label,
            one.mounted,
            "" if one.readable and not one.note else why_unreadable(one),
        )
        for one in volumes
    ]
    output.table(columns, rows)
    if any(one.readable for one in volumes):
        output.note(f"Look inside: vmconsole ls {point.archive}:/")


def _show(point: RestorePoint, wanted: Where, entries: list[FileEntry], output: Output) -> None:
    output.document(
        {
            "point": point.archive,
            "volume": wanted.volume,
            "path": wanted.path or "/",
            "entries": [entry_document(entry) for entry in entries],
        }
    )
    columns = [
        Column("mode", drop=4),
        Column("owner", drop=3),
        Column("size", right=True),
        Column("changed", drop=2),
        Column("name"),
    ]
    output.table(columns, [_row(entry) for entry in entries])
    if not entries:
        output.note("The folder is empty.")


def _row(entry: FileEntry) -> tuple[str, str, str, str, str]:
    moment = _moment(entry)
    name = entry.name + ("/" if entry.kind is FileKind.FOLDER else "")
    if entry.kind is FileKind.LINK:
        name += f" → {entry.target}"
    return (
        mode_text(entry),
        "" if entry.owner is None else f"{entry.owner}:{entry.group}",
        size(entry.size) if entry.kind is FileKind.FILE else "",
        moment[:16].replace("T", " ") if moment else "",
        name,
    )


def mode_text(entry: FileEntry) -> str:
    """`drwxr-x---`; only the kind where a file system has no modes."""
    letter = _LETTERS.get(entry.kind, "?")
    if entry.mode is None:
        return letter
    return letter + "".join(
        word if entry.mode & (1 << (8 - at)) else "-" for at, word in enumerate("rwxrwxrwx")
    )


def _moment(entry: FileEntry) -> str | None:
    """ISO 8601 with zone; None where it is not known, or beyond what a calendar holds."""
    if entry.changed is None:
        return None
    try:
        return datetime.fromtimestamp(entry.changed, UTC).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _tell(wanted: Where, volumes: list[Volume], output: Output) -> None:
    for one in volumes:
        concerned = one.name == wanted.volume if wanted.volume else bool(one.mounted)
        if concerned and one.readable and one.note:
            output.note(f"! {one.name}: {one.note}", "yellow")
