"""Alerts: what is wrong now and should be told to somebody who is not looking."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class AlertKind(Enum):
    FAILURE = "failure"
    WARNING = "warning"
    OVERDUE = "overdue"
    UNPROTECTED = "unprotected"
    REPOSITORY = "repository"
    """Nearly full, damaged, out of reach."""
    VANISHED = "vanished"
    CHANNEL = "channel"
    """A channel for alerts does not work."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that is wrong. key tells it apart from others of its kind, such as a guest's uuid.

    since: when it was first seen; sent: when it was last told; ended: when it was over, None while it holds.
    """

    kind: AlertKind
    key: str
    text: str
    hint: str = ""
    subject: str = ""
    group: str = ""
    since: datetime | None = None
    sent: datetime | None = None
    ended: datetime | None = None
