"""Facts about a repository."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class RepositoryInfo:
    """Sizes in bytes: original as seen by guests, stored as on disk."""

    name: str
    location: str
    id: str
    encryption: str
    archives: int
    original: int
    stored: int
    last_modified: datetime | None = None
