"""From what the user typed to guests, groups, points and repositories."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vmconsole.cli.output import Output
from vmconsole.errors import RepositoryLocked
from vmconsole.front.hosts import ask_hosts
from vmconsole.front.services import Services
from vmconsole.interfaces import Repository
from vmconsole.model.guest import Guest, HostInventory
from vmconsole.model.ledger import Mark
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import LOCK_PATIENCE, Memory, live_marks, remember
from vmconsole.runs.names import find_point
from vmconsole.runs.prune import guest_of
from vmconsole.runs.work import Target


def look(services: Services, output: Output, hosts: Iterable[str] = ()) -> list[HostInventory]:
    """Ask the hosts (all by default) at the same time; a host that cannot be reached says so in its entry."""
    names = list(hosts) or list(services.config.hosts)
    with output.busy(f"Asking {listed(names)} …"):
        return ask_hosts(services, names)


def reachable_guests(services: Services, output: Output) -> tuple[list[Guest], list[HostInventory]]:
    """The guests of all hosts that answer, and the hosts that do not."""
    seen = look(services, output)
    guests = [guest for inventory in seen for guest in inventory.guests]
    return guests, [inventory for inventory in seen if not inventory.reachable]


def targets(services: Services, guests: Iterable[Guest], group: str | None, *, full: bool) -> list[Target]:
    """Where each guest goes and within which limits: by the group, or by the first group that covers it."""
    config = services.config
    repositories: dict[str, Repository] = {}
    result = []
    for guest in guests:
        name = group or next((g.name for g in config.groups() if g.selector.why(guest)), None)
        repository = config.group(name).repository if name else config.default_repository()
        if repository not in repositories:
            repositories[repository] = services.repository(repository)
        options = config.export_options(guest, name)
        if full:
            options = replace(options, full_reason="a full read was asked for")
        result.append(
            Target(
                guest,
                services.hypervisor(guest.host),
                repositories[repository],
                options,
                config.full_every(name),
                uplink=config.uplink(guest.host),
            )
        )
    return result


def group_guests(services: Services, group: str, guests: Iterable[Guest]) -> list[Guest]:
    """The guests a group covers now. Raises ConfigError when there is no such group."""
    selector = services.config.group(group).selector
    return [guest for guest in guests if selector.why(guest) is not None]


def group_points(
    services: Services, output: Output, group: str, points: Iterable[RestorePoint]
) -> list[RestorePoint]:
    """The points of guests that a group covers now.

    A guest that is gone, or whose host does not answer, is judged by what was last seen of it, and by the
    name and host in its point: a dead host must not hide the points that replace it.
    """
    selector = services.config.group(group).selector
    points = list(points)
    known = {
        guest.uuid: guest
        for inventory, _ in services.store.inventories().values()
        for guest in inventory.guests
    }
    guests, unreachable = reachable_guests(services, output)
    known |= {guest.uuid: guest for guest in guests}
    for host in unreachable:
        output.note(f"! {host.name} was not asked ({host.error}); its guests are as last seen.", "yellow")
    covered = {uuid for uuid, guest in known.items() if selector.why(guest)}
    covered |= {point.uuid for point in points if point.uuid not in known and selector.why(guest_of(point))}
    return [point for point in points if point.uuid in covered]


@dataclass(frozen=True, slots=True)
class Found:
    """A point and where it is. mark: it was pruned, and is hidden; None for a point like any other."""

    repository: str
    point: RestorePoint
    mark: Mark | None = None


def all_points(
    services: Services, output: Output, repository: str | None = None
) -> list[tuple[str, RestorePoint]]:
    """(repository name, point) for every point that was not pruned, newest first."""
    found = seen_points(services, output, repository)
    return [(item.repository, item.point) for item in found if item.mark is None]


def seen_points(services: Services, output: Output, repository: str | None = None) -> list[Found]:
    """Every point, pruned or not, newest first, read from the repositories and remembered.

    Of a repository that a backup keeps locked, for hours maybe, what was last seen.
    """
    names = [repository] if repository else list(services.config.repositories)
    found = []
    for name in names:
        points = _points(name, services, output)
        marks = live_marks(services.ledger.marks(name), points)
        found += [Found(name, point, marks.get(point.archive)) for point in points]
    return sorted(found, key=lambda item: item.point.time, reverse=True)


def choose_point(text: str, found: Sequence[Found], output: Output) -> Found:
    """The point that text names. One that was pruned is found by its full archive name only.

    Raises PointNotFound.
    """
    exact = next((item for item in found if text and text == item.point.archive), None)
    if exact is None:
        point = find_point(text, [item.point for item in found if item.mark is None])
        return next(item for item in found if item.point is point)
    if exact.mark:
        output.note(
            f"! {text} was pruned on {exact.mark.marked.astimezone():%Y-%m-%d}. "
            f"Keep it: vmconsole undo-prune {shlex.quote(text)}",
            "yellow",
        )
    return exact


def _points(name: str, services: Services, output: Output) -> list[RestorePoint]:
    repository = services.repository(name)
    memory = Memory(services.store, services.ledger)
    try:
        with output.busy(f"Reading repository {name} …"), repository.reader(wait=LOCK_PATIENCE) as reader:
            points = reader.points()
            noticed = remember(name, points, memory)
    except RepositoryLocked as error:
        points = services.store.points(name)
        if not points:
            raise
        output.note(f"! {error.message} Its points are as last seen.", "yellow")
        return points
    for message, remedy in noticed.texts(name):
        output.note(f"! {message}", "red")
        output.note(f"  → {remedy}")
    return points


def listed(names: Iterable[str], most: int = 3) -> str:
    """`a`, `a and b`, `a, b, c and 4 more`."""
    names = list(names)
    shown = names if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1] if shown else "")))
