"""Hosts, as the configuration file describes them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from vmconsole.config.plan_schema import Parallel, Rate, check_rates
from vmconsole.config.secret_schema import TokenConfig
from vmconsole.config.values import (
    RULES,
    Address,
    LocalPath,
    LocalPaths,
    Name,
    NodeName,
    Port,
    PositiveDuration,
    Size,
    Text,
    check_folder,
)

_API = re.compile(r"https://(?:\[[0-9A-Fa-f:.]+\]|[^\s@:/\[\]-][^\s@:/\[\]]*)(?::[0-9]{1,5})?/?")
_STORAGE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]")
_NETWORK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_EXPORTS = {"libvirt": ("auto", "pull", "push", "snapshot"), "proxmox": ("auto", "vzdump", "qmp")}
LIBVIRT_ONLY = ("uri", "scratch")
PROXMOX_ONLY = ("nodes", "fleecing", "api", "api_token", "api_fingerprint", "api_ca")


class HostConfig(BaseModel):
    """A hypervisor reached over SSH: a machine with libvirt, or a Proxmox VE cluster or single node."""

    model_config = RULES

    kind: Literal["libvirt", "proxmox"]
    """What runs the guests there: "libvirt" or "proxmox"."""
    address: Address
    """user@host, user@host:port, or a name from your ssh_config. Of a cluster: any one of its nodes."""
    port: Port | None = None
    """SSH port, when neither the address nor ssh_config says it."""
    user: Text | None = None
    """Login user, when neither the address nor ssh_config says it."""
    identity_files: LocalPaths = ()
    """Private keys to log in with; empty: those of ssh_config, the agent and ~/.ssh."""
    known_hosts: LocalPath | None = None
    """Trusted host keys; default: vmconsole's own file, filled by `vmconsole host trust`."""
    ssh_config: LocalPath | None = None
    """OpenSSH client configuration to read; default: ~/.ssh/config."""
    connect_timeout: PositiveDuration = 10.0
    """How long to wait for the connection."""
    command_timeout: PositiveDuration = 60.0
    """How long one command on the host may take."""
    uri: Text = "qemu:///system"
    """libvirt only: connection URI, as seen on the host."""
    scratch: Text = "/var/lib/libvirt/images"
    """libvirt only: folder on the host for what guests overwrite while they are read."""
    scratch_reserve: Size = 1 << 30
    """Space in the scratch folder, or the fleecing place, that a backup never uses."""
    export: Literal["auto", "pull", "push", "snapshot", "vzdump", "qmp"] = "auto"
    """How disks leave the host: "auto" (the best it can do); libvirt: "pull", "push" or "snapshot";
    proxmox: "vzdump" (always), or "qmp" (never vzdump, but for containers)."""
    connections: Annotated[int, Field(ge=1, le=16)] = 2
    """Connections per disk that read at the same time."""
    parallel: Parallel | None = None
    """Guests backed up at the same time, of a cluster on each node; default: per_host in [limits]."""
    uplink: Name | None = None
    """The line its data comes over, where several hosts share one: a name of uplinks in [limits]."""
    rate: Rate | None = None
    """Bytes read per second at most: "100 MiB/s"; default: no limit but that of [limits]."""
    rates: dict[Text, Rate] = Field(default_factory=dict)
    """Instead of rate during a part of the day: { "08:00-18:00" = "20 MiB/s" }."""
    headroom: bool | None = None
    """Slow down while the host or its guests suffer; default: as in [limits]."""
    networks: dict[Text, Text] = Field(default_factory=dict)
    """Where network cards of guests from elsewhere go: old bridge or network (with .VLAN) = the one here."""
    nodes: dict[NodeName, Address] = Field(default_factory=dict)
    """proxmox only: how nodes are reached that are not at the address the cluster tells, and which are
    asked when the one at address is down."""
    fleecing: Text | None = None
    """proxmox only: storage, or absolute folder on the nodes, for what guests overwrite while they are
    read; default: of the storages the guest is on, the one with most space."""
    api: Text | None = None
    """proxmox only: take the inventory over HTTPS instead, from this address, port 8006 unless it says
    another. Backups always go over SSH."""
    api_token: TokenConfig | None = None
    """The API token for that; it needs the role PVEAuditor on /."""
    api_fingerprint: Text | None = None
    """SHA-256 fingerprint of the certificate there, as `pvenode cert info` shows it."""
    api_ca: LocalPath | None = None
    """CA certificate to verify it by, a copy of /etc/pve/pve-root-ca.pem; default: the CAs of this machine."""

    @field_validator(*LIBVIRT_ONLY)
    @classmethod
    def _only_libvirt(cls, value: object, info: ValidationInfo) -> object:
        return _only("libvirt", value, info)

    @field_validator(*PROXMOX_ONLY)
    @classmethod
    def _only_proxmox(cls, value: object, info: ValidationInfo) -> object:
        return _only("proxmox", value, info)

    @field_validator("networks")
    @classmethod
    def _check_networks(cls, value: dict[str, str]) -> dict[str, str]:
        for target in value.values():
            if not _NETWORK.fullmatch(target):
                raise ValueError(
                    'a network here is the name of a bridge or network, such as "default", "br0" or "vmbr0.20"'
                )
        return value

    @field_validator("rates")
    @classmethod
    def _check_rates(cls, value: dict[str, int]) -> dict[str, int]:
        return check_rates(value)

    @field_validator("scratch")
    @classmethod
    def _check_scratch(cls, value: str) -> str:
        return check_folder(value)

    @field_validator("export")
    @classmethod
    def _check_export(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("kind")
        if kind in _EXPORTS and value not in _EXPORTS[kind]:
            known = ", ".join(f'"{word}"' for word in _EXPORTS[kind])
            raise ValueError(f'"{value}" is not for hosts of kind "{kind}"; those take {known}')
        return value

    @field_validator("fleecing")
    @classmethod
    def _check_fleecing(cls, value: str | None) -> str | None:
        if value is None or _STORAGE.fullmatch(value):
            return value
        if not value.startswith("/"):
            raise ValueError("must be the name of a storage, or an absolute folder on the nodes")
        return check_folder(value)

    @field_validator("api")
    @classmethod
    def _check_api(cls, value: str | None) -> str | None:
        if value is not None and not _API.fullmatch(value):
            raise ValueError("must be https://HOST or https://HOST:PORT; anything else would be unverified")
        return value

    @field_validator("api_fingerprint")
    @classmethod
    def _check_fingerprint(cls, value: str | None) -> str | None:
        if value is None:
            return value
        digits = value.removeprefix("SHA256:").replace(":", "").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise ValueError("must be a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons")
        return digits

    @model_validator(mode="after")
    def _say_things_once(self) -> HostConfig:
        if self.port and re.search(r"[^:\[]:[0-9]+$", self.address):
            raise ValueError("the port stands in address and in port: keep one")
        if self.user and "@" in self.address:
            raise ValueError("the user stands in address and in user: keep one")
        if self.api_ca and self.api_fingerprint:
            raise ValueError("the certificate is verified by api_ca and by api_fingerprint: keep one")
        if self.api and not self.api_token:
            raise ValueError(
                'api needs a token: add api_token = { id = "backup@pve!vmconsole", file = "token" }'
            )
        if not self.api and (self.api_token or self.api_fingerprint or self.api_ca):
            raise ValueError(
                'api_token, api_fingerprint and api_ca are for api: add api = "https://HOST:8006"'
            )
        return self


def _only(kind: str, value: object, info: ValidationInfo) -> object:
    """Refuse a field of another kind of host."""
    other = info.data.get("kind", kind)
    if other != kind:
        raise ValueError(f'is only for hosts of kind "{kind}"; this one is of kind "{other}": remove it')
    return value
