"""What step 1 shows, read from what is remembered. Takes a while: not for the screen's thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, tzinfo

from vmconsole.front.services import Services
from vmconsole.model.history import BackupState
from vmconsole.runs.looking import live_marks
from vmconsole.tui.restoring.choice import Candidate

_RECORDS = 1000
_BAD = (BackupState.FAILED, BackupState.DIED)


@dataclass(frozen=True, slots=True)
class Known:
    """candidates: newest first. failed: days, in the shop's zone, on which a backup failed."""

    candidates: Sequence[Candidate] = ()
    failed: frozenset[date] = frozenset()


def read_known(services: Services, guest: str, repository: str, zone: tzinfo) -> Known:
    """guest: its uuid. repository: the only one to look in; empty for all. Raises VmconsoleError."""
    names = [repository] if repository else list(services.config.repositories)
    found = []
    for name in names:
        points = [point for point in services.store.points(name) if point.uuid == guest]
        marks = live_marks(services.ledger.marks(name), points)
        found += [Candidate(point, name, point.archive in marks) for point in points]
    found.sort(key=lambda item: item.point.time, reverse=True)
    records = services.history.of_guest(guest, _RECORDS)
    failed = {record.started.astimezone(zone).date() for record in records if record.state in _BAD}
    return Known(found, frozenset(failed))
