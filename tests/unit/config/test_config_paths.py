from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmconsole.config import paths
from vmconsole.config.load import parse
from vmconsole.errors import ConfigError


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", tmp_path / "etc/config.toml")


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_search_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file yet"):
        paths.find_config(environ={})
    system = make(tmp_path / "etc/config.toml")
    assert paths.find_config(environ={}) == system
    user = make(tmp_path / "xdg/vmconsole/config.toml")
    assert paths.find_config(environ={}) == user
    variable = make(tmp_path / "v.toml")
    environ = {"VMCONSOLE_CONFIG": str(variable)}
    assert paths.find_config(environ=environ) == variable
    explicit = make(tmp_path / "e.toml")
    assert paths.find_config(explicit, environ) == explicit


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    make(tmp_path / "etc/config.toml")
    with pytest.raises(ConfigError, match="which --config names"):
        paths.find_config(tmp_path / "none", {})
    with pytest.raises(ConfigError, match=r"which \$VMCONSOLE_CONFIG names"):
        paths.find_config(environ={"VMCONSOLE_CONFIG": str(tmp_path / "none")})


def test_relative_name_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "c.toml")
    monkeypatch.chdir(tmp_path)
    assert paths.find_config(Path("c.toml"), {}) == tmp_path / "c.toml"
    assert paths.new_config(Path("new.toml"), {}) == tmp_path / "new.toml"


def test_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(tmp_path / "config.toml", b'state_dir = "memory"\n')
    assert config.state_dir == tmp_path / "memory"
    assert config.known_hosts == tmp_path / "memory/known_hosts"
    without = parse(tmp_path / "config.toml", b"")
    monkeypatch.setattr("vmconsole.config.settings.default_state_dir", paths.default_state_dir)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert without.state_dir == Path("/var/lib/vmconsole")
    assert paths.new_config(environ={}) == paths.SYSTEM_CONFIG
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert without.state_dir == tmp_path / "state/vmconsole"
    assert paths.new_config(environ={}) == tmp_path / "xdg/vmconsole/config.toml"
