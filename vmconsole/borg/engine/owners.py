"""Who holds a repository's lock."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from borg.platform import get_process_id

MAX_ROSTER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Owner:
    """A holder as Borg writes it down. host: `fqdn@number`, Borg's own idea of a machine."""

    host: str
    pid: int
    shared: bool

    def __str__(self) -> str:
        here = get_process_id()[0]
        what = f"process {self.pid} on {self.host.partition('@')[0] if self.host != here else 'this machine'}"
        command = _command(self.pid) if self.host == here else ""
        return what + (f" ({command})" if command else "") + (", reading" if self.shared else "")


def owners(repository: Path) -> list[Owner]:
    """The holders of a local repository's lock; empty when nobody holds it or it cannot be told."""
    found = []
    with suppress(OSError):
        found = [
            owner
            for entry in (repository / "lock.exclusive").iterdir()
            if (owner := _parse(entry.name)) is not None
        ]
    return found or _readers(repository / "lock.roster")


def _parse(name: str) -> Owner | None:
    """A file name in the lock folder: HOST.PID-THREAD."""
    host_pid, _, _ = name.rpartition("-")
    host, _, pid = host_pid.rpartition(".")
    return Owner(host, int(pid), shared=False) if host and pid.isdecimal() else None


def _readers(roster: Path) -> list[Owner]:
    try:
        with roster.open("rb") as file:
            shared = json.loads(file.read(MAX_ROSTER))["shared"]
        return [Owner(str(host), int(pid), shared=True) for host, pid, _ in shared]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    # Without the folders of an interpreter and its script, which leave no room for what it does.
    shown = [word.rpartition(b"/")[2] if place < 2 else word for place, word in enumerate(words)]
    text = " ".join(word.decode("utf-8", "replace") for word in shown).strip()
    return "".join(character if character.isprintable() else "?" for character in text)[:120]
