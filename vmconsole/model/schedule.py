"""When groups are backed up, and how long their restore points are kept."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, time


@dataclass(frozen=True, slots=True)
class When:
    """A rule for times: any of crons (five fields, local time), or every so many seconds since 2000-01-01 UTC."""

    crons: tuple[str, ...]
    every: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """From start until end, local time, every day; past midnight when end is not later than start."""

    start: time
    end: time


@dataclass(frozen=True, slots=True)
class Retention:
    """How many restore points to keep: the newest of each of the last N hours, days … that have one.

    minimum: the newest of a guest that are kept whatever the rules say. A Retention that keeps nothing
    by its rules (all zero) keeps everything.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    minimum: int = 1

    @property
    def keeps_all(self) -> bool:
        return not any(getattr(self, item.name) for item in fields(self) if item.name != "minimum")


KEEP_ALL = Retention()


@dataclass(frozen=True, slots=True)
class Schedule:
    """One of a group's schedules. jitter in seconds.

    text: the rule as configured, such as `daily 22:00`; when: the same, understood.
    window: None when work may start and go on at any time. pause: until then nothing is due; datetime.max for good.
    """

    group: str
    name: str
    text: str
    when: When
    window: Window | None = None
    jitter: float = 0.0
    retention: Retention = KEEP_ALL
    full_every: int | None = None
    pause: datetime | None = None
    catch_up: bool = True
    """Whether the newest of the runs that were missed is done late."""

    @property
    def rule(self) -> str:
        """What makes it another schedule when it changes: see interfaces.History.follow."""
        window = f" within {self.window.start:%H:%M}-{self.window.end:%H:%M}" if self.window else ""
        return self.text + window
