from __future__ import annotations

import pytest

from vmconsole.interfaces import Cancel
from vmconsole.wiring.services import Wiring


@pytest.fixture
def wiring(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path / "state"}"\n')
    made = Wiring(config, Cancel())
    yield made
    made.close()


def test_what_a_command_changed_is_known_when_it_has_ended(wiring):
    assert not wiring.config.hosts
    done = wiring.capture(["host", "add", "kvm1", "root@192.0.2.1"])
    assert done.code == 0, done.err
    assert wiring.config.host("kvm1").address == "root@192.0.2.1"


def test_a_command_that_changed_nothing_keeps_what_was_read(wiring):
    before = wiring.config
    assert wiring.capture(["runs"]).code == 0
    assert wiring.config is before
