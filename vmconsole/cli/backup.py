"""Back up guests now.

vmconsole backup web-01 kvm2/db     two guests
vmconsole backup --group daily      what the group covers now
vmconsole backup --all --dry-run    what would happen to every guest, and why
"""

from __future__ import annotations

import argparse
from typing import Any

from vmconsole.cli.detached import start_in_background
from vmconsole.cli.documents import plan_document
from vmconsole.cli.format import size
from vmconsole.cli.output import Cell, Output
from vmconsole.cli.selection import group_guests, reachable_guests, seen_points, targets
from vmconsole.cli.table import Column
from vmconsole.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    HostKeyChanged,
    HostUnreachable,
    UsageError,
    VmconsoleError,
)
from vmconsole.front.fleet import capacity_of
from vmconsole.front.services import Services
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.runs.names import find_guest
from vmconsole.runs.outcome import Outcome
from vmconsole.runs.runner import forecast
from vmconsole.runs.work import InOrder, Queue, Target, Work
from vmconsole.schedule.once import OnceQueue

HELP = "back up guests now"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "guests", nargs="*", metavar="GUEST", help="name, host/name, or uuid (a prefix will do)"
    )
    parser.add_argument("--group", "-g", metavar="GROUP", help="every guest of this group")
    parser.add_argument("--all", action="store_true", help="every guest of every host")
    parser.add_argument("--full", action="store_true", help="read everything, use no parent")
    parser.add_argument("--dry-run", "-n", action="store_true", help="say what would happen, change nothing")
    parser.add_argument(
        "--detach", action="store_true", help="run in the background; follow with: vmconsole runs --follow"
    )


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if sum((bool(args.guests), bool(args.group), args.all)) != 1:
        raise UsageError(
            "Say what to back up: guests, or --group, or --all (one of these).",
            hint="See: vmconsole backup --help",
        )
    _check_configuration(args, services)
    if args.detach and not args.dry_run:
        return start_in_background(_again(args), services, output)
    seen, unreachable = reachable_guests(services, output)
    chosen, subject = _choose(args, services, seen, unreachable)
    work = targets(services, chosen, args.group, full=args.full)
    if args.dry_run:
        code = _dry_run(work, services, output)
    else:
        code = _back_up(_works(work, args.group, services), subject, services, output)
    if args.group or args.all:
        for host in unreachable:
            output.error(_out_of_reach(f"The guests of host {host.name} were left out:", [host]))
        if unreachable and code == EXIT_DONE:
            return HostUnreachable.exit_code
    return code


def _check_configuration(args: argparse.Namespace, services: Services) -> None:
    """What can be known to fail before any host is asked."""
    config = services.config
    if args.group:
        config.group(args.group)
    if not config.hosts:
        raise UsageError(
            "No host is configured yet.", hint="Add one with: vmconsole host add kvm1 root@kvm1.example"
        )


def _again(args: argparse.Namespace) -> list[str]:
    """The same backup as a command line."""
    what = ["--all"] if args.all else ["--", *args.guests]
    if args.group:
        what = [f"--group={args.group}"]
    return ["backup", *(["--full"] if args.full else []), *what]


def _works(targets: list[Target], group: str | None, services: Services) -> list[Work]:
    """One for each guest, or one for all of a group that is cut together."""
    if group and len(targets) > 1 and (found := services.config.group(group)).together:
        return [Work("1", tuple(targets), found.apart)]
    return [Work(f"{number:05}", (target,)) for number, target in enumerate(targets)]


def _back_up(works: list[Work], subject: str, services: Services, output: Output) -> int:
    work = [target for each in works for target in each.targets]
    seen = [found for found, _ in services.store.inventories().values()]
    queue: Queue = InOrder(work)
    if len(work) > 1:
        capacity = capacity_of(services.config, seen)
        queue = OnceQueue(works, capacity, services.clock, services.history.of_guest)
    with output.events(services, guests=len(work)) as watcher:
        outcome = services.runner([watcher]).work(queue, "backup", subject)
    for _, error in outcome.errors:
        if error.message not in watcher.told:
            output.error(error)
    if len(work) > 1 and not output.json:
        output.note(_summary(outcome, len(work)))
        output.note(f"  → Its log: vmconsole runs {outcome.run}")
    return outcome.exit_code


def _summary(outcome: Outcome, guests: int) -> str:
    points = outcome.points
    parts = [f"{len(points)} of {guests} guests backed up"]
    if outcome.warnings:
        parts.append(f"{outcome.warnings} warning{'s' if outcome.warnings > 1 else ''}")
    if points:
        parts.append(
            f"read {size(sum(point.total('bytes_read') for point in points))}, "
            f"stored {size(sum(point.total('bytes_stored') for point in points))}"
        )
    return f"{', '.join(parts)}."


def _choose(
    args: argparse.Namespace, services: Services, seen: list[Guest], unreachable: list[HostInventory]
) -> tuple[list[Guest], str]:
    if args.group:
        chosen = group_guests(services, args.group, seen)
        subject = f"group {args.group}"
    elif args.all:
        chosen, subject = seen, "all guests"
    else:
        chosen = _named(args.guests, seen, unreachable)
        subject = ", ".join(guest.name for guest in chosen)
    if not chosen:
        if unreachable:
            raise _out_of_reach("There is no guest to back up. Out of reach:", unreachable)
        if args.group:
            raise UsageError(
                f"Group {args.group} covers no guest now.",
                hint="See the guests, their tags and hosts: vmconsole inventory --refresh",
                subject=args.group,
            )
        raise UsageError(
            f"There are no guests on {', '.join(services.config.hosts)}.",
            hint="Does the login user see them? On the host: virsh list --all",
        )
    return chosen, subject


def _named(names: list[str], seen: list[Guest], unreachable: list[HostInventory]) -> list[Guest]:
    try:
        return list({guest.uuid: guest for guest in (find_guest(name, seen) for name in names)}.values())
    except UsageError as error:
        if not unreachable:
            raise
        message = f"{error.message} It may be on a host that is out of reach:"
        raise _out_of_reach(message, unreachable) from error


def _out_of_reach(message: str, hosts: list[HostInventory]) -> HostUnreachable:
    """A changed host key is told as what it is: it needs another remedy than a dead host."""
    text = f"{message} {'; '.join(host.error for host in hosts)}"
    for host in hosts:
        if isinstance(host.failure, HostKeyChanged):
            return HostKeyChanged(text, hint=host.failure.hint, subject=host.name)
    hint = f"Check the host with: vmconsole host check {hosts[0].name}"
    return HostUnreachable(text, hint=hint, subject=hosts[0].name)


def _dry_run(work: list[Target], services: Services, output: Output) -> int:
    names = {target.repository.name for target in work}
    points = {name: [found.point for found in seen_points(services, output, name)] for name in names}
    documents: list[dict[str, Any]] = []
    rows: list[tuple[Cell, ...]] = []
    code, expected = EXIT_DONE, 0
    with output.busy(f"Planning {len(work)} backups …"):
        plans = list(forecast(work, points))
    for target, plan in plans:
        if isinstance(plan, VmconsoleError):
            code = EXIT_FAILED
            documents.append({"guest": target.guest.name, "host": target.guest.host} | plan.as_json())
            why = [f"✗ {plan.message}", *([f"→ {plan.hint}"] if plan.hint else [])]
            rows.append((target.guest.name, target.guest.host, "–", "–", "–", tuple(why)))
            continue
        documents.append(plan_document(plan))
        expected += plan.bytes_expected
        reasons = "; ".join(filter(None, (plan.reason, plan.method_reason)))
        why = [*([reasons] if reasons else []), *(f"! {warning}" for warning in plan.warnings)]
        figures = (plan.mode.value, plan.method, size(plan.bytes_expected))
        rows.append((plan.guest.name, plan.guest.host, *figures, tuple(why)))
    output.document({"plan": documents})
    columns = (
        Column("guest", least=16),
        Column("host", drop=1),
        Column("mode"),
        Column("read by", drop=2),
        Column("to read", right=True),
        Column("why", below=True, least=40),
    )
    output.table(columns, rows)
    if not output.json:
        output.note(f"Nothing was changed. About {size(expected)} would be read.")
    return code
