"""Hosts, guests and disks. Guests in no group are marked as unprotected.

A look that is less than a minute old serves again; --refresh asks anew.
"""

from __future__ import annotations

import argparse
from datetime import datetime

from vmconsole.cli.documents import inventory_document
from vmconsole.cli.format import age, size
from vmconsole.cli.output import Cell, Output
from vmconsole.cli.selection import listed, look
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, HostUnreachable
from vmconsole.front.services import Services
from vmconsole.model.guest import Disk, Guest, HostInventory
from vmconsole.model.point import RestorePoint
from vmconsole.runs.alerts import unprotected

HELP = "list hosts, guests and disks"
_FRESH_SECONDS = 60


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="only these hosts")
    parser.add_argument(
        "--refresh", action="store_true", help="ask the hosts even when they were seen just now"
    )


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    for name in args.hosts:
        services.config.host(name)
    if not services.config.hosts:
        output.note("No host is configured yet. Add one with: vmconsole host add kvm1 root@kvm1.example")
    seen = _seen(args.hosts, services, output, refresh=args.refresh)
    when = {name: moment for name, (_, moment) in services.store.inventories().items()}
    groups = {
        guest.uuid: [group.name for group in services.config.groups() if group.selector.why(guest)]
        for host in seen
        for guest in host.guests
    }
    last = _last_points(services)
    output.document(inventory_document(seen, groups, last, when))
    for host in seen:
        _show(host, when.get(host.name), groups, last, services, output)
    _tell_unprotected(seen, services, output)
    return HostUnreachable.exit_code if any(not host.reachable for host in seen) else EXIT_DONE


def _seen(hosts: list[str], services: Services, output: Output, *, refresh: bool) -> list[HostInventory]:
    """What was seen within the last minute, and with this configuration, serves again."""
    names = hosts or list(services.config.hosts)
    if not refresh:
        now = services.clock.now()
        known = {
            name: inventory
            for name, (inventory, when) in services.store.inventories().items()
            if 0 <= (now - when).total_seconds() < _FRESH_SECONDS
            and when.timestamp() > services.config.path.stat().st_mtime
        }
        if all(name in known for name in names):
            return [known[name] for name in names]
    return look(services, output, names) if names else []


def _tell_unprotected(seen: list[HostInventory], services: Services, output: Output) -> None:
    groups = services.config.groups()
    count = sum(unprotected(guest, groups) for host in seen for guest in host.guests)
    if count and not output.json:
        what = "1 guest is" if count == 1 else f"{count} guests are"
        output.note(f"! {what} in no group. Make one, as in: vmconsole group add all --host '*'", "yellow")


def _last_points(services: Services) -> dict[str, RestorePoint]:
    last: dict[str, RestorePoint] = {}
    for name in services.config.repositories:
        for point in services.store.points(name):
            if point.uuid not in last or last[point.uuid].time < point.time:
                last[point.uuid] = point
    return last


def _show(
    host: HostInventory,
    when: datetime | None,
    groups: dict[str, list[str]],
    last: dict[str, RestorePoint],
    services: Services,
    output: Output,
) -> None:
    if not host.reachable:
        output.line(f"✗ {host.name} ({host.kind.value}): {host.error}")
        check = f"Check it with: vmconsole host check {host.name}"
        output.remedy((host.failure.hint if host.failure else "") or check)
        return
    facts = [
        f"{name} {value:.0%}"
        for name, value in (("cpu", host.load.cpu), ("io", host.load.io), ("memory", host.load.memory))
        if value is not None
    ]
    if len(host.nodes) > 1:
        down = [node.name for node in host.nodes if not node.online]
        facts.append(f"{len(host.nodes)} nodes" + (f" ({listed(down)} offline)" if down else ""))
    if when is not None:
        facts.append(f"seen {age(services.clock.now() - when)}")
    output.line(f"{host.name} ({host.kind.value}) {', '.join(facts)}".rstrip(), style="bold")
    for warning in host.warnings:
        output.note(f"  ! {warning}", "yellow")
    if not host.guests:
        output.note("  It has no guests that the login user can see.")
        return
    columns = (
        Column("protected"),
        Column("guest", least=16),
        *([Column("node", drop=6)] if len(host.nodes) > 1 else []),
        Column("state", drop=1),
        Column("agent", drop=4),
        Column("group", least=8, drop=3),
        Column("last point"),
        Column("size", right=True, drop=5),
        Column("disks", least=18, drop=2),
    )
    output.table(
        columns,
        [
            _row(guest, host, groups.get(guest.uuid, []), last.get(guest.uuid), services)
            for guest in host.guests
        ],
    )


def _row(
    guest: Guest, host: HostInventory, groups: list[str], last: RestorePoint | None, services: Services
) -> tuple[Cell, ...]:
    return (
        "✓ yes" if groups else "! no" if unprotected(guest, services.config.groups()) else "– left out",
        guest.name,
        *([guest.node] if len(host.nodes) > 1 else []),
        "template" if guest.template else guest.state.value,
        "yes" if guest.agent else "no",
        ", ".join(groups) or "–",
        age(services.clock.now() - last.time) if last else "– never",
        size(guest.size),
        tuple(_disk(disk) for disk in guest.disks),
    )


def _disk(disk: Disk) -> str:
    left_out = "" if disk.included else f" (left out: {disk.reason})"
    return f"{disk.id} {size(disk.size)} {disk.format}{left_out}"
