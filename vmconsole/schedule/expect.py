"""How long a guest's backup will take and how much it will read, by what earlier ones took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from vmconsole.model.guest import Guest
from vmconsole.model.history import BackupRecord

_LOOKED_AT = 7
_FULL = "full"
_UNKNOWN_RATE = 100e6
"""Bytes per second, as long as nothing was measured."""
_OVERHEAD = 10.0
_DATA_SHARE = 0.5
"""Of a disk, as long as nothing was measured."""


@dataclass(frozen=True, slots=True)
class Expected:
    """bytes: read from the host. known: by measurement, not by a rule of thumb."""

    seconds: float
    bytes: int
    known: bool


def expect(guest: Guest, records: Sequence[BackupRecord], *, full: bool) -> Expected:
    """records: of the guest, newest first. full: whether everything will be read."""
    good = [record for record in records if record.good]
    alike = [record for record in good if (record.mode == _FULL) == full][:_LOOKED_AT]
    if alike:
        return Expected(
            max(1.0, median(record.seconds for record in alike)),
            round(median(record.bytes_read for record in alike)),
            known=True,
        )
    if not full and not good:
        full = True
    size = guest.size
    read = round(size * _DATA_SHARE) if full else size // 50
    return Expected(_OVERHEAD + read / rate_of(good), read, known=False)


def seconds_for(bytes_expected: int, records: Sequence[BackupRecord]) -> float:
    """For a plan whose bytes are known. records: as above."""
    good = [record for record in records if record.good][:_LOOKED_AT]
    overhead = min((record.seconds for record in good), default=_OVERHEAD)
    return min(overhead, _OVERHEAD) + bytes_expected / rate_of(good)


def rate_of(records: Sequence[BackupRecord]) -> float:
    """Bytes per second, of those that read enough to tell."""
    large = [record for record in records if record.bytes_read > 64 << 20 and record.seconds > 0]
    return median(record.bytes_read / record.seconds for record in large) if large else _UNKNOWN_RATE
