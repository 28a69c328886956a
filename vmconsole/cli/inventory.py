"""Hosts, guests and disks; guests in no group are marked as unprotected."""

from __future__ import annotations

import argparse

from vmconsole.cli.documents import inventory_document
from vmconsole.cli.format import age, size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import look
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, HostUnreachable
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.model.point import RestorePoint

HELP = "list hosts, guests and disks"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="only these hosts")
    parser.add_argument(
        "--refresh", action="store_true", help="ask the hosts even when they were seen just now"
    )


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    for name in args.hosts:
        services.config.host(name)
    seen = _seen(args.hosts, services, refresh=args.refresh)
    groups = {
        guest.uuid: [group.name for group in services.config.groups() if group.selector.why(guest)]
        for host in seen
        for guest in host.guests
    }
    last = _last_points(services)
    if output.json:
        output.document(inventory_document(seen, groups, last))
    for host in seen:
        _show(host, groups, last, services, output)
    return HostUnreachable.exit_code if any(not host.reachable for host in seen) else EXIT_DONE


def _seen(hosts: list[str], services: Services, *, refresh: bool) -> list[HostInventory]:
    """A look that is less than a minute old serves again, unless a fresh one is asked for."""
    names = hosts or list(services.config.hosts)
    if not refresh:
        now = services.clock.now()
        known = {
            name: inventory
            for name, (inventory, when) in services.store.inventories().items()
            if 0 <= (now - when).total_seconds() < 60
        }
        if all(name in known for name in names):
            return [known[name] for name in names]
    return look(services, names)


def _last_points(services: Services) -> dict[str, RestorePoint]:
    last: dict[str, RestorePoint] = {}
    for name in services.config.repositories:
        for point in services.store.points(name):
            if point.uuid not in last or last[point.uuid].time < point.time:
                last[point.uuid] = point
    return last


def _show(
    host: HostInventory,
    groups: dict[str, list[str]],
    last: dict[str, RestorePoint],
    services: Services,
    output: Output,
) -> None:
    if not host.reachable:
        output.line(f"✗ {host.name} ({host.kind.value}): {host.error}", style="red")
        output.line(f"  → Check it with: vmconsole host check {host.name}")
        return
    load = ", ".join(
        f"{name} {value:.0%}"
        for name, value in (("cpu", host.load.cpu), ("io", host.load.io), ("memory", host.load.memory))
        if value is not None
    )
    output.line(f"{host.name} ({host.kind.value}) {load}".rstrip(), style="bold")
    rows = [_row(guest, groups.get(guest.uuid, []), last.get(guest.uuid), services) for guest in host.guests]
    output.table(
        ("", "guest", "state", "agent", "group", "last point", "size", "disks"), rows, right=("size",)
    )


def _row(guest: Guest, groups: list[str], last: RestorePoint | None, services: Services) -> tuple[str, ...]:
    disks = ", ".join(
        f"{disk.id} {size(disk.size)} {disk.format}"
        + ("" if disk.included else f" (left out: {disk.reason})")
        for disk in guest.disks
    )
    return (
        "✓" if groups else "! unprotected",
        guest.name,
        guest.state.value,
        "yes" if guest.agent else "no",
        ", ".join(groups) or "–",
        age(services.clock.now() - last.time) if last else "– never",
        size(guest.size),
        disks,
    )
