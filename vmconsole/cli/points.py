"""List restore points, newest first."""

from __future__ import annotations

import argparse

from vmconsole.cli.documents import point_document
from vmconsole.cli.format import duration, size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import all_points, group_guests, reachable_guests
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, PointNotFound
from vmconsole.runs.names import points_of

HELP = "list restore points"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("guest", nargs="?", metavar="GUEST", help="only this guest's")
    parser.add_argument("--group", "-g", metavar="GROUP", help="only of guests this group covers now")
    parser.add_argument("--repository", "-r", metavar="NAME", help="only in this repository")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    points = [point for _, point in all_points(services, args.repository)]
    if args.guest:
        points = points_of(args.guest, points)
        if not points:
            raise PointNotFound(
                f"{args.guest!r} has no restore point.",
                hint="List them all with: vmconsole points",
                subject=args.guest,
            )
    if args.group:
        guests, _ = reachable_guests(services)
        covered = {guest.uuid for guest in group_guests(services, args.group, guests)}
        points = [point for point in points if point.uuid in covered]
    if output.json:
        output.document({"points": [point_document(point) for point in points]})
    output.table(
        ("point", "guest", "time", "mode", "consistency", "size", "read", "stored", "took"),
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
            )
            for point in points
        ],
        right=("size", "read", "stored", "took"),
    )
    if not points and not output.json:
        output.note("No restore points yet. Make the first with: vmconsole backup --all")
    return EXIT_DONE
