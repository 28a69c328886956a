"""Pin restore points: they are kept whatever the rules say.

  vmconsole pin web-01@2026-11-22
  vmconsole pin --remove web-01@2026-11-22

A pin is recorded in the repository itself, so that it outlives this machine. A
pruned point that is pinned, by its full archive name, is back.
"""

from __future__ import annotations

import argparse

from vmconsole.cli.output import Output
from vmconsole.cli.selection import choose_point, seen_points
from vmconsole.errors import EXIT_DONE, VmconsoleError
from vmconsole.front.services import Services
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import Memory
from vmconsole.runs.pins import run_pins

HELP = "keep points whatever the rules say"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "points", nargs="+", metavar="POINT", help="archive name, GUEST@latest, GUEST@2026-11-22, GUEST@-2"
    )
    parser.add_argument("--remove", action="store_true", help="pin them no longer")
    parser.add_argument("--repository", "-r", metavar="NAME", help="look in this repository only")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    found = seen_points(services, output, args.repository)
    by_repository: dict[str, dict[str, RestorePoint]] = {}
    for text in args.points:
        item = choose_point(text, found, output)
        by_repository.setdefault(item.repository, {})[item.point.archive] = item.point
    changed: set[tuple[str, str]] = set()
    failed: list[VmconsoleError] = []
    code = EXIT_DONE
    memory = Memory(services.store, services.ledger)
    with output.events(services) as watcher:
        for name, points in by_repository.items():
            outcome, archives = run_pins(
                services.runner([watcher]),
                services.repository(name),
                points.values(),
                memory,
                pinned=not args.remove,
            )
            changed |= {(name, archive) for archive in archives}
            failed += [error for _, error in outcome.errors]
            code = code or outcome.exit_code
    for error in failed:
        output.error(error)
    if failed:
        return code
    chosen = [(name, archive) for name, points in by_repository.items() for archive in points]
    output.document(
        {
            "points": [
                {
                    "archive": archive,
                    "repository": name,
                    "pinned": not args.remove,
                    "changed": (name, archive) in changed,
                }
                for name, archive in chosen
            ]
        }
    )
    for name, archive in chosen:
        output.line(_said(archive, removed=args.remove, changed=(name, archive) in changed))
    return code


def _said(archive: str, *, removed: bool, changed: bool) -> str:
    if removed:
        return f"✓ {archive} is pinned no longer." if changed else f"– {archive} was not pinned."
    return f"✓ {archive} is pinned." if changed else f"– {archive} was pinned already."
