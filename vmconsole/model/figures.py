"""The figures that a monitoring system reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vmconsole.model.alert import AlertKind
from vmconsole.model.repository import RepositorySpace


@dataclass(frozen=True, slots=True)
class GuestFigures:
    """One guest in one group. last_good: when its newest good restore point was made; None without one.

    seconds, bytes_read, bytes_stored: of its newest backup that left a restore point. failed: whether the newest
    attempt failed. points: its restore points in the group's repository, as last seen.
    """

    uuid: str
    guest: str
    host: str
    group: str
    last_good: datetime | None = None
    overdue: bool = False
    failed: bool = False
    seconds: float = 0.0
    bytes_read: int = 0
    bytes_stored: int = 0
    points: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """time: when the scheduler was last there. unprotected: guests in no group. alerts: how many hold, by kind."""

    time: datetime
    guests: tuple[GuestFigures, ...] = ()
    repositories: tuple[RepositorySpace, ...] = ()
    unprotected: int = 0
    alerts: Mapping[AlertKind, int] = field(default_factory=dict)
