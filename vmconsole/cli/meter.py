"""How fast something goes, and how long it still takes."""

from __future__ import annotations

from collections import deque

_WINDOW = 15.0
_STALLED = 10.0


class Meter:
    """Fed with (done, when); rate and time left come from the last fifteen seconds. Bytes and seconds."""

    def __init__(self, done: int, total: int, now: float) -> None:
        self.done, self.total = done, total
        self._moved = now
        self._samples: deque[tuple[float, int]] = deque([(now, done)])

    def update(self, done: int, total: int, now: float) -> None:
        if done != self.done:
            self._moved = now
        self.done, self.total = done, total
        self._samples.append((now, done))
        # one sample older than the window stays, to measure from
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW:
            self._samples.popleft()

    def rate(self, now: float) -> float | None:
        """Bytes a second; None while it is too early to tell."""
        began, base = self._samples[0]
        if now - began < 1.0:
            return None
        return max(0, self.done - base) / (now - began)

    def left(self, now: float) -> float | None:
        """Seconds; None when nobody can tell."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate else None

    def stalled(self, now: float) -> float:
        """For how many seconds nothing has moved; 0 when that is no cause for worry."""
        idle = now - self._moved
        return idle if idle >= _STALLED and self.done < self.total else 0.0
