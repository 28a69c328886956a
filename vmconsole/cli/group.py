"""Groups: which guests are backed up together, when, and what is kept.

vmconsole group add daily --guests 'web-*' --tags prod --when 'daily 22:00'
vmconsole group edit daily --keep daily=14,weekly=8 --dry-run
vmconsole group show daily     the guests it covers and why, the next times
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from vmconsole.cli import group_options, group_view
from vmconsole.cli.format import age
from vmconsole.cli.output import Cell, Output
from vmconsole.cli.selection import reachable_guests
from vmconsole.cli.table import Column
from vmconsole.config.settings import Config
from vmconsole.errors import EXIT_DONE, HostUnreachable, UsageError
from vmconsole.front import changing, group_words
from vmconsole.front.services import Services
from vmconsole.model.group import Group

HELP = "add, list, show, edit and remove groups"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = verbs.add_parser("add", help="make a group")
    add.add_argument("name", metavar="NAME")
    group_options.configure(add, edit=False)
    verbs.add_parser("list", help="list groups, with their next time")
    show = verbs.add_parser("show", help="the guests a group covers now and why, and its next times")
    show.add_argument("name", metavar="NAME")
    edit = verbs.add_parser("edit", help="change what a group covers, its times, what is kept")
    edit.add_argument("name", metavar="NAME")
    group_options.configure(edit, edit=True)
    remove = verbs.add_parser("remove", help="remove a group; restore points stay")
    remove.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    actions = {"add": _add, "list": _list, "show": _show, "edit": _edit, "remove": _remove}
    return actions[args.action](args, services, output)


def _add(args: argparse.Namespace, services: Services, output: Output) -> int:
    values = group_options.new_group(args)
    config = changing.add(services, "groups", args.name, values, save=not args.dry_run)
    if args.dry_run:
        return _preview(
            config, args.name, {key: (None, value) for key, value in values.items()}, services, output
        )
    output.document({"group": {"name": args.name, **values}, "config": str(services.config_path)})
    output.line(f"✓ Group {args.name} was added to {services.config_path}.")
    output.hint(f"See what it covers: vmconsole group show {args.name}")
    return EXIT_DONE


def _edit(args: argparse.Namespace, services: Services, output: Output) -> int:
    wanted = group_options.changes(args)
    if not wanted:
        raise UsageError("Say what to change.", hint="See: vmconsole group edit --help")
    services.config.group(args.name)
    before = services.editor.fields("groups", args.name)
    within = group_options.within(args, wanted, before)
    for key in within:
        before = before[key]
    changed = {key: (before.get(key), value) for key, value in wanted.items() if before.get(key) != value}
    config = changing.change(services, "groups", args.name, wanted, within=within, save=not args.dry_run)
    if args.dry_run:
        return _preview(config, args.name, changed, services, output)
    output.document(
        {
            "group": {
                "name": args.name,
                **({"schedule": args.schedule} if within else {}),
                **{key: value for key, value in wanted.items() if value is not None},
            },
            "changed": _changed_document(changed),
            "config": str(services.config_path),
        }
    )
    what = f"Schedule {args.schedule} of group {args.name}" if within else f"Group {args.name}"
    if not changed:
        output.line(f"– {what} is that way already.")
        return EXIT_DONE
    output.line(f"✓ {what} was changed in {services.config_path}.")
    _tell_changes(changed, output)
    output.hint(f"See what it covers, and when it is due: vmconsole group show {args.name}")
    return EXIT_DONE


def _preview(
    config: Config, name: str, changed: Mapping[str, tuple[Any, Any]], services: Services, output: Output
) -> int:
    """What would come out. config: as it would be; the hosts in it are those there are."""
    guests, unreachable = reachable_guests(services, output)
    _tell_changes(changed, output)
    document = group_view.show(config.group(name), config, guests, unreachable, services.clock.now(), output)
    output.document({**document, "changed": _changed_document(changed), "dry_run": True})
    output.note("Nothing was changed.")
    return HostUnreachable.exit_code if unreachable else EXIT_DONE


def _tell_changes(changed: Mapping[str, tuple[Any, Any]], output: Output) -> None:
    for key, (old, new) in changed.items():
        name = key.replace("_", " ")
        output.line(f"  {name}: {group_options.as_typed(old)} → {group_options.as_typed(new)}")


def _changed_document(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {key: {"before": old, "after": new} for key, (old, new) in changed.items()}


def _list(args: argparse.Namespace, services: Services, output: Output) -> int:
    config, now = services.config, services.clock.now()
    groups = config.groups()
    if not groups:
        output.document({"groups": []})
        output.note("No group yet. One that covers every guest: vmconsole group add all --host '*'")
        return EXIT_DONE
    seen = [guest for inventory, _ in services.store.inventories().values() for guest in inventory.guests]
    counts = {group.name: sum(group.selector.why(guest) is not None for guest in seen) for group in groups}
    output.document(
        {
            "groups": [
                _selector(group)
                | {"repository": group.repository, "guests_seen": counts[group.name]}
                | group_view.plan_document(group, config.timezone, now, 1)
                for group in groups
            ]
        }
    )
    columns = (
        Column("group"),
        Column("guests seen", right=True, drop=2),
        Column("when", least=12),
        Column("next"),
        Column("repository", drop=1),
        Column("covers", least=16, drop=3),
    )
    output.table(columns, [_row(group, counts[group.name], services) for group in groups])
    return EXIT_DONE


def _row(group: Group, count: int, services: Services) -> tuple[Cell, ...]:
    now, zone = services.clock.now(), services.config.timezone
    upcoming = group_words.next_time(group, now, zone)
    whens = tuple(group_words.when_in_words(schedule, now, zone) for schedule in group.schedules)
    left = f"{upcoming.astimezone(zone):%a %Y-%m-%d %H:%M} ({age(now - upcoming)})" if upcoming else "–"
    covers = tuple(
        f"{key.replace('_', ' ')}: {', '.join(value)}"
        for key, value in _selector(group).items()
        if key != "name" and value
    )
    return (group.name, str(count), whens or ("– by hand",), left, group.repository, covers)


def _selector(group: Group) -> dict[str, Any]:
    keys = ("guests", "tags", "hosts", "pools", "kinds", "exclude", "exclude_tags")
    return {"name": group.name} | {key: list(getattr(group.selector, key)) for key in keys}


def _show(args: argparse.Namespace, services: Services, output: Output) -> int:
    group = services.config.group(args.name)
    guests, unreachable = reachable_guests(services, output)
    now = services.clock.now()
    output.document(group_view.show(group, services.config, guests, unreachable, now, output))
    return HostUnreachable.exit_code if unreachable else EXIT_DONE


def _remove(args: argparse.Namespace, services: Services, output: Output) -> int:
    services.config.group(args.name)
    changing.remove(services, "groups", args.name)
    output.document({"removed": {"group": args.name}, "config": str(services.config_path)})
    output.line(f"✓ Group {args.name} was removed from {services.config_path}. Its restore points stay.")
    return EXIT_DONE
