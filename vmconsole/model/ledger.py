"""What became of restore points besides their making: marked for deletion, deleted, gone without our doing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """A restore point that retention does not keep. It is hidden, and deleted by the next compact."""

    repository: str
    archive: str
    archive_id: str
    marked: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Vanished:
    """A restore point that was there and is not any more, though nobody here deleted it.

    accepted: when the operator said that it is all right.
    """

    repository: str
    archive: str
    archive_id: str
    guest: str
    time: datetime
    noticed: datetime
    accepted: datetime | None = None
