"""A commented sample of the configuration, made from the documentation in schema.py."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vmconsole.config.host_schema import PROXMOX_ONLY, HostConfig
from vmconsole.config.plan_schema import ChannelConfig, LimitsConfig, NotifyConfig, ScheduleConfig
from vmconsole.config.schema import DefaultsConfig, FileConfig, GroupConfig, RepositoryConfig
from vmconsole.config.units import write_duration, write_size

_HEAD = """\
# vmconsole's configuration. A field behind a single # shows its default, or an example where it has none.
# Sizes are written "64 KiB", "1 MiB", "2 GB"; durations "10 s", "5 min", "2 h".
# Relative paths start from this file's folder. A passphrase never stands here, only where to find it.
"""
_SIZES = frozenset({"scratch_reserve", "chunk_size"})
_DURATIONS = frozenset(
    {
        "connect_timeout",
        "command_timeout",
        "lock_wait",
        "freeze_budget",
        "agent_timeout",
        "jitter",
        "repeat",
        "undo",
    }
)

# What to show where there is no default; written as TOML.
_EXAMPLES: Mapping[str, str] = {
    "state_dir": '"/var/lib/vmconsole"',
    "repository": '"main"',
    "kind": '"libvirt"',
    "address": '"root@kvm1.example"',
    "port": "22",
    "user": '"root"',
    "identity_files": '["~/.ssh/id_ed25519"]',
    "known_hosts": '"known_hosts"',
    "ssh_config": '"~/.ssh/config"',
    "networks": '{ "vmbr0" = "default", "vmbr0.20" = "br20" }',
    "location": '"/srv/backup/vms"',
    "rsh": '"ssh -i ~/.ssh/borg"',
    "remote_path": '"/usr/local/bin/borg"',
    "passphrase": '{ file = "passphrase" }',
    "guests": '["web-*", "kvm1/db"]',
    "tags": '["backup"]',
    "hosts": '["kvm1"]',
    "exclude": '["*-scratch"]',
    "exclude_disks": '{ "db" = ["vdb"], "#scratch" = ["scsi[1-9]"] }',
    "nodes": '{ pve2 = "root@10.0.0.2" }',
    "fleecing": '"local-lvm"',
    "pools": '["production"]',
    "kinds": '["container"]',
    "exclude_tags": '["no-backup"]',
    "when": '"daily 22:00"',
    "window": '"22:00-06:00"',
    "keep": "{ daily = 14, weekly = 8, monthly = 12 }",
    "overdue_after": '"26 h"',
    "ping": '"https://hc-ping.com/your-id"',
    "timezone": '"Europe/Berlin"',
    "parallel": "2",
    "uplink": '"branch"',
    "uplinks": "{ branch = 1 }",
    "only_disks": '{ "mail" = ["vda"] }',
    "rate": '"100 MiB/s"',
    "rates": '{ "08:00-18:00" = "20 MiB/s" }',
    "headroom": "true",
    "url": '"ntfy://ntfy.example/backups"',
    "secret": '{ file = "mail-url" }',
    "metrics": '"/var/lib/prometheus/node-exporter/vmconsole.prom"',
    "api": '"https://pve1.example:8006"',
    "api_token": '{ id = "backup@pve!vmconsole", file = "token" }',
    "api_fingerprint": '"6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"',
    "api_ca": '"pve-root-ca.pem"',
}
_SHOWN = frozenset({"kind", "address", "location", "passphrase", "guests"})


def sample() -> str:
    """A configuration that loads as it is, with every other field as a comment."""
    sections: tuple[tuple[str, type[BaseModel]], ...] = (
        ("defaults", DefaultsConfig),
        ("hosts.kvm1", HostConfig),
        ("repositories.main", RepositoryConfig),
        ("groups.daily", GroupConfig),
        ("limits", LimitsConfig),
        ("notify", NotifyConfig),
    )
    top = [line for name in ("timezone", "state_dir") for line in _field(name, FileConfig.model_fields[name])]
    parts = [_HEAD, "\n".join(top)]
    for title, model in sections:
        parts.append("\n".join([f"[{title}]", *_fields(model)]))
        if model is HostConfig:
            parts.append(_proxmox())
        if model is GroupConfig:
            parts.append(_commented("groups.daily.schedules.noon", ScheduleConfig))
    parts.append(_commented("notify.channels.mail", ChannelConfig))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def explain(model: type[BaseModel], field: str) -> str:
    """The documentation of a field; empty when there is none."""
    known = model.model_fields.get(field)
    return (known.description or "") if known else ""


def _fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name in ("schedules", "channels") or (model is HostConfig and name in PROXMOX_ONLY):
            continue
        yield from _field(name, field)


def _commented(title: str, model: type[BaseModel]) -> str:
    lines = [f"# [{title}]"]
    for name, field in model.model_fields.items():
        lines += _field(name, field)
    return "\n".join(lines)


def _proxmox() -> str:
    """A second host, as a comment altogether; what it shares with the first is not said again."""
    lines = ["# [hosts.pve]", '# kind = "proxmox"', '# address = "root@pve1.example"']
    for name in PROXMOX_ONLY:
        lines += _field(name, HostConfig.model_fields[name])
    return "\n".join(lines)


def _field(name: str, field: FieldInfo) -> Iterator[str]:
    for line in textwrap.wrap(field.description or "", 96):
        yield f"## {line}"
    mark = "" if name in _SHOWN else "# "
    yield f"{mark}{name} = {_value(name, field)}"


def _value(name: str, field: FieldInfo) -> str:
    default = field.default
    if name == "rate" or (name == "rates" and field.default_factory is not None):
        return _EXAMPLES[name]
    if default is None or field.is_required() or default == () or field.default_factory is not None:
        if name in _EXAMPLES:
            return _EXAMPLES[name]
        # a group's limits default to those of [defaults]
        inherited = DefaultsConfig if name in DefaultsConfig.model_fields else GroupConfig
        default = inherited.model_fields[name].default
    if name in _SIZES:
        return f'"{write_size(default)}"'
    if name in _DURATIONS:
        return f'"{write_duration(default)}"'
    if isinstance(default, tuple):
        return json.dumps(list(default))
    if isinstance(default, bool):
        return "true" if default else "false"
    return str(default) if isinstance(default, int) else f'"{default}"'
