"""At most one of a kind per interval."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Throttle:
    """Thread-safe. interval in seconds of the given clock."""

    def __init__(self, monotonic: Callable[[], float], interval: float) -> None:
        self._monotonic = monotonic
        self._interval = interval
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], float] = {}

    def let_through(self, run: str, topic: str) -> bool:
        now = self._monotonic()
        with self._lock:
            last = self._last.get((run, topic))
            if last is not None and now - last < self._interval:
                return False
            self._last[run, topic] = now
            return True

    def forget(self, run: str) -> None:
        with self._lock:
            for key in [key for key in self._last if key[0] == run]:
                del self._last[key]
