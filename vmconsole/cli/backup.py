"""Back up guests now.

vmconsole backup web-01 kvm2/db        two guests
vmconsole backup --group daily         what the group covers now
vmconsole backup --all --dry-run       what would happen to every guest, and why
"""

from __future__ import annotations

import argparse
import sys

from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import all_points, group_guests, reachable_guests, targets
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, HostUnreachable, UsageError, VmconsoleError
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.runs.names import find_guest
from vmconsole.runs.runner import Target, forecast

HELP = "back up guests now"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("guests", nargs="*", metavar="GUEST", help="name, host/name, or uuid")
    parser.add_argument("--group", "-g", metavar="GROUP", help="every guest of this group")
    parser.add_argument("--all", action="store_true", help="every guest of every host")
    parser.add_argument("--full", action="store_true", help="read everything, use no parent")
    parser.add_argument("--dry-run", "-n", action="store_true", help="say what would happen, change nothing")
    parser.add_argument(
        "--detach", action="store_true", help="run in the background; follow with: vmconsole runs"
    )


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if sum((bool(args.guests), bool(args.group), args.all)) != 1:
        raise UsageError(
            "Say what to back up: guests, or --group, or --all.", hint="See: vmconsole backup --help"
        )
    if args.detach and not args.dry_run:
        services.detach([argument for argument in sys.argv[1:] if argument != "--detach"])
        output.note("Started in the background. Follow it with: vmconsole runs --follow")
        return EXIT_DONE
    seen, unreachable = reachable_guests(services)
    chosen, subject = _choose(args, services, seen, unreachable)
    work = targets(services, chosen, args.group, full=args.full)
    if args.dry_run:
        return _dry_run(work, services, output)
    with output.events() as sink:
        outcome = services.runner([sink]).backup(work, subject)
    if args.group or args.all:
        for host in unreachable:
            output.error(HostUnreachable(f"Host {host.name} was left out: {host.error}", subject=host.name))
        if unreachable and outcome.exit_code == EXIT_DONE:
            return HostUnreachable.exit_code
    shown = {name for name, _ in outcome.errors} & {target.guest.name for target in work}
    for name, error in outcome.errors:
        if name not in shown and not output.json:
            output.error(error)
    return outcome.exit_code


def _choose(
    args: argparse.Namespace, services: Services, seen: list[Guest], unreachable: list[HostInventory]
) -> tuple[list[Guest], str]:
    if args.group:
        chosen = group_guests(services, args.group, seen)
        subject = f"group {args.group}"
    elif args.all:
        chosen, subject = seen, "all guests"
    else:
        try:
            found = {guest.uuid: guest for guest in (find_guest(name, seen) for name in args.guests)}
        except UsageError as error:
            if unreachable:
                raise HostUnreachable(
                    f"{error.message} Not asked, because out of reach: "
                    + "; ".join(f"{host.name} ({host.error})" for host in unreachable),
                    hint="Check the host with: vmconsole host check " + unreachable[0].name,
                ) from error
            raise
        chosen = list(found.values())
        subject = ", ".join(guest.name for guest in chosen)
    if not chosen:
        if unreachable:
            raise HostUnreachable(
                "No guest to back up: " + "; ".join(f"{host.name}: {host.error}" for host in unreachable),
                hint="Check the host with: vmconsole host check " + unreachable[0].name,
            )
        raise UsageError(f"There is no guest to back up in {subject}.", hint="See: vmconsole inventory")
    return chosen, subject


def _dry_run(work: list[Target], services: Services, output: Output) -> int:
    repositories = {target.repository.name for target in work}
    points = {name: [point for _, point in all_points(services, name)] for name in repositories}
    documents, rows, code = [], [], EXIT_DONE
    for target, plan in forecast(work, points):
        if isinstance(plan, VmconsoleError):
            code = EXIT_FAILED
            documents.append({"guest": target.guest.name, "host": target.guest.host} | plan.as_json())
            rows.append([f"✗ {target.guest.name}", target.guest.host, "–", "–", "–", plan.message])
            continue
        documents.append(
            {
                "guest": plan.guest.name,
                "uuid": plan.guest.uuid,
                "host": plan.guest.host,
                "mode": plan.mode.value,
                "reason": plan.reason or None,
                "method": plan.method,
                "method_reason": plan.method_reason or None,
                "bytes_expected": plan.bytes_expected,
                "warnings": list(plan.warnings),
                "disks": [
                    {
                        "id": disk.id,
                        "size": disk.size,
                        "mode": disk.mode.value,
                        "reason": disk.reason or None,
                        "bytes_expected": disk.bytes_expected,
                    }
                    for disk in plan.disks
                ],
            }
        )
        why = "; ".join(filter(None, (plan.reason, plan.method_reason, *plan.warnings)))
        rows.append(
            [plan.guest.name, plan.guest.host, plan.mode.value, plan.method, size(plan.bytes_expected), why]
        )
    if output.json:
        output.document({"plan": documents})
    output.table(("guest", "host", "mode", "method", "to read", "why"), rows, right=("to read",))
    return code
