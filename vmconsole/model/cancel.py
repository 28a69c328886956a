"""The token a run is stopped with."""

from __future__ import annotations

import threading

from vmconsole.errors import Cancelled


class Cancel:
    """Thread-safe; set once, never cleared."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = "Stopped."

    def set(self, reason: str = "Stopped.") -> None:
        self.reason = reason
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise Cancelled when set."""
        if self._event.is_set():
            raise Cancelled(self.reason)

    def wait(self, seconds: float) -> None:
        """Sleep, but wake up and raise Cancelled when set."""
        self._event.wait(seconds)
        self.check()
