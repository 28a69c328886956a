from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vmconsole.state.store import StateStore


class HandClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 2, 0, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def dead() -> set[str]:
    """Processes that are proven dead."""
    return set()


@pytest.fixture
def open_store(tmp_path: Path, clock: HandClock, dead: set[str]) -> Iterator[Callable[..., StateStore]]:
    """Open the same database as one process or another."""
    opened: list[StateStore] = []
    counter = itertools.count()

    def make(process: str = "here:1:100", path: Path | None = None) -> StateStore:
        store = StateStore.open(
            path or tmp_path / "state.sqlite",
            clock,
            process,
            dead.__contains__,
            token=lambda: f"t{next(counter):03}",
        )
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., StateStore]) -> StateStore:
    return open_store()
