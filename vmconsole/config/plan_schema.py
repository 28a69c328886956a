"""Schedules, retention, limits and alerts, as the configuration file describes them."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from vmconsole.config.secret_schema import SecretConfig
from vmconsole.config.units import parse_size
from vmconsole.config.values import RULES, Duration, LocalPath, Name, PositiveDuration, Text
from vmconsole.config.when import parse_pause, parse_when, parse_window
from vmconsole.model.schedule import Window

Count = Annotated[int, Field(ge=0, le=10_000)]
Parallel = Annotated[int, Field(ge=1, le=256)]


def _rate(value: object) -> object:
    if isinstance(value, str):
        value = re.sub(r"\s*/\s*s(?:ec)?$", "", value.strip())
    size = parse_size(value)
    if 0 < size < 1 << 16:
        raise ValueError('is less than 64 KiB/s; a rate is written "50 MiB/s"')
    return size


def _when(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a text, such as "daily 22:00", "every 4 h" or "0 22 * * 1-5"')
    parse_when(value)
    return value


Rate = Annotated[int, BeforeValidator(_rate)]
When = Annotated[Text, BeforeValidator(_when)]
WindowField = Annotated[Window, BeforeValidator(parse_window)]
Pause = Annotated[datetime.datetime | bool, BeforeValidator(parse_pause)]


class KeepConfig(BaseModel):
    """How many restore points of a guest to keep: the newest of each of the last N hours, days … with one."""

    model_config = RULES

    last: Count = 0
    """The newest N, whenever they were made."""
    hourly: Count = 0
    """The newest of each of the last N hours."""
    daily: Count = 0
    """The newest of each of the last N days."""
    weekly: Count = 0
    """The newest of each of the last N weeks (Monday to Sunday)."""
    monthly: Count = 0
    """The newest of each of the last N months."""
    yearly: Count = 0
    """The newest of each of the last N years."""
    minimum: Annotated[int, Field(ge=1, le=10_000)] = 1
    """The newest N are kept whatever else is said."""

    @model_validator(mode="after")
    def _keeps_something(self) -> KeepConfig:
        if not any((self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)):
            raise ValueError("keeps nothing: give last, hourly, daily, weekly, monthly or yearly")
        return self


class ScheduleConfig(BaseModel):
    """When a group is backed up."""

    model_config = RULES

    when: When
    """"daily 22:00", "weekdays 12:30", "every 4 h", "monday, friday 20:00", or cron: "0 22 * * 1-5"."""
    window: WindowField | None = None
    """Work starts, and may go on, only in here: "22:00-06:00". Default: the group's, else at any time."""
    jitter: Duration | None = None
    """Start up to so much later, differently for each guest, the same every time. Default: the group's, else 0."""
    keep: KeepConfig | None = None
    """What to keep of the points this schedule makes: { daily = 14, weekly = 8 }. Default: the group's."""
    full_every: Annotated[int, Field(ge=1)] | None = None
    """Read everything again after this many runs; default: as in the group."""
    paused: Pause = False
    """true, or until a date: "2026-12-24" or "2026-12-24 18:00"."""
    catch_up: bool = True
    """Do the newest of the runs that were missed as soon as possible."""


class LimitsConfig(BaseModel):
    """How much backups may ask at the same time."""

    model_config = RULES

    parallel: Parallel = 4
    """Guests backed up at the same time, on all hosts together."""
    per_host: Parallel = 1
    """Of one host or cluster node; [hosts.NAME] parallel says otherwise for one."""
    per_storage: Parallel = 1
    """Of one storage, where the host names storages."""
    per_repository: Parallel = 4
    """Into one repository."""
    uplinks: dict[Name, Parallel] = Field(default_factory=dict)
    """Over lines that several hosts share, which [hosts.NAME] uplink names: { branch = 1 }."""
    rate: Rate = 0
    """Bytes read per second, from all hosts together: "200 MiB/s". 0: no limit."""
    rates: dict[Text, Rate] = Field(default_factory=dict)
    """Instead of rate during a part of the day: { "08:00-18:00" = "20 MiB/s" }."""
    headroom: bool = True
    """Slow down while a host or its guests suffer."""

    @field_validator("rates")
    @classmethod
    def _check_rates(cls, value: dict[str, int]) -> dict[str, int]:
        return check_rates(value)


def check_rates(value: dict[str, int]) -> dict[str, int]:
    for window in value:
        parse_window(window)
    return value


class ChannelConfig(BaseModel):
    """Where alerts go: an Apprise URL, such as mailto://, ntfy:// or matrix:// (https://appriseit.com)."""

    model_config = RULES

    url: Text | None = None
    """The URL, when it holds nothing secret: "ntfy://ntfy.example/backups"."""
    secret: SecretConfig | None = None
    """Where the URL comes from: exactly one of file, command, env, credential, keyring."""
    on: Annotated[
        tuple[
            Literal[
                "failure", "warning", "overdue", "unprotected", "repository", "vanished", "success", "digest"
            ],
            ...,
        ],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    ] = ("failure", "overdue", "unprotected", "repository", "vanished", "digest")
    """What to tell there: failure, warning, overdue, unprotected, repository, vanished, success, digest."""

    @model_validator(mode="after")
    def _one_source(self) -> ChannelConfig:
        if (self.url is None) == (self.secret is None):
            raise ValueError('needs a url, or secret = { file = "…" } where the URL stands: exactly one')
        return self


class NotifyConfig(BaseModel):
    """Alerts, digests and metrics."""

    model_config = RULES

    channels: dict[Name, ChannelConfig] = Field(default_factory=dict)
    """Each [notify.channels.NAME]."""
    repeat: PositiveDuration = 86400.0
    """Tell again of what is still wrong after this long."""
    digest: When = "monday 08:00"
    """When the digest is sent, to channels that have it in on."""
    metrics: LocalPath | None = None
    """File for Prometheus' textfile collector: "/var/lib/node_exporter/vmconsole.prom"."""
    nearly_full: Annotated[int, Field(ge=1, le=99)] = 90
    """Percent of a repository's space in use from which to warn."""
