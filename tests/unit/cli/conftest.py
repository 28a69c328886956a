from __future__ import annotations

import pytest
from cli_world import World


@pytest.fixture
def world(tmp_path, capsys):
    return World(tmp_path, capsys)
