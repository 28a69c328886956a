"""Work that somebody else's server may draw out, given up after a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class TooSlow(Exception):
    """The work was not done in time; it goes on by itself, and nobody waits for it."""


class _Work(Generic[_T]):
    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self.result: list[_T] = []
        self.error: Exception | None = None
        self.done = threading.Event()

    def __call__(self) -> None:
        try:
            self.result.append(self._work())
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            self.error = error
        finally:
            self.done.set()


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """What work returns or raises. Raises TooSlow.

    In a thread of its own: the time limits of sockets hold for each read, and a name server knows none.
    """
    running = _Work(work)
    # daemon: must not keep the process from ending
    threading.Thread(target=running, name="notify", daemon=True).start()
    if not running.done.wait(seconds):
        raise TooSlow
    if running.error is not None:
        raise running.error
    return running.result[0]
