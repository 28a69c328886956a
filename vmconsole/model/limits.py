"""How much backups may ask of hosts, storages and the line, at most."""

from __future__ import annotations

from dataclasses import dataclass

from vmconsole.model.schedule import Window


@dataclass(frozen=True, slots=True)
class RateAt:
    """rate in bytes per second during a window of every day."""

    window: Window
    rate: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one host, storage, repository, or of everything. parallel: guests at the same time.

    rate: bytes per second, 0 for none. rates: hold instead of rate during their windows, the first that fits.
    """

    parallel: int = 1
    rate: int = 0
    rates: tuple[RateAt, ...] = ()
