from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from vmconsole.config.host_schema import LIBVIRT_ONLY, PROXMOX_ONLY, HostConfig
from vmconsole.config.load import parse
from vmconsole.config.plan_schema import (
    ChannelConfig,
    KeepConfig,
    LimitsConfig,
    NotifyConfig,
    ScheduleConfig,
)
from vmconsole.config.sample import explain, sample
from vmconsole.config.schema import DefaultsConfig, FileConfig, GroupConfig, RepositoryConfig
from vmconsole.config.secret_schema import SecretConfig, TokenConfig

MODELS: tuple[type[BaseModel], ...] = (
    FileConfig,
    DefaultsConfig,
    HostConfig,
    RepositoryConfig,
    GroupConfig,
    ScheduleConfig,
    KeepConfig,
    LimitsConfig,
    NotifyConfig,
    ChannelConfig,
    SecretConfig,
    TokenConfig,
)


def everything() -> bytes:
    """The sample with everything switched on."""
    text = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", sample())
    # The sample shows a user and a port also where the address has them, two ways to verify an API, two
    # places of an address, and both ways to say when.
    text = re.sub(r"(?m)^(?:api_ca|secret) = .*\n", "", text).replace("root@kvm1.example", "kvm1.example")
    return re.sub(r"(?m)^when = .*\n", "", text, count=1).encode()


def test_sample_loads_as_it_is_and_with_everything_switched_on() -> None:
    assert set(parse(Path("/c.toml"), sample().encode()).hosts) == {"kvm1"}
    config = parse(Path("/c.toml"), everything())
    assert set(config.group("daily").selector.hosts) == {"kvm1"}
    assert config.host("kvm1").port == 22
    (noon,) = config.group("daily").schedules
    assert (noon.text, noon.retention.weekly, noon.pause) == ("daily 22:00", 8, None)
    assert config.file.notify.channels.keys() == {"mail"}
    assert config.host("pve").nodes == {"pve2": "root@10.0.0.2"}


def test_every_field_of_a_host_is_shown() -> None:
    for name in HostConfig.model_fields:
        assert re.search(rf"(?m)^(?:# )?{name} = ", sample()), name
    assert {*LIBVIRT_ONLY, *PROXMOX_ONLY} < HostConfig.model_fields.keys()


def test_defaults_in_the_sample_are_the_defaults() -> None:
    plain = parse(Path("/c.toml"), sample().encode())
    switched = parse(Path("/c.toml"), everything())
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
        "parallel",
        "uplink",
        "rate",
        "rates",
        "headroom",
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
