"""How fast one host is read: the pace of everything that reads from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from vmconsole.interfaces import Clock
from vmconsole.model.vitals import Vitals
from vmconsole.runs.allowance import Allowance, Bucket
from vmconsole.runs.headroom import Headroom, Verdict
from vmconsole.runs.symptoms import Sight
from vmconsole.runs.window import Window

CONFIGURED: Final = "the limit in the configuration"
IN_FLIGHT: Final = 0.25
"""Seconds' worth of requests under way while the host suffers."""
_REQUESTS_PER_SECOND: Final = 32
"""While it is held back, the host gets small requests: its guests wait behind the whole of one."""
_SMALLEST, _LARGEST = 64 * 1024, 1024 * 1024
_TICK: Final = 0.02
_QUIET: Final = 5.0
"""Seconds between things that are said, but for the first and the last."""
_WORTH_SAYING: Final = 1.25

Say = Callable[[int, str], None]
"""(bytes per second that hold, 0 for none; why)"""


class Governor:
    """Implements Pace. host, total: what is configured for the host, and for all hosts together.

    gentle: little is under way at first, and never more than the host's queue takes.
    say is called from the thread that observes, never from one that reads.
    """

    def __init__(
        self, host: Allowance, total: Allowance, clock: Clock, say: Say, *, gentle: bool = True
    ) -> None:
        self._host = host
        self._total = total
        self._clock = clock
        self._say = say
        self._lock = threading.Lock()
        self._headroom = Headroom()
        self._bucket = Bucket()
        self._limit = 0
        self._window = Window() if gentle else None
        self._in_flight = 0
        self._came = 0
        self._service, self._served = 0.0, 0
        self._observed: float | None = None
        self._said, self._said_at = Verdict(0, ""), float("-inf")

    # --- Pace ---

    def wait(self, length: int) -> float:
        with self._lock:
            now = self._clock.monotonic()
            seconds = max(self._host.wait(now), self._bucket.wait(self._limit, now))
            if not seconds and self._in_flight and self._in_flight + length > self._room(length):
                seconds = _TICK
            seconds = seconds or self._total.take(length, now)
            if seconds:
                return seconds
            self._host.take(length, now)
            self._bucket.take(length, self._limit, now)
            self._in_flight += length
            return 0.0

    def came(self, length: int, seconds: float) -> None:
        with self._lock:
            if seconds > 0:
                if self._window is not None:
                    self._window.came(length, seconds, self._in_flight)
                self._service += seconds * length / max(self._in_flight, length)
                self._served += 1
            self._in_flight = max(0, self._in_flight - length)
            self._came += length

    def _room(self, length: int) -> float:
        """Bytes that may be under way."""
        room = float("inf") if self._window is None else float(self._window.bytes)
        return min(room, max(self._limit * IN_FLIGHT, length)) if self._limit else room

    def took(self, length: int) -> None:
        with self._lock:
            now = self._clock.monotonic()
            self._host.owe(length, now)
            self._total.owe(length, now)
            self._bucket.owe(length, self._limit, now)
            self._came += length

    def largest(self) -> int:
        rate = _lower(self._limit, self._host.rate())
        if not rate or rate >= _LARGEST * _REQUESTS_PER_SECOND:
            return 0
        # Powers of two, so that the pieces of a chunk stay aligned.
        return int(max(_SMALLEST, 1 << (rate // _REQUESTS_PER_SECOND).bit_length() - 1))

    def limit(self) -> int:
        return _lower(self._host.rate(), self._total.rate())

    # --- the other side ---

    def observe(self, vitals: Vitals | None, now: float) -> None:
        """How the host is doing at this time of the clock; None: it did not answer in time."""
        with self._lock:
            elapsed = now - self._observed if self._observed is not None else 0.0
            rate = self._came / elapsed if elapsed > 0 else 0.0
            service = self._service / self._served if self._served else None
            held = bool(self._limit)
            self._observed, self._came = now, 0
            self._service, self._served = 0.0, 0
        verdict = self._headroom.observe(Sight(now, vitals, rate, service, held))
        with self._lock:
            self._limit = verdict.rate
        self.announce(now)

    def give_up(self) -> None:
        """Nobody observes any more: only what is configured holds."""
        with self._lock:
            self._headroom, self._window = Headroom(), None
            self._limit = 0

    def announce(self, now: float) -> None:
        """Say what holds, when that is something new."""
        configured = self.limit()
        verdict = self._headroom.verdict
        if configured and not 0 < verdict.rate <= configured:
            verdict = Verdict(configured, CONFIGURED)
        elif not verdict.rate and not self._said.rate:
            return
        before = self._said
        if not verdict.rate or not before.rate:
            news = bool(verdict.rate) != bool(before.rate)
        else:
            ratio = max(verdict.rate, before.rate) / min(verdict.rate, before.rate)
            news = ratio >= _WORTH_SAYING and now - self._said_at >= _QUIET
        if news:
            self._said, self._said_at = verdict, now
            self._say(verdict.rate, verdict.reason or "back to full speed")


def _lower(one: int, other: int) -> int:
    """The lower of two rates, of which 0 is none."""
    return min(one, other) if one and other else one or other
