"""Restore disks to files, or a whole guest to a host.

  vmconsole restore web-01@latest --to /srv/restore/          all disks, sparse, one file each
  vmconsole restore web-01@latest --to boot.raw --disk vda    one disk
  vmconsole restore web-01@2026-11-22 --host kvm2 --as web-01-copy --start

A restore never overwrites a file or a guest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import all_points
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, Cancelled, UsageError
from vmconsole.interfaces import GuestRestore
from vmconsole.model.point import RestorePoint
from vmconsole.runs.names import find_point
from vmconsole.runs.restore import choose_disks, file_destinations, restore_files, restore_guest

HELP = "restore disks to files, or a guest to a host"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "point", metavar="POINT", help="archive name, GUEST@latest, GUEST@2026-11-22, GUEST@-2"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=Path, metavar="FILE|DIR", help="a file for one disk, a folder for all")
    where.add_argument("--host", metavar="HOST", help="make a new guest on this host")
    parser.add_argument(
        "--disk", action="append", default=[], metavar="ID", help="only this disk (repeatable)"
    )
    parser.add_argument("--format", choices=("raw",), default="raw", help="file format")
    parser.add_argument("--as", dest="new_name", metavar="NAME", help="the new guest's name")
    parser.add_argument(
        "--storage", default="", metavar="POOL|DIR", help="storage pool or folder on the host"
    )
    parser.add_argument("--start", action="store_true", help="start the new guest")
    parser.add_argument("--yes", "-y", action="store_true", help="go on without asking when notes are shown")
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be written, write nothing"
    )
    parser.add_argument("--repository", "-r", metavar="NAME", help="look in this repository only")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    found = all_points(services, args.repository)
    point = find_point(args.point, [point for _, point in found])
    repository = next(name for name, candidate in found if candidate.archive == point.archive)
    if args.to is not None:
        return _to_files(args, point, repository, services, output)
    return _to_host(args, point, repository, services, output)


def _to_files(
    args: argparse.Namespace, point: RestorePoint, repository: str, services: Services, output: Output
) -> int:
    if args.new_name or args.storage or args.start:
        raise UsageError("--as, --storage and --start go with --host, not with --to.")
    places = file_destinations(point, choose_disks(point, args.disk), args.to)
    if args.dry_run:
        if output.json:
            output.document(
                {
                    "archive": point.archive,
                    "files": [
                        {"disk": disk.id, "path": str(place), "size": disk.size} for disk, place in places
                    ],
                }
            )
        for disk, place in places:
            output.line(f"{disk.id} → {place}, {size(disk.size)} (sparse)")
        return EXIT_DONE
    with (
        output.events() as sink,
        services.runner([sink]).run("restore", point.archive) as (context, outcome),
        services.repository(repository).reader() as reader,
    ):
        restore_files(point, places, reader, services.new_file, context)
    for _, error in outcome.errors:
        output.error(error)
    return outcome.exit_code


def _to_host(
    args: argparse.Namespace, point: RestorePoint, repository: str, services: Services, output: Output
) -> int:
    if args.disk:
        raise UsageError("A guest is restored with all its disks; --disk goes with --to.")
    hypervisor = services.hypervisor(args.host)
    request = GuestRestore(args.new_name or point.guest, args.storage, start=args.start)
    if args.dry_run:
        output.line(
            f"{point.archive} → {args.host}/{request.name}, "
            f"{len(point.stored_disks)} disks, {size(point.size)}"
        )
        if output.json:
            output.document({"archive": point.archive, "host": args.host, "guest": request.name})
        return EXIT_DONE

    def confirm(notes: Sequence[str]) -> None:
        if notes and not args.yes and not output.json and not output.quiet and not output.ask_or_go("Go on?"):
            raise Cancelled("Nothing was restored.")

    with (
        output.events() as sink,
        services.runner([sink]).run("restore", point.archive) as (context, outcome),
        services.repository(repository).reader() as reader,
    ):
        restore_guest(point, hypervisor, request, reader, context, confirm)
    for _, error in outcome.errors:
        output.error(error)
    return outcome.exit_code
