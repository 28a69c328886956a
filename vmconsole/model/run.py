"""Runs: one execution of a backup or restore, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol


class RunState(Enum):
    RUNNING = "running"
    DONE = "done"
    WARNINGS = "warnings"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DIED = "died"
    """The process vanished without saying how it ended."""


@dataclass(frozen=True, slots=True)
class Run:
    """process is `HOSTNAME:PID:START` of the runner, so that a reused pid is never signalled."""

    id: str
    kind: str
    subject: str
    state: RunState
    process: str
    started: datetime
    ended: datetime | None = None
    error: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Something a run acquired, written down before it was acquired.

    kind and payload belong to whoever acquired it; host names who can undo it.
    """

    id: int
    run: str
    process: str
    host: str
    kind: str
    payload: dict[str, str]
    created: datetime


class Journal(Protocol):
    """The durable cleanup journal. `acquire` returns once the entry is on disk."""

    def acquire(self, host: str, kind: str, payload: Mapping[str, str]) -> int:
        """Write down what is about to be acquired; returns the entry's id."""
        ...

    def release(self, entry: int) -> None:
        """It is gone again."""
        ...
