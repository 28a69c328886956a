from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_state_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A configuration without state_dir must not make, or change, what the machine remembers."""
    folder = tmp_path_factory.mktemp("default-state")
    monkeypatch.setattr("vmconsole.config.settings.default_state_dir", lambda: folder)
