"""Write a file of a restore point to standard output, as it is.

vmconsole cat web-01@latest:/etc/fstab
vmconsole cat web-01@-3:vda2:/boot/grub/grub.cfg | less
"""

from __future__ import annotations

import argparse

from vmconsole.cli.output import Output
from vmconsole.cli.selection import choose_point, seen_points
from vmconsole.errors import EXIT_DONE, UsageError
from vmconsole.front.inside import check_volume, open_inside, where
from vmconsole.front.services import Services
from vmconsole.model.files import FileKind
from vmconsole.runs.looking import LOCK_PATIENCE

HELP = "write a file of a restore point to standard output"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="POINT[:VOLUME]:PATH", help="the file, as in vmconsole ls")
    parser.add_argument("--repository", "-r", metavar="NAME", help="look in this repository only")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    wanted = where(args.place)
    if not wanted.path:
        raise UsageError("Say which file: POINT:/PATH.", hint="See what there is with: vmconsole ls POINT:/")
    if output.json:
        raise UsageError("A file is not JSON.", hint="Leave --json out.")
    found = choose_point(wanted.point, seen_points(services, output, args.repository), output)
    repository = services.repository(found.repository)
    with (
        repository.reader(wait=LOCK_PATIENCE) as reader,
        open_inside(services, found.point, reader) as files,
    ):
        check_volume(files, wanted)
        entry = files.entry(wanted.volume, wanted.path, follow=True)
        if entry.kind is not FileKind.FILE:
            raise UsageError(
                f"{wanted.path} is not a file but a {entry.kind.value}.", hint=f"vmconsole ls {args.place}"
            )
        for piece in files.read(wanted.volume, wanted.path, 0, entry.size):
            output.content(piece)
            if output.unread:
                break
    return EXIT_DONE
