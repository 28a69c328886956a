"""How much may be under way on a host at once, so that nobody waits long behind it.

What was requested stands in the host's queue, and the guests' own requests behind it: 48 MiB on a
disk that does 40 MiB/s are more than a second, long before anybody could notice and slow down. So
it begins with little and grows as long as answers come about as fast as from a host with nothing to
do; on a fast host that is over after some milliseconds. Pure; times in seconds.
"""

from __future__ import annotations

from typing import Final

MIB: Final = 1024 * 1024
LEAST: Final = 2 * MIB
MOST: Final = 128 * MIB
DELAY: Final = 0.1
"""Seconds that our own queue may add to what an answer takes."""
_PROOF: Final = 8
"""Requests with next to nothing under way that show how long an answer takes by itself."""


class Window:
    """Not thread-safe. bytes: that may be under way now."""

    def __init__(self) -> None:
        self.bytes = LEAST
        self._alone = float("inf")
        self._fastest = float("inf")
        self._seen = 0

    def came(self, length: int, seconds: float, in_flight: int) -> None:
        """An answer took so long. in_flight: bytes that were under way, with its own."""
        self._alone = min(self._alone, seconds)
        self._prove(seconds)
        late = seconds - self._alone - DELAY
        if late > 0:
            used = min(self.bytes, in_flight)
            self.bytes = max(LEAST, used - int(length * min(1.0, late / DELAY) / 2))
        elif in_flight >= self.bytes // 2:
            # A window that is not used proves nothing.
            self.bytes = min(MOST, self.bytes + length)

    def _prove(self, seconds: float) -> None:
        """Answers that take long with nothing else under way are not late because of our queue: storage
        that is far away takes its time, and serves many requests in the same.
        """
        if self.bytes > LEAST:
            self._seen, self._fastest = 0, float("inf")
            return
        self._fastest = min(self._fastest, seconds)
        self._seen += 1
        if self._seen >= _PROOF:
            if self._fastest > self._alone + DELAY:
                self._alone = self._fastest
            self._seen, self._fastest = 0, float("inf")
