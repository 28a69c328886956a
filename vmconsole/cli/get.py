"""Take files and folders out of a restore point, without restoring it.

  vmconsole get web-01@latest:/etc/nginx /srv/back      as /srv/back/nginx
  vmconsole get web-01@-1:/etc web-01@-1:/root /srv/back
  vmconsole get web-01@latest:vda2:/home - | tar t      a tar, with owners
  vmconsole get dns-01@latest etc/hosts --to /srv/back  the same, otherwise said

In a folder nothing is ever overwritten; files belong to whoever runs this;
devices, and links that lead out of what is taken, are left out. A tar has
owners, permissions, times and links as the guest has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import Found, choose_point, seen_points
from vmconsole.errors import EXIT_DONE, EXIT_WARNINGS, RestoreFailed, UsageError
from vmconsole.front.inside import Where, check_volume, open_inside, where
from vmconsole.front.services import Services
from vmconsole.model.files import FileKind
from vmconsole.runs.copyout import Chosen, as_tar, copy_out, everything
from vmconsole.runs.copyout import choose as choose_files
from vmconsole.runs.looking import LOCK_PATIENCE, reading
from vmconsole.runs.takeout import choose, destinations, refuse_existing, take_out, tar_of

HELP = "take files and folders out of a restore point"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "places",
        nargs="+",
        metavar="POINT[:VOLUME]:PATH",
        help="files and folders, as in vmconsole ls; last the folder they go to, or - for a tar",
    )
    parser.add_argument(
        "--to",
        metavar="DIR",
        help="the folder; then come one POINT and, after it, paths. Is made when it is not there",
    )
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be written, write nothing"
    )
    parser.add_argument("--repository", "-r", metavar="NAME", help="look in this repository only")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    wanted, to = _asked(args)
    found = choose_point(wanted[0].point, seen_points(services, output, args.repository), output)
    if to == "-":
        return _as_tar(found, wanted, services, output)
    folder = Path(to)
    if args.dry_run:
        return _dry_run(found, wanted, folder, services, output)
    point = found.point
    with (
        output.events(services) as watcher,
        services.runner([watcher]).run("get", point.archive) as (context, outcome),
        reading(services.repository(found.repository), context) as reader,
    ):
        if tar_of(point) is not None:
            taken = choose(point, reader, [one.path for one in wanted])
            _make(folder)
            take_out(point, taken, reader, folder, context)
        else:
            with open_inside(services, point, reader) as files:
                for one in wanted:
                    check_volume(files, one)
                items = choose_files(files, _chosen(wanted))
                _make(folder)
                copy_out(point, files, items, folder, context)
    for _, error in outcome.errors:
        output.error(error)
    return outcome.exit_code


def _asked(args: argparse.Namespace) -> tuple[list[Where], str]:
    """What is wanted, of one point, and where it goes. Raises UsageError."""
    if args.to is not None:
        point, *paths = args.places
        first = where(point)
        wanted = [
            Where(first.point, first.volume, path if path.startswith("/") else f"/{path}") for path in paths
        ]
        if first.path:
            wanted.insert(0, first)
        to = args.to
    else:
        *places, to = args.places
        wanted = [where(place) for place in places]
        if not places:
            raise UsageError(
                "Say where to: a folder, or - for a tar.", hint="vmconsole get POINT:PATH FOLDER"
            )
    if not wanted or not all(one.path for one in wanted):
        raise UsageError("Say which files: POINT:/PATH.", hint="See what there is with: vmconsole ls POINT:/")
    if len({one.point for one in wanted}) > 1:
        raise UsageError("All of it must be of one restore point.", hint="Take them out one by one.")
    return wanted, to


def _chosen(wanted: Sequence[Where]) -> list[Chosen]:
    return [Chosen(one.volume, one.path) for one in wanted]


def _as_tar(found: Found, wanted: Sequence[Where], services: Services, output: Output) -> int:
    if output.json:
        raise UsageError("A tar is not JSON.", hint="Leave --json out.")
    warned: list[str] = []

    def warn(message: str) -> None:
        warned.append(message)
        output.note(f"! {message}", "yellow")

    def put(content: bytes) -> None:
        output.content(content)
        if output.unread:
            raise RestoreFailed("Nobody takes the tar any more.", subject=found.point.archive)

    with (
        services.repository(found.repository).reader(wait=LOCK_PATIENCE) as reader,
        open_inside(services, found.point, reader) as files,
    ):
        for one in wanted:
            check_volume(files, one)
        as_tar(files, choose_files(files, _chosen(wanted)), put, warn)
    return EXIT_WARNINGS if warned else EXIT_DONE


def _dry_run(found: Found, wanted: Sequence[Where], folder: Path, services: Services, output: Output) -> int:
    point = found.point
    with services.repository(found.repository).reader(wait=LOCK_PATIENCE) as reader:
        if tar_of(point) is not None:
            taken = choose(point, reader, [one.path for one in wanted])
            places = destinations(taken, folder)
            count, total = len(taken), sum(item.size for item in taken)
        else:
            with open_inside(services, point, reader) as files:
                items = choose_files(files, _chosen(wanted))
                places = [folder / item.to for item in items]
                refuse_existing(places)
                every = list(everything(files, items, lambda message: output.note(f"! {message}", "yellow")))
            count = len(every)
            total = sum(item.entry.size for item in every if item.entry.kind is FileKind.FILE)
    output.document(
        {"archive": point.archive, "paths": [str(place) for place in places], "members": count, "size": total}
    )
    for place in places:
        output.line(str(place))
    output.note(f"{count} members, {size(total)}. Nothing was written.")
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
