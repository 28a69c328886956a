"""For all tests: a busy machine fails no property, and what this machine remembers is left alone."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("vmconsole", deadline=None)
settings.load_profile("vmconsole")


@pytest.fixture(autouse=True)
def no_state_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A configuration without state_dir must not make, or change, what the machine remembers."""
    folder = tmp_path_factory.getbasetemp() / "default-state"
    monkeypatch.setattr("vmconsole.config.settings.default_state_dir", lambda: folder)
