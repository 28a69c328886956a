"""Restore disks to files, or a whole guest to a host.

  vmconsole restore web-01@latest --to /srv/restore/          all disks, sparse
  vmconsole restore web-01@latest --to boot.raw --disk vda    one disk
  vmconsole restore web-01@2026-11-22 --host kvm2 --as web-01-copy --start

A restore never overwrites a file or a guest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import choose_point, seen_points
from vmconsole.errors import EXIT_DONE, Cancelled, RestoreFailed, UsageError
from vmconsole.front.services import Services
from vmconsole.interfaces import Context, GuestRestore, RepositoryReader
from vmconsole.model.point import TAR, DiskPoint, RestorePoint
from vmconsole.runs.looking import LOCK_PATIENCE, reading
from vmconsole.runs.restore import (
    choose_disks,
    file_destinations,
    file_name,
    preview_guest,
    restore_files,
    restore_guest,
)

HELP = "restore disks to files, or a guest to a host"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "point", metavar="POINT", help="archive name, GUEST@latest, GUEST@2026-11-22, GUEST@-2"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--to", metavar="FILE|DIR", help="a file for one disk, a folder for all (with / at its end: is made)"
    )
    where.add_argument("--host", metavar="HOST", help="make a new guest on this host")
    parser.add_argument(
        "--disk", action="append", default=[], metavar="ID", help="only this disk (repeatable)"
    )
    parser.add_argument("--format", choices=("raw",), default="raw", help="file format")
    parser.add_argument("--as", dest="new_name", metavar="NAME", help="the new guest's name")
    parser.add_argument(
        "--storage",
        default="",
        metavar="POOL|DIR",
        help="storage pool or folder on the host; on Proxmox also NODE/STORAGE",
    )
    parser.add_argument("--start", action="store_true", help="start the new guest")
    parser.add_argument("--yes", "-y", action="store_true", help="go on without asking when notes are shown")
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be written, write nothing"
    )
    parser.add_argument("--repository", "-r", metavar="NAME", help="look in this repository only")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    _check_options(args, services)
    found = choose_point(args.point, seen_points(services, output, args.repository), output)
    if args.to is not None:
        return _to_files(args, found.point, found.repository, services, output)
    return _to_host(args, found.point, found.repository, services, output)


def _check_options(args: argparse.Namespace, services: Services) -> None:
    """What can be known to fail before anything is read."""
    if args.to is not None and (args.new_name or args.storage or args.start):
        raise UsageError(
            "--as, --storage and --start make a guest on a host; --to only writes files.",
            hint="Say --host HOST instead of --to.",
        )
    if args.host is not None and args.disk:
        raise UsageError(
            "A guest is restored with all its disks; --disk goes with --to.",
            hint="One disk into a file: vmconsole restore POINT --to FILE --disk ID",
        )
    if args.host is not None:
        services.config.host(args.host)


def _to_files(
    args: argparse.Namespace, point: RestorePoint, repository: str, services: Services, output: Output
) -> int:
    places = _places(point, choose_disks(point, args.disk), args.to)
    if args.dry_run:
        files = [{"disk": disk.id, "path": str(place), "size": disk.size} for disk, place in places]
        output.document({"archive": point.archive, "files": files})
        for disk, place in places:
            output.line(f"{disk.id} → {place}, {size(disk.size)}{'' if disk.format == TAR else ' (sparse)'}")
        output.note("Nothing was written.")
        return EXIT_DONE

    def work(reader: RepositoryReader, context: Context) -> None:
        if args.to.endswith("/"):
            _make_folder(Path(args.to))
        restore_files(point, places, reader, services.new_file, context)

    return _restore(point, repository, work, services, output)


def _places(point: RestorePoint, disks: Sequence[DiskPoint], to: str) -> list[tuple[DiskPoint, Path]]:
    folder = Path(to)
    if to.endswith("/") and not folder.exists():
        return [(disk, folder / file_name(disk)) for disk in disks]
    return file_destinations(point, disks, folder)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RestoreFailed(
            f"The folder {folder} cannot be made: {error.strerror}.",
            hint="Name another place with --to.",
            subject=str(folder),
        ) from error


def _to_host(
    args: argparse.Namespace, point: RestorePoint, repository: str, services: Services, output: Output
) -> int:
    hypervisor = services.hypervisor(args.host)
    request = GuestRestore(args.new_name or point.guest, args.storage, start=args.start)
    if args.dry_run:
        return _dry_run_on_host(args.host, point, repository, request, services, output)

    def confirm(notes: Sequence[str]) -> None:
        if notes and not args.yes and not output.quiet and output.can_ask and not output.ask("Go on?"):
            raise Cancelled("Nothing was restored.", subject=request.name)

    return _restore(
        point,
        repository,
        lambda reader, context: restore_guest(point, hypervisor, request, reader, context, confirm),
        services,
        output,
    )


def _dry_run_on_host(
    host: str,
    point: RestorePoint,
    repository: str,
    request: GuestRestore,
    services: Services,
    output: Output,
) -> int:
    hypervisor = services.hypervisor(host)
    with (
        output.busy(f"Asking {host} …"),
        services.repository(repository).reader(wait=LOCK_PATIENCE) as reader,
    ):
        notes = preview_guest(point, hypervisor, request, reader, services.cancel, services.clock)
    disks = [{"id": disk.id, "size": disk.size} for disk in point.stored_disks]
    output.document(
        {
            "archive": point.archive,
            "host": host,
            "guest": request.name,
            "storage": request.storage,
            "start": request.start,
            "size": point.size,
            "disks": disks,
            "notes": list(notes),
        }
    )
    count = "1 disk" if len(disks) == 1 else f"{len(disks)} disks"
    output.line(f"{point.archive} → {host}/{request.name}: {count}, {size(point.size)} (sparse)")
    for note in notes:
        output.line(f"! {note}")
    output.note(f"Nothing was changed. {host} would take it, as far as can be told before data moves.")
    return EXIT_DONE


def _restore(
    point: RestorePoint,
    repository: str,
    work: Callable[[RepositoryReader, Context], None],
    services: Services,
    output: Output,
) -> int:
    with (
        output.events(services) as watcher,
        services.runner([watcher]).run("restore", point.archive) as (context, outcome),
        reading(services.repository(repository), context) as reader,
    ):
        work(reader, context)
    for _, error in outcome.errors:
        output.error(error)
    return outcome.exit_code
