"""What is planned and not there yet, said the same way by the command line and the console."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capability:
    """Something people look for.

    what: begins a sentence that goes on with `is not in this version`. verbs: the commands it will have.
    since: the version that brought it; empty while it is not there. instead: what does the job today.
    """

    id: str
    what: str
    verbs: tuple[str, ...]
    instead: str
    since: str = ""

    @property
    def there(self) -> bool:
        return bool(self.since)

    @property
    def sentence(self) -> str:
        """Why it cannot be done now; empty when it can."""
        return "" if self.there else f"{self.what} is not in this version."

    def instead_for(self, archive: str) -> str:
        """The same with a restore point's name in place of POINT."""
        return re.sub(r"\bPOINT\b", lambda _: shlex.quote(archive), self.instead)


CAPABILITIES = (
    Capability(
        "verify",
        "Verifying a single restore point",
        ("verify",),
        "The whole repository, every byte of it: vmconsole repo check --verify-data",
    ),
    Capability(
        "rollback",
        "Rolling a guest back in place",
        ("rollback",),
        "Make a new guest beside it, then swap the two: vmconsole restore POINT --host HOST --as NAME",
    ),
    Capability(
        "boot",
        "Booting a guest straight from a restore point",
        ("boot",),
        "Restore it under another name and start it: vmconsole restore POINT --host HOST --as NAME --start",
    ),
    Capability(
        "drill",
        "Testing restores by schedule",
        ("drill",),
        "Restore under another name by hand: vmconsole restore POINT --host HOST --as NAME --start",
    ),
    Capability(
        "copy",
        "Copying restore points into a second repository",
        ("copy",),
        "A second group with another repository backs up the same guests there: vmconsole group add --help",
    ),
)


def capability(name: str) -> Capability:
    """By its id."""
    return next(item for item in CAPABILITIES if item.id == name)


def planned(verb: str) -> Capability | None:
    """What a command that does not exist yet will do; None when nobody plans one of that name."""
    return next((item for item in CAPABILITIES if verb in item.verbs and not item.there), None)
