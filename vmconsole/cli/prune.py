"""Prune restore points that no rule keeps.

  vmconsole prune --dry-run        every point, kept or not, and why
  vmconsole prune
  vmconsole prune --group daily    only what this group's rules decide

Pruned points are hidden, not deleted: vmconsole undo-prune brings them back,
until vmconsole repo compact deletes them. Rules are `keep` in the
configuration; without it everything is kept. What changed rules keep comes
back with the next prune.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from vmconsole.cli.format import duration
from vmconsole.cli.output import Output
from vmconsole.cli.selection import seen_points
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, UsageError, VmconsoleError
from vmconsole.front.describe import points_text
from vmconsole.front.services import Services
from vmconsole.model.point import iso
from vmconsole.runs.looking import Memory
from vmconsole.runs.prune import Plan, judge, plan_of, run_prune
from vmconsole.runs.retention import Verdict

HELP = "hide points that no rule keeps; undo until the next compact"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", "-g", metavar="GROUP", help="only what this group's rules decide")
    parser.add_argument("--repository", "-r", metavar="NAME", help="only in this repository")
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="show what would be kept and pruned, and why"
    )


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.group:
        services.config.group(args.group)
    names = repositories(args.repository, services)
    plan = plan_of(services.config.groups(), services.store.inventories(), services.config.timezone)
    if args.dry_run:
        return _preview(names, plan, args.group or "", services, output)
    return _prune(names, plan, args.group or "", services, output)


def repositories(name: str | None, services: Services) -> list[str]:
    """The one that is named, or all. Raises ConfigError, UsageError."""
    if name:
        services.config.repository(name)
        return [name]
    if not services.config.repositories:
        raise UsageError(
            "No repository is configured yet.",
            hint="Make one: vmconsole repo init main /srv/backup/vms --passphrase-file FILE",
        )
    return list(services.config.repositories)


def _preview(names: list[str], plan: Plan, group: str, services: Services, output: Output) -> int:
    found: dict[str, list[Verdict]] = {}
    for name in names:
        seen = seen_points(services, output, name)
        marked = {item.point.archive for item in seen if item.mark}
        verdicts = judge(name, [item.point for item in seen], plan, marked)
        found[name] = _not_gone([item for item in verdicts if group in ("", item.group)])
    output.document(_document(found, dry_run=True))
    rows = [
        (
            item.point.guest,
            item.point.archive,
            f"{item.point.time.astimezone():%Y-%m-%d %H:%M}",
            ("✓ kept again" if item.marked else "✓ kept") if item.keep else "– pruned",
            item.why,
            "/".join(filter(None, (item.point.group, item.point.schedule))) or "by hand",
        )
        for verdicts in found.values()
        for item in verdicts
    ]
    if not rows:
        output.note("There are no restore points to judge.")
        return EXIT_DONE
    columns = (
        Column("guest", least=12, drop=2),
        Column("point"),
        Column("time", drop=1),
        Column("verdict"),
        Column("why", least=24, below=True),
        Column("made by", drop=3),
    )
    output.table(columns, rows)
    lost = _count(found, keep=False)
    output.line(f"{points_text(_count(found, keep=True))} kept, {lost} to prune.")
    output.note(
        "Nothing was changed. How many bytes this will free is not known: points share their data, "
        "and only a compact tells."
    )
    return EXIT_DONE


def _prune(names: list[str], plan: Plan, group: str, services: Services, output: Output) -> int:
    found: dict[str, list[Verdict]] = {}
    runs: dict[str, str] = {}
    failed: list[VmconsoleError] = []
    code = EXIT_DONE
    memory = Memory(services.store, services.ledger)
    with output.events(services) as watcher:
        runner = services.runner([watcher])
        for name in names:
            services.cancel.check()
            outcome, verdicts = run_prune(runner, services.repository(name), plan, memory, group)
            found[name], runs[name] = _not_gone(verdicts), outcome.run
            failed += [error for _, error in outcome.errors]
            code = code or outcome.exit_code
    for error in failed:
        output.error(error)
    output.document(_document(found, dry_run=False) | {"runs": runs})
    if not failed:
        _tell(found, services, output)
    return code


def _tell(found: Mapping[str, list[Verdict]], services: Services, output: Output) -> None:
    lost = _count(found, keep=False)
    if not lost:
        output.line(f"Nothing to prune: {points_text(_count(found, keep=True))} kept.")
        return
    output.line(f"{points_text(lost)} pruned, {_count(found, keep=True)} kept.")
    undo = min(services.config.repository(name).undo for name in found)
    output.hint(f"They can be had back for {duration(undo)} at least: vmconsole undo-prune --all")
    output.hint("Their space is freed, how much is not known before, by: vmconsole repo compact")


def _not_gone(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Without those that were pruned before, and still are."""
    return [verdict for verdict in verdicts if verdict.keep or not verdict.marked]


def _count(found: Mapping[str, list[Verdict]], *, keep: bool) -> int:
    return sum(verdict.keep is keep for verdicts in found.values() for verdict in verdicts)


def _document(found: Mapping[str, list[Verdict]], *, dry_run: bool) -> dict[str, Any]:
    guests: dict[tuple[str, str], dict[str, Any]] = {}
    for name, verdicts in found.items():
        for item in verdicts:
            point = item.point
            own = guests.setdefault(
                (name, point.uuid),
                {
                    "guest": point.guest,
                    "uuid": point.uuid,
                    "host": point.host,
                    "repository": name,
                    "points": [],
                },
            )
            own["points"].append(
                {
                    "archive": point.archive,
                    "time": iso(point.time),
                    "group": point.group or None,
                    "schedule": point.schedule or None,
                    "pinned": point.pinned,
                    "keep": item.keep,
                    "again": item.keep and item.marked,
                    "why": item.why,
                    "rules_of": item.group or None,
                }
            )
    return {
        "dry_run": dry_run,
        "guests": list(guests.values()),
        "kept": _count(found, keep=True),
        "pruned": _count(found, keep=False),
        # points share their data: only a compact tells
        "bytes_freed": None,
    }
