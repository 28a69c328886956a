"""Take single files and folders out of a container's restore point.

  vmconsole get dns-01@latest etc/hosts --to /srv/back   as /srv/back/hosts
  vmconsole get dns-01@-1 etc/bind var/log --to .        all that is in them

Nothing is ever overwritten. Files belong to whoever runs this; devices and
links that lead out of the folder are left out. A virtual machine's files are
inside its disks, which vmconsole restore brings back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import choose_point, seen_points
from vmconsole.errors import EXIT_DONE, RestoreFailed, UsageError
from vmconsole.front.capabilities import capability
from vmconsole.front.services import Services
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import LOCK_PATIENCE, reading
from vmconsole.runs.takeout import choose, destinations, take_out, tar_of

HELP = "take files and folders out of a container's restore point"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "point", metavar="POINT", help="archive name, GUEST@latest, GUEST@2026-11-22, GUEST@-2"
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file or folder in the container")
    parser.add_argument("--to", metavar="DIR", required=True, help="folder; is made when it is not there")
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be written, write nothing"
    )
    parser.add_argument("--repository", "-r", metavar="NAME", help="look in this repository only")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    found = choose_point(args.point, seen_points(services, output, args.repository), output)
    point, folder = found.point, Path(args.to)
    if tar_of(point) is None:
        later = capability("files")
        raise UsageError(later.sentence, hint=later.instead_for(point.archive), subject=point.archive)
    if args.dry_run:
        return _dry_run(args, point, found.repository, services, output)
    with (
        output.events(services) as watcher,
        services.runner([watcher]).run("get", point.archive) as (context, outcome),
        reading(services.repository(found.repository), context) as reader,
    ):
        taken = choose(point, reader, args.paths)
        _make(folder)
        take_out(point, taken, reader, folder, context)
    for _, error in outcome.errors:
        output.error(error)
    return outcome.exit_code


def _dry_run(
    args: argparse.Namespace, point: RestorePoint, repository: str, services: Services, output: Output
) -> int:
    with services.repository(repository).reader(wait=LOCK_PATIENCE) as reader:
        taken = choose(point, reader, args.paths)
    places = destinations(taken, Path(args.to))
    total = sum(item.size for item in taken)
    output.document(
        {
            "archive": point.archive,
            "paths": [str(place) for place in places],
            "members": len(taken),
            "size": total,
        }
    )
    for place in places:
        output.line(str(place))
    output.note(f"{len(taken)} members, {size(total)}. Nothing was written.")
    return EXIT_DONE


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RestoreFailed(
            f"The folder {folder} cannot be made: {error.strerror}.",
            hint="Name another place with --to.",
            subject=str(folder),
        ) from error
