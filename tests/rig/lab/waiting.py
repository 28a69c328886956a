"""Waiting for a condition, with a deadline: never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(
    look: Callable[[], Found | None | bool], what: str, timeout: float = 30.0, every: float = 0.03
) -> Found:
    """What look() returns once that is true-ish. Raises TimeoutError naming what was awaited."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found  # type: ignore[return-value]  # True counts as found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(every)
