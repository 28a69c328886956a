"""The configuration as the rest of the program uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo

from vmconsole.config.host_schema import HostConfig
from vmconsole.config.paths import default_state_dir
from vmconsole.config.plan_schema import ChannelConfig, NotifyConfig
from vmconsole.config.plans import (
    excluded_disks,
    local_zone,
    rates_of,
    retention_of,
    schedules_of,
    selector_of,
)
from vmconsole.config.problems import did_you_mean
from vmconsole.config.schema import FileConfig, GroupConfig, RepositoryConfig
from vmconsole.errors import ConfigError
from vmconsole.interfaces import ExportOptions
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest
from vmconsole.model.limits import Limits


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration file that was read and found right. Lookups raise ConfigError."""

    path: Path
    file: FileConfig

    @property
    def hosts(self) -> Mapping[str, HostConfig]:
        return self.file.hosts

    @property
    def repositories(self) -> Mapping[str, RepositoryConfig]:
        return self.file.repositories

    @property
    def state_dir(self) -> Path:
        return self.file.state_dir or default_state_dir()

    @property
    def known_hosts(self) -> Path:
        """Our own file of trusted host keys, for hosts that name none."""
        return self.state_dir / "known_hosts"

    def host(self, name: str) -> HostConfig:
        if name not in self.file.hosts:
            self._unknown("host", name, self.file.hosts)
        return self.file.hosts[name]

    def repository(self, name: str) -> RepositoryConfig:
        if name not in self.file.repositories:
            self._unknown("repository", name, self.file.repositories)
        return self.file.repositories[name]

    @property
    def timezone(self) -> tzinfo:
        """The zone of all times in the file."""
        return ZoneInfo(self.file.timezone) if self.file.timezone else local_zone()

    def group(self, name: str) -> Group:
        settings = self._group(name)
        return Group(
            name,
            selector_of(settings),
            settings.repository or self.default_repository(),
            schedules_of(name, settings, self.timezone),
            retention_of(settings.keep),
            settings.together,
            settings.when_not_together == "apart",
            settings.overdue_after or 0.0,
            settings.ping or "",
        )

    @property
    def notify(self) -> NotifyConfig:
        return self.file.notify

    def channel(self, name: str) -> ChannelConfig:
        """A way to reach people."""
        if name not in self.notify.channels:
            self._unknown("channel", name, self.notify.channels)
        return self.notify.channels[name]

    def limits(self) -> Limits:
        """Of everything together."""
        limits = self.file.limits
        return Limits(limits.parallel, limits.rate, rates_of(limits.rates))

    def host_limits(self, name: str) -> Limits:
        """Of a host; of a cluster, of each of its nodes."""
        host = self.host(name)
        return Limits(host.parallel or self.file.limits.per_host, host.rate or 0, rates_of(host.rates))

    def storage_limits(self) -> Limits:
        """Of any one storage of a host."""
        return Limits(self.file.limits.per_storage)

    def uplink(self, host: str) -> str:
        """The line that a host's data comes over, where several share one; else empty."""
        return self.host(host).uplink or ""

    def uplink_limits(self) -> dict[str, Limits]:
        return {name: Limits(parallel) for name, parallel in self.file.limits.uplinks.items()}

    def repository_limits(self, name: str) -> Limits:
        return Limits(self.repository(name).parallel or self.file.limits.per_repository)

    def headroom(self, host: str) -> bool:
        """Whether backups slow down while the host or its guests suffer."""
        asked = self.host(host).headroom
        return self.file.limits.headroom if asked is None else asked

    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the file."""
        return tuple(self.group(name) for name in self.file.groups)

    def default_repository(self) -> str:
        """The repository of [defaults], else the only one there is."""
        if self.file.defaults.repository:
            return self.file.defaults.repository
        names = list(self.file.repositories)
        if len(names) == 1:
            return names[0]
        if not names:
            raise ConfigError(
                f"{self.path}: there is no repository yet.",
                hint="Add one with `vmconsole repo init`.",
                subject=str(self.path),
            )
        raise ConfigError(
            f"{self.path}: there are several repositories ({', '.join(names)}) and none is the default.",
            hint=f'Add repository = "{names[0]}" under [defaults].',
            subject=str(self.path),
        )

    def full_every(self, group: str | None = None) -> int:
        """After how many runs everything is read again."""
        settings = self._group(group) if group else None
        return (settings.full_every if settings else None) or self.file.defaults.full_every

    def export_options(self, guest: Guest, group: str | None = None) -> ExportOptions:
        """Limits for a backup of the guest as a member of the group; without one, those of [defaults]."""
        defaults = self.file.defaults
        if group is None:
            return ExportOptions(
                freeze=defaults.freeze,
                freeze_budget=defaults.freeze_budget,
                agent_timeout=defaults.agent_timeout,
            )
        settings = self._group(group)
        return ExportOptions(
            freeze=defaults.freeze if settings.freeze is None else settings.freeze,
            freeze_budget=settings.freeze_budget or defaults.freeze_budget,
            agent_timeout=settings.agent_timeout or defaults.agent_timeout,
            exclude_disks=excluded_disks(guest, settings.exclude_disks, settings.only_disks),
        )

    def _group(self, name: str) -> GroupConfig:
        if name not in self.file.groups:
            self._unknown("group", name, self.file.groups)
        return self.file.groups[name]

    def _unknown(self, what: str, name: str, known: Mapping[str, object]) -> NoReturn:
        plural = {"repository": "repositories"}.get(what, f"{what}s")
        listed = ", ".join(known) or "none"
        raise ConfigError(
            f"There is no {what} {name!r} in {self.path}.{did_you_mean(name, known)}",
            hint=f"The {plural} there: {listed}.",
            subject=name,
        )
