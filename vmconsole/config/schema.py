"""What may stand in the configuration file. The string under a field is its documentation; the
commented sample is made from these (sample.py). Validation is as values.py says.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from vmconsole.config.host_schema import HostConfig
from vmconsole.config.secret_schema import SecretConfig
from vmconsole.config.values import (
    RULES,
    Duration,
    LocalPath,
    Location,
    Name,
    PositiveDuration,
    Size,
    Text,
    Texts,
)

_COMPRESSION = re.compile(
    r"(?:auto,)?(?:none|lz4|zstd(?:,(?:[1-9]|1[0-9]|2[0-2]))?|(?:zlib|lzma)(?:,[0-9])?)"
)
MIN_CHUNK = 64 << 10
MAX_CHUNK = 16 << 20


class RepositoryConfig(BaseModel):
    """A Borg repository."""

    model_config = RULES

    location: Location
    """A local folder, or ssh://USER@HOST:PORT/PATH."""
    encryption: Literal[
        "none",
        "authenticated",
        "authenticated-blake2",
        "repokey",
        "repokey-blake2",
        "keyfile",
        "keyfile-blake2",
    ] = "repokey-blake2"
    """Borg's encryption mode, used when the repository is made."""
    compression: Text = "zstd,3"
    """Borg's compression: none, lz4, zstd,LEVEL, zlib,LEVEL or lzma,LEVEL; also as in "auto,zstd,3"."""
    chunk_size: Size = 1 << 20
    """Disks are cut into pieces of this size, a power of two. After a change the next backups are full."""
    lock_wait: Duration = 600.0
    """How long to wait while another program holds the repository's lock."""
    rsh: Text | None = None
    """Command to use instead of `ssh`, as Borg's --rsh."""
    remote_path: Text | None = None
    """Path of `borg` on the repository's server, as Borg's --remote-path."""
    passphrase: SecretConfig | None = None
    """Where the passphrase comes from: exactly one of file, command, env, credential, keyring."""

    @field_validator("compression")
    @classmethod
    def _check_compression(cls, value: str) -> str:
        if not _COMPRESSION.fullmatch(value):
            raise ValueError('must be one of Borg\'s, such as "zstd,3", "lz4", "auto,zstd,6" or "none"')
        return value

    @field_validator("chunk_size")
    @classmethod
    def _check_chunk_size(cls, value: int) -> int:
        if not MIN_CHUNK <= value <= MAX_CHUNK or value & (value - 1):
            raise ValueError("must be a power of two from 64 KiB to 16 MiB")
        return value

    @model_validator(mode="after")
    def _encryption_needs_passphrase(self) -> RepositoryConfig:
        if self.encryption != "none" and self.passphrase is None:
            raise ValueError(
                f"encryption {self.encryption} needs a passphrase: "
                'add passphrase = { file = "…" }, { command = […] }, { env = "…" }, … '
                'or set encryption = "none"'
            )
        return self


class GroupConfig(BaseModel):
    """Guests that are backed up together: those that guests, tags or hosts names and exclude does not."""

    model_config = RULES

    guests: Texts = ()
    """Names, host/name, or uuids; * and ? match, as in "web-*" or "kvm1/*"."""
    tags: Texts = ()
    """Every guest with one of these tags."""
    hosts: Texts = ()
    """Every guest on these hosts; * and ? match."""
    exclude: Texts = ()
    """Guests to leave out, written as in guests."""
    repository: Text | None = None
    """Where the restore points go; default: the repository in [defaults]."""
    exclude_disks: dict[Text, Texts] = Field(default_factory=dict)
    """Disks to leave out, by guest: { "db" = ["vdb"], "web-*" = ["vdc"] }."""
    full_every: Annotated[int, Field(ge=1)] | None = None
    """Read everything again after this many runs; default: as in [defaults]."""
    freeze: bool | None = None
    """Freeze guest file systems through the agent; default: as in [defaults]."""
    freeze_budget: PositiveDuration | None = None
    """Longest time a guest may stay frozen; default: as in [defaults]."""
    agent_timeout: PositiveDuration | None = None
    """How long to wait for the guest agent to answer; default: as in [defaults]."""

    @model_validator(mode="after")
    def _covers_something(self) -> GroupConfig:
        if not (self.guests or self.tags or self.hosts):
            raise ValueError('covers no guest: give guests, tags or hosts (hosts = ["*"] covers all)')
        return self


class DefaultsConfig(BaseModel):
    """What holds where a group says nothing."""

    model_config = RULES

    repository: Text | None = None
    """Where restore points go; default: the only repository there is."""
    full_every: Annotated[int, Field(ge=1)] = 30
    """Read everything again after this many runs, to prove the increments."""
    freeze: bool = True
    """Freeze guest file systems through the agent, for application consistency."""
    freeze_budget: PositiveDuration = 10.0
    """Longest time a guest may stay frozen."""
    agent_timeout: PositiveDuration = 5.0
    """How long to wait for the guest agent to answer."""


class FileConfig(BaseModel):
    """The whole configuration file."""

    model_config = RULES

    state_dir: LocalPath | None = None
    """Folder for vmconsole's memory; default: /var/lib/vmconsole for root, else ~/.local/state/vmconsole."""
    defaults: DefaultsConfig = DefaultsConfig()
    """What holds where a group says nothing."""
    hosts: dict[Name, HostConfig] = Field(default_factory=dict)
    """Hypervisors, each [hosts.NAME]."""
    repositories: dict[Name, RepositoryConfig] = Field(default_factory=dict)
    """Borg repositories, each [repositories.NAME]."""
    groups: dict[Name, GroupConfig] = Field(default_factory=dict)
    """Groups of guests, each [groups.NAME]."""
