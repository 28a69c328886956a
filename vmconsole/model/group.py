"""Groups: which guests belong together."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from vmconsole.model.guest import Guest
from vmconsole.model.schedule import KEEP_ALL, Retention, Schedule


@dataclass(frozen=True, slots=True)
class Selector:
    """Which guests a group covers.

    A guest is in when any of guests (name or `host/name` globs, or uuids), tags, pools, hosts (a host's name, or
    `host/node`), or kinds (`vm`, `container`, `template`) says so and neither exclude nor exclude_tags does.
    An empty selector covers nothing.
    """

    guests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()

    def why(self, guest: Guest) -> str | None:
        """Why the guest is covered, as a phrase; None when it is not."""
        if self.excluded_by(guest) is not None:
            return None
        for pattern in self.guests:
            if _matches(pattern, guest):
                return f"name matches {pattern}"
        for tag in self.tags:
            if tag in guest.tags:
                return f"has tag {tag}"
        for pool in self.pools:
            if fnmatchcase(guest.pool, pool) and guest.pool:
                return f"is in pool {guest.pool}"
        for pattern in self.hosts:
            if fnmatchcase(guest.host, pattern) or fnmatchcase(f"{guest.host}/{guest.node}", pattern):
                return f"is on host {pattern}"
        kind = "template" if guest.template else guest.kind.value
        return f"is a {kind}" if kind in self.kinds else None

    def excluded_by(self, guest: Guest) -> str | None:
        """The pattern or tag that keeps it out."""
        found = next((pattern for pattern in self.exclude if _matches(pattern, guest)), None)
        return found or next((f"tag {tag}" for tag in self.exclude_tags if tag in guest.tags), None)


@dataclass(frozen=True, slots=True)
class Group:
    """What the operator configures: which guests, and into which repository."""

    name: str
    selector: Selector
    repository: str
    schedules: tuple[Schedule, ...] = ()
    retention: Retention = KEEP_ALL
    """Of points that none of its schedules made."""
    together: bool = False
    """All guests are cut at the same moment."""
    apart: bool = False
    """When that cannot be done: whether each is then backed up by itself."""
    overdue_after: float = 0.0
    """Seconds without a good restore point after which a guest is overdue; 0: as its schedules say."""
    ping: str = ""


def _matches(pattern: str, guest: Guest) -> bool:
    return (
        pattern in (guest.name, guest.uuid, f"{guest.host}/{guest.name}")
        or fnmatchcase(guest.name, pattern)
        or fnmatchcase(f"{guest.host}/{guest.name}", pattern)
    )
