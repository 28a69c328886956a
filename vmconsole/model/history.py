"""What became of each guest in each run: the backups that were made, and those that were not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple


class BackupState(Enum):
    RUNNING = "running"
    DONE = "done"
    WARNINGS = "warnings"
    FAILED = "failed"
    CANCELLED = "cancelled"
    POSTPONED = "postponed"
    """Could not be done at that moment (in migration, locked); it is tried again within the window."""
    DIED = "died"
    """The run's process vanished without saying how it ended."""


class Glance(NamedTuple):
    """Of a record, what is added up over many nights. Bytes."""

    uuid: str
    started: datetime
    ended: datetime | None
    state: BackupState
    bytes_dirty: int
    bytes_read: int
    bytes_stored: int


GOOD_STATES = (BackupState.DONE, BackupState.WARNINGS)
"""Those that left a restore point."""


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """One attempt to back up one guest. Bytes as in a restore point; seconds from plan to commit.

    slot: the scheduled time it was for; None for one asked for by hand. group, schedule: empty then, or
    when no group was named. archive: empty when no restore point was made. error: the message, hint: its remedy;
    of one with warnings the first of them.
    """

    id: int
    run: str
    uuid: str
    guest: str
    host: str
    repository: str
    started: datetime
    state: BackupState = BackupState.RUNNING
    group: str = ""
    schedule: str = ""
    slot: datetime | None = None
    ended: datetime | None = None
    mode: str = ""
    method: str = ""
    reason: str = ""
    consistency: str = ""
    archive: str = ""
    bytes_expected: int = 0
    bytes_dirty: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    code: str = ""
    """The error's code (errors.py)."""
    error: str = ""
    hint: str = ""

    @property
    def good(self) -> bool:
        """Whether it left a restore point."""
        return self.state in GOOD_STATES
