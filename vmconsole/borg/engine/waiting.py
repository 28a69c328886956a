"""Waiting for a repository's lock, saying who holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vmconsole.borg.engine.owners import owners
from vmconsole.borg.engine.translate import locked
from vmconsole.borg.settings import BorgSettings
from vmconsole.errors import RepositoryLocked

T = TypeVar("T")

LOCAL_SLICE = 0.3
REMOTE_SLICE = 10.0
"""Seconds one try waits: short where trying is cheap, so that a cancel is heard soon."""
PAUSE = 0.5
REPEAT = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How to wait: monotonic seconds, a sleep that may raise Cancelled, and who is told the reason."""

    clock: Callable[[], float]
    sleep: Callable[[float], None]
    say: Callable[[str], None]


def until_unlocked(settings: BorgSettings, patience: Patience, attempt: Callable[[float], T | None]) -> T:
    """Call attempt(lock wait in seconds) until it gives something.

    attempt raises RepositoryLocked, or gives None while this process itself holds the repository.
    Raises RepositoryLocked, naming the owner, when settings.lock_wait has passed.
    """
    deadline = patience.clock() + settings.lock_wait
    told, told_at = "", float("-inf")
    while True:
        remaining = deadline - patience.clock()
        owner = "another part of this process"
        try:
            made = attempt(
                min(remaining, REMOTE_SLICE) if settings.is_remote and remaining > 0 else LOCAL_SLICE
            )
            if made is not None:
                return made
        except RepositoryLocked:
            owner = describe(settings)
        if patience.clock() >= deadline:
            raise locked(settings, owner)
        if owner != told or patience.clock() - told_at >= REPEAT:
            told, told_at = owner, patience.clock()
            patience.say(f"locked by {owner or 'somebody else'}")
        patience.sleep(max(0.0, min(PAUSE, deadline - patience.clock())))


def describe(settings: BorgSettings) -> str:
    """Who holds the lock, as a phrase; empty when it cannot be told (a remote Borg does not say)."""
    return "" if settings.is_remote else "; ".join(str(owner) for owner in owners(settings.path))
