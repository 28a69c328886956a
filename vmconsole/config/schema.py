"""What may stand in the configuration file. The string under a field is its documentation; the
commented sample is made from these (sample.py). Validation is as values.py says.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from vmconsole.config.console_schema import ConsoleConfig
from vmconsole.config.host_schema import HostConfig
from vmconsole.config.plan_schema import (
    KeepConfig,
    LimitsConfig,
    NotifyConfig,
    Parallel,
    Pause,
    ScheduleConfig,
    When,
    WindowField,
)
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
    parallel: Parallel | None = None
    """Guests backed up into it at the same time; default: per_repository in [limits]."""
    undo: Duration = 604800.0
    """Pruned restore points can be had back for this long; only then does compact delete them."""
    compact: When | None = "sunday 12:00"
    """When to delete what was pruned and to free its space, after a scheduled run."""
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


Kinds = Annotated[
    tuple[Literal["vm", "container", "template"], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class GroupConfig(BaseModel):
    """Guests that are backed up together: those that guests, tags or hosts names and exclude does not."""

    model_config = RULES

    guests: Texts = ()
    """Names, host/name, or uuids; * and ? match, as in "web-*" or "kvm1/*"."""
    tags: Texts = ()
    """Every guest with one of these tags."""
    hosts: Texts = ()
    """Every guest on these hosts, or nodes of a cluster as host/node; * and ? match."""
    pools: Texts = ()
    """Every guest in these Proxmox pools; * and ? match."""
    kinds: Kinds = ()
    """Every guest of these kinds: "vm", "container", "template"."""
    exclude: Texts = ()
    """Guests to leave out, written as in guests."""
    exclude_tags: Texts = ()
    """Guests to leave out that have one of these tags."""
    repository: Text | None = None
    """Where the restore points go; default: the repository in [defaults]."""
    exclude_disks: dict[Text, Texts] = Field(default_factory=dict)
    """Disks to leave out, by guest, or by tag with a # before it: { "db" = ["vdb"], "#scratch" = ["scsi[1-9]"] }."""
    only_disks: dict[Text, Texts] = Field(default_factory=dict)
    """The same the other way round: of these guests only these disks."""
    full_every: Annotated[int, Field(ge=1)] | None = None
    """Read everything again after this many runs; default: as in [defaults]."""
    freeze: bool | None = None
    """Freeze guest file systems through the agent; default: as in [defaults]."""
    freeze_budget: PositiveDuration | None = None
    """Longest time a guest may stay frozen; default: as in [defaults]."""
    agent_timeout: PositiveDuration | None = None
    """How long to wait for the guest agent to answer; default: as in [defaults]."""
    together: bool = False
    """Freeze and cut all guests of the group at the same moment, whatever hosts they are on."""
    when_not_together: Literal["fail", "apart"] = "fail"
    """When one of them cannot be frozen in time: "fail" all, or back them up "apart", each by itself."""
    when: When | None = None
    """When to back up: "daily 22:00", "weekdays 12:30", "every 4 h", "last sunday 03:00", or cron. Several
    schedules: a [groups.NAME.schedules.NAME] table for each instead."""
    window: WindowField | None = None
    """Work starts, and may go on, only in here: "22:00-06:00"."""
    jitter: Duration = 0.0
    """Start up to so much later, differently for each guest, the same every time."""
    keep: KeepConfig | None = None
    """What to keep: { daily = 14, weekly = 8, monthly = 12 }. Without it nothing is ever pruned."""
    paused: Pause = False
    """true, or until a date: "2026-12-24" or "2026-12-24 18:00"."""
    schedules: dict[Name, ScheduleConfig] = Field(default_factory=dict)
    """Several schedules, each [groups.GROUP.schedules.NAME]."""
    overdue_after: PositiveDuration | None = None
    """A guest without a good restore point for so long is overdue; default: as its schedules suggest."""
    ping: Text | None = None
    """URL to call when a scheduled run of the group went well; with /start and /fail added at its start and
    when it did not: a dead man's switch such as healthchecks.io."""

    @field_validator("ping")
    @classmethod
    def _check_ping(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/]+(?:/\S*)?", value):
            raise ValueError("must be an http:// or https:// address")
        return value

    @model_validator(mode="after")
    def _covers_something(self) -> GroupConfig:
        if not (self.guests or self.tags or self.hosts or self.pools or self.kinds):
            raise ValueError(
                'covers no guest: give guests, tags, pools, kinds or hosts (hosts = ["*"] covers all)'
            )
        if "*" in self.exclude or (
            set(self.guests) <= set(self.exclude)
            and not (self.tags or self.hosts or self.pools or self.kinds)
        ):
            raise ValueError("covers no guest: exclude takes away everything that guests names")
        if both := set(self.tags) & set(self.exclude_tags):
            raise ValueError(f'tag "{min(both)}" is in tags and in exclude_tags: keep one')
        return self

    @model_validator(mode="after")
    def _schedules_fit(self) -> GroupConfig:
        if self.when and self.schedules:
            raise ValueError(
                "has when and schedules: keep one, or make when a [groups.NAME.schedules.NAME] table"
            )
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

    timezone: Text | None = None
    """Zone of all times here, such as "Europe/Berlin"; default: this machine's."""
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
    limits: LimitsConfig = LimitsConfig()
    """How much backups may ask at the same time."""
    notify: NotifyConfig = NotifyConfig()
    """Alerts, digests and metrics."""
    console: ConsoleConfig = ConsoleConfig()
    """How the console looks, and what it may do."""

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ValueError, OSError, LookupError):
                raise ValueError(
                    f'"{value}" is not a time zone: write it as "Europe/Berlin" or "UTC"'
                ) from None
        return value
