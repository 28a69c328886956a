"""List restore points, newest first.

vmconsole points                 all of them
vmconsole points web-01          one guest's
vmconsole points --group daily   of the guests a group covers now
vmconsole points --pruned        what was pruned and can be had back
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from vmconsole.cli.documents import point_document
from vmconsole.cli.format import duration, size
from vmconsole.cli.output import Output
from vmconsole.cli.parser import did_you_mean
from vmconsole.cli.selection import group_points, seen_points
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, PointNotFound
from vmconsole.front.services import Services
from vmconsole.model.ledger import Mark
from vmconsole.model.point import RestorePoint
from vmconsole.runs.names import points_of

HELP = "list restore points"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("guest", nargs="?", metavar="GUEST", help="only this guest's")
    parser.add_argument("--group", "-g", metavar="GROUP", help="only of guests this group covers now")
    parser.add_argument("--pruned", action="store_true", help="those that were pruned and can be had back")
    parser.add_argument("--repository", "-r", metavar="NAME", help="only in this repository")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.group:
        services.config.group(args.group)
    found = seen_points(services, output, args.repository)
    marks = {item.point.archive_id: item.mark for item in found if item.mark}
    points = [item.point for item in found if (item.mark is not None) == args.pruned]
    if args.guest:
        points = _of_guest(args.guest, points)
    if args.group:
        points = group_points(services, output, args.group, points)
    output.document({"points": [point_document(point, marks.get(point.archive_id)) for point in points]})
    if not points:
        output.note(_nothing(args))
        return EXIT_DONE
    _show(points, marks, output)
    if args.pruned:
        output.note("`vmconsole repo compact` deletes them for good. Keep one: vmconsole undo-prune POINT")
    return EXIT_DONE


def _of_guest(name: str, points: list[RestorePoint]) -> list[RestorePoint]:
    found = points_of(name, points)
    if not found:
        raise PointNotFound(
            f"{name!r} has no restore point.{did_you_mean(name, {point.guest for point in points})}",
            hint="List them all with: vmconsole points",
            subject=name,
        )
    return found


def _nothing(args: argparse.Namespace) -> str:
    if args.pruned:
        return "Nothing is pruned."
    if args.group:
        return (
            f"No guest of group {args.group} has a restore point. Make one: vmconsole backup -g {args.group}"
        )
    return "No restore points yet. Make the first with: vmconsole backup --all"


def _show(points: list[RestorePoint], marks: Mapping[str, Mark], output: Output) -> None:
    """marks: by archive id. Pinned and pruned points get a column when there are any."""
    notes = {point.archive_id: _note(point, marks.get(point.archive_id)) for point in points}
    columns = [
        Column("point"),
        Column("guest", least=12, drop=7),
        Column("time", drop=1),
        Column("mode", drop=2),
        Column("consistency", drop=3),
        Column("size", right=True, drop=6),
        Column("read", right=True, drop=4),
        Column("stored", right=True, drop=4),
        Column("took", right=True, drop=5),
    ]
    if any(notes.values()):
        columns.append(Column("note", drop=1))
    output.table(
        columns,
        [
            (
                point.archive,
                point.guest,
                f"{point.time.astimezone():%Y-%m-%d %H:%M}",
                point.mode.value,
                point.consistency.value,
                size(point.size),
                size(point.total("bytes_read")),
                size(point.total("bytes_stored")),
                duration(point.seconds),
                notes[point.archive_id],
            )[: len(columns)]
            for point in points
        ],
    )


def _note(point: RestorePoint, mark: Mark | None) -> str:
    if mark:
        return f"pruned {mark.marked.astimezone():%Y-%m-%d %H:%M}"
    return "pinned" if point.pinned else ""
