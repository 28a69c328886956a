"""Groups: which guests belong together."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from vmconsole.model.guest import Guest


@dataclass(frozen=True, slots=True)
class Selector:
    """Which guests a group covers.

    A guest is in when any of guests (name or `host/name` globs, or uuids), tags, or hosts says so
    and no exclude glob does. An empty selector covers nothing.
    """

    guests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def why(self, guest: Guest) -> str | None:
        """Why the guest is covered, as a phrase; None when it is not."""
        if any(_matches(pattern, guest) for pattern in self.exclude):
            return None
        for pattern in self.guests:
            if _matches(pattern, guest):
                return f"name matches {pattern}"
        for tag in self.tags:
            if tag in guest.tags:
                return f"has tag {tag}"
        for pattern in self.hosts:
            if fnmatchcase(guest.host, pattern):
                return f"is on host {pattern}"
        return None

    def excluded_by(self, guest: Guest) -> str | None:
        return next((pattern for pattern in self.exclude if _matches(pattern, guest)), None)


@dataclass(frozen=True, slots=True)
class Group:
    """What the operator configures: which guests, and into which repository."""

    name: str
    selector: Selector
    repository: str


def _matches(pattern: str, guest: Guest) -> bool:
    return (
        pattern in (guest.name, guest.uuid, f"{guest.host}/{guest.name}")
        or fnmatchcase(guest.name, pattern)
        or fnmatchcase(f"{guest.host}/{guest.name}", pattern)
    )
