"""Time, injected."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """What the core knows about time."""

    def now(self) -> datetime:
        """The wall clock, with zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...
