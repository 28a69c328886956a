"""Groups: which guests are backed up together.

vmconsole group add daily --guest 'web-*' --tag prod --exclude web-test
vmconsole group show daily          the guests it covers now, and why
"""

from __future__ import annotations

import argparse

from vmconsole.cli import changing
from vmconsole.cli.output import Output
from vmconsole.cli.selection import reachable_guests
from vmconsole.cli.services import Services
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, HostUnreachable, UsageError
from vmconsole.model.group import Group

HELP = "add, list, show and remove groups"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = verbs.add_parser("add", help="make a group")
    add.add_argument("name", metavar="NAME")
    add.add_argument(
        "--guest", action="append", default=[], metavar="GLOB", help="name or host/name, * and ? match"
    )
    add.add_argument("--tag", action="append", default=[], metavar="TAG", help="every guest with this tag")
    add.add_argument("--host", action="append", default=[], metavar="GLOB", help="every guest on these hosts")
    add.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="but not these guests")
    add.add_argument("--repository", "-r", metavar="NAME", help="where the restore points go")
    verbs.add_parser("list", help="list groups")
    show = verbs.add_parser("show", help="the guests a group covers now, and why")
    show.add_argument("name", metavar="NAME")
    remove = verbs.add_parser("remove", help="remove a group; restore points stay")
    remove.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    actions = {"add": _add, "list": _list, "show": _show, "remove": _remove}
    return actions[args.action](args, services, output)


def _add(args: argparse.Namespace, services: Services, output: Output) -> int:
    values: dict[str, object] = {
        key: chosen
        for key, chosen in (
            ("guests", args.guest),
            ("tags", args.tag),
            ("hosts", args.host),
            ("exclude", args.exclude),
        )
        if chosen
    }
    if not values.keys() & {"guests", "tags", "hosts"}:
        raise UsageError("Say which guests: --guest, --tag or --host.", hint="All guests: --host '*'")
    if args.repository:
        values["repository"] = args.repository
    changing.add(services, "groups", args.name, values)
    output.document({"group": {"name": args.name, **values}, "config": str(services.config_path)})
    output.line(f"✓ Group {args.name} was added to {services.config_path}.")
    output.hint(f"See what it covers: vmconsole group show {args.name}")
    return EXIT_DONE


def _list(args: argparse.Namespace, services: Services, output: Output) -> int:
    groups = services.config.groups()
    output.document(
        {
            "groups": [
                {
                    "name": group.name,
                    "repository": group.repository,
                    "guests": list(group.selector.guests),
                    "tags": list(group.selector.tags),
                    "hosts": list(group.selector.hosts),
                    "exclude": list(group.selector.exclude),
                }
                for group in groups
            ]
        }
    )
    if not groups:
        output.note("No group yet. One that covers every guest: vmconsole group add all --host '*'")
        return EXIT_DONE
    folding = (Column(title, least=10) for title in ("guests", "tags", "hosts", "exclude"))
    output.table((Column("group"), Column("repository", drop=1), *folding), [_row(group) for group in groups])
    return EXIT_DONE


def _row(group: Group) -> tuple[str, ...]:
    selector = group.selector
    lists = (selector.guests, selector.tags, selector.hosts, selector.exclude)
    return (group.name, group.repository, *(", ".join(items) or "–" for items in lists))


def _show(args: argparse.Namespace, services: Services, output: Output) -> int:
    group = services.config.group(args.name)
    guests, unreachable = reachable_guests(services, output)
    covered = [(guest, why) for guest in guests if (why := group.selector.why(guest)) is not None]
    left_out = [(guest, why) for guest in guests if (why := group.selector.excluded_by(guest)) is not None]
    output.document(
        {
            "group": group.name,
            "repository": group.repository,
            "guests": [
                {"uuid": guest.uuid, "name": guest.name, "host": guest.host, "why": why}
                for guest, why in covered
            ],
            "excluded": [
                {"uuid": guest.uuid, "name": guest.name, "host": guest.host, "by": why}
                for guest, why in left_out
            ],
            "not_asked": [{"host": host.name, "error": host.error} for host in unreachable],
        }
    )
    rows = [(guest.name, guest.host, why) for guest, why in covered]
    rows += [(f"– {guest.name}", guest.host, f"excluded by {why}") for guest, why in left_out]
    if rows:
        output.table((Column("guest", least=16), Column("host", drop=1), Column("why", least=20)), rows)
    elif not unreachable:
        output.note(f"Group {group.name} covers no guest now. See them all: vmconsole inventory --refresh")
    for host in unreachable:
        output.note(f"✗ {host.name} was not asked: {host.error}", style="red")
        check = f"Check it with: vmconsole host check {host.name}"
        output.note(f"  → {(host.failure.hint if host.failure else '') or check}")
    return HostUnreachable.exit_code if unreachable else EXIT_DONE


def _remove(args: argparse.Namespace, services: Services, output: Output) -> int:
    services.config.group(args.name)
    changing.remove(services, "groups", args.name)
    output.document({"removed": {"group": args.name}, "config": str(services.config_path)})
    output.line(f"✓ Group {args.name} was removed from {services.config_path}. Its restore points stay.")
    return EXIT_DONE
