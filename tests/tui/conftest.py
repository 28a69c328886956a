"""The console's world stands still: no colours, no time, no terminal of the machine's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from world import World, a_shop


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "COLORTERM", "SSH_CONNECTION", "TEXTUAL_THEME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def shop(tmp_path: Path) -> World:
    return a_shop(tmp_path)


@pytest.fixture
def drive() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test's own coroutine."""
    return asyncio.run
