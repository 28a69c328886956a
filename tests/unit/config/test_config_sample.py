from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from vmconsole.config.load import parse
from vmconsole.config.sample import explain, sample
from vmconsole.config.schema import (
    DefaultsConfig,
    FileConfig,
    GroupConfig,
    HostConfig,
    RepositoryConfig,
    SecretConfig,
)

MODELS: tuple[type[BaseModel], ...] = (
    FileConfig,
    DefaultsConfig,
    HostConfig,
    RepositoryConfig,
    GroupConfig,
    SecretConfig,
)


def test_sample_loads_as_it_is_and_with_everything_switched_on() -> None:
    parse(Path("/c.toml"), sample().encode())
    everything = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", sample())
    # the sample shows a user and a port also where the address has them
    everything = everything.replace("root@kvm1.example", "kvm1.example")
    config = parse(Path("/c.toml"), everything.encode())
    assert set(config.group("daily").selector.hosts) == {"kvm1"}
    assert config.host("kvm1").port == 22


def test_defaults_in_the_sample_are_the_defaults() -> None:
    plain = parse(Path("/c.toml"), sample().encode())
    everything = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", sample()).replace("root@kvm1.example", "kvm1.example")
    switched = parse(Path("/c.toml"), everything.encode())
    examples = {
        "port",
        "user",
        "address",
        "identity_files",
        "known_hosts",
        "ssh_config",
        "rsh",
        "remote_path",
        "networks",
    }
    for name in HostConfig.model_fields.keys() - examples:
        assert getattr(plain.host("kvm1"), name) == getattr(switched.host("kvm1"), name), name
    for name in RepositoryConfig.model_fields.keys() - examples:
        assert getattr(plain.repository("main"), name) == getattr(switched.repository("main"), name), name


def test_every_field_is_documented() -> None:
    for model in MODELS:
        for name in model.model_fields:
            assert explain(model, name).endswith((".", "…")), f"{model.__name__}.{name}"
    assert explain(HostConfig, "nothing") == ""


def test_sample_lines_fit_an_editor() -> None:
    assert max(map(len, sample().splitlines())) <= 110
