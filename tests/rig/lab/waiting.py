"""Waiting for a condition, with a deadline: never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

_FIRST_PAUSE = 0.02
_LAST_PAUSE = 0.25


def wait_for(look: Callable[[], Found | bool | None], what: str, timeout: float = 30.0) -> Found:
    """What look() returns once that is true-ish. Raises TimeoutError naming what was awaited.

    Looks often at first and then less so: a look is often a program, and there are few processors.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        found = look()
        if found:
            return found  # type: ignore[return-value]  # True counts as found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(pause)
        pause = min(pause * 1.3, _LAST_PAUSE)
