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


@dataclass(frozen=True, slots=True)
class RepositorySpace:
    """The file system, or quota, that a repository lives in. Bytes."""

    name: str
    size: int
    free: int

    @property
    def used_percent(self) -> float:
        return 100.0 * (self.size - self.free) / self.size if self.size else 0.0
