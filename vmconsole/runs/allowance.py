"""Rates that were configured, as buckets: what they let through in any span of time is bounded."""

from __future__ import annotations

import threading
from datetime import datetime, tzinfo
from typing import Final

from vmconsole.interfaces import Clock
from vmconsole.model.limits import Limits
from vmconsole.model.schedule import Window

CREDIT: Final = 0.1
"""Seconds' worth that may be made up for when a sleep took too long."""
_MOST_DEBT: Final = 5.0
"""Seconds for which others wait, at most, because of what could not wait itself."""
_FRESH: Final = 1.0
"""Seconds for which the rate of the time of day is not looked up again."""


class Bucket:
    """Of any span of time it lets through at most rate x (its seconds + CREDIT) + one request.

    Not thread-safe. Times in seconds of any one clock; rate 0: no limit.
    """

    def __init__(self) -> None:
        self._free_at = float("-inf")

    def wait(self, rate: float, now: float) -> float:
        """Seconds until something may be taken."""
        return max(0.0, self._free_at - now) if rate else 0.0

    def take(self, length: int, rate: float, now: float) -> None:
        if rate:
            self._free_at = max(self._free_at, now - CREDIT) + length / rate

    def owe(self, length: int, rate: float, now: float) -> None:
        """As take, without having asked."""
        self.take(length, rate, now)
        if rate:
            self._free_at = min(self._free_at, now + max(_MOST_DEBT, length / rate))


class Allowance:
    """What is configured for a host, or for everything together. Thread-safe; to be shared."""

    def __init__(self, limits: Limits, zone: tzinfo, clock: Clock) -> None:
        self._limits = limits
        self._zone = zone
        self._clock = clock
        self._bucket = Bucket()
        self._lock = threading.Lock()
        self._rate, self._looked = 0, float("-inf")

    @property
    def any(self) -> bool:
        """Whether it ever limits anything."""
        return bool(self._limits.rate or self._limits.rates)

    def rate(self) -> int:
        """Bytes per second that hold now; 0 for none."""
        if not self._limits.rates:
            return self._limits.rate
        with self._lock:
            now = self._clock.monotonic()
            if now - self._looked >= _FRESH:
                self._rate, self._looked = rate_at(self._limits, self._clock.now(), self._zone), now
            return self._rate

    def wait(self, now: float) -> float:
        rate = self.rate()
        with self._lock:
            return self._bucket.wait(rate, now)

    def take(self, length: int, now: float) -> float:
        """Take it, or return the seconds until it can be taken."""
        rate = self.rate()
        with self._lock:
            seconds = self._bucket.wait(rate, now)
            if not seconds:
                self._bucket.take(length, rate, now)
            return seconds

    def owe(self, length: int, now: float) -> None:
        rate = self.rate()
        with self._lock:
            self._bucket.owe(length, rate, now)


def rate_at(limits: Limits, moment: datetime, zone: tzinfo) -> int:
    """Bytes per second, 0 for none: of the first window that the moment is in, else the rate of all day."""
    local = moment.astimezone(zone)
    return next((item.rate for item in limits.rates if _holds(item.window, local)), limits.rate)


def _holds(window: Window, local: datetime) -> bool:
    at = local.time().replace(tzinfo=None)
    if window.start < window.end:
        return window.start <= at < window.end
    return at >= window.start or at < window.end
