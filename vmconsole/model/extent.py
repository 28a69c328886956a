"""Byte ranges of a disk and what a host says about them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Content(Enum):
    """What a range holds, seen from the restore point being written."""

    DATA = "data"
    """Must be read from the host."""
    ZERO = "zero"
    """Reads as zeros now; stored as zeros even where the parent had data."""
    CLEAN = "clean"
    """Unchanged since the parent; never read from the host."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A byte range; offset and length in bytes, length > 0."""

    offset: int
    length: int
    content: Content

    @property
    def end(self) -> int:
        return self.offset + self.length
