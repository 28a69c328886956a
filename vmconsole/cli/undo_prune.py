"""Have pruned restore points back, until a compact deleted them.

  vmconsole points --pruned                   what there is to have back
  vmconsole undo-prune web-01@2026-11-22
  vmconsole undo-prune --group daily          what this group's rules pruned
  vmconsole undo-prune --all

The next prune takes them again, unless they are pinned or `keep` in the
configuration was changed.
"""

from __future__ import annotations

import argparse
import shlex

from vmconsole.cli.output import Output
from vmconsole.cli.selection import Found, seen_points
from vmconsole.errors import EXIT_DONE, PointNotFound, UsageError
from vmconsole.front.describe import points_text
from vmconsole.front.services import Services
from vmconsole.runs.names import find_point
from vmconsole.runs.prune import governed, plan_of

HELP = "have pruned points back"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("points", nargs="*", metavar="POINT", help="archive name, GUEST@2026-11-22, …")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--group", "-g", metavar="GROUP", help="what this group's rules pruned")
    which.add_argument("--all", "-a", action="store_true", help="all that are pruned")
    parser.add_argument("--repository", "-r", metavar="NAME", help="only in this repository")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if bool(args.points) + bool(args.group) + args.all != 1:
        raise UsageError(
            "Say which points, or --group GROUP, or --all; one of them.",
            hint="What there is to have back: vmconsole points --pruned",
        )
    if args.group:
        services.config.group(args.group)
    pruned = [item for item in seen_points(services, output, args.repository) if item.mark]
    chosen = _choose(args, pruned, services)
    for repository in {item.repository for item in chosen}:
        services.ledger.unmark(
            repository, [item.point.archive for item in chosen if item.repository == repository]
        )
    output.document(
        {"points": [{"archive": item.point.archive, "repository": item.repository} for item in chosen]}
    )
    if not chosen:
        output.note("Nothing is pruned." if args.all else f"Nothing is pruned by group {args.group}.")
        return EXIT_DONE
    for item in chosen:
        output.line(f"✓ {item.point.archive} is back.")
    output.hint(
        f"The next prune takes {'it' if len(chosen) == 1 else f'the {points_text(len(chosen))}'} again, "
        f"unless `keep` changes or it is pinned: vmconsole pin {shlex.quote(chosen[0].point.archive)}"
    )
    return EXIT_DONE


def _choose(args: argparse.Namespace, pruned: list[Found], services: Services) -> list[Found]:
    if args.all:
        return pruned
    if args.group:
        plan = plan_of(services.config.groups(), services.store.inventories(), services.config.timezone)
        return [item for item in pruned if governed([item.point], args.group, item.repository, plan)]
    points = [item.point for item in pruned]
    chosen = []
    for text in args.points:
        try:
            point = find_point(text, points)
        except PointNotFound as error:
            raise PointNotFound(
                f"No pruned point is named so: {text!r}.",
                hint="What there is to have back: vmconsole points --pruned",
                subject=text,
            ) from error
        chosen.append(next(item for item in pruned if item.point is point))
    return list({(item.repository, item.point.archive): item for item in chosen}.values())
