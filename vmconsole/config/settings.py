"""The configuration as the rest of the program uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vmconsole.config.host_schema import HostConfig
from vmconsole.config.paths import default_state_dir
from vmconsole.config.problems import did_you_mean
from vmconsole.config.schema import FileConfig, GroupConfig, RepositoryConfig
from vmconsole.errors import ConfigError
from vmconsole.interfaces import ExportOptions
from vmconsole.model.group import Group, Selector
from vmconsole.model.guest import Guest


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

    def group(self, name: str) -> Group:
        settings = self._group(name)
        selector = Selector(settings.guests, settings.tags, settings.hosts, settings.exclude)
        return Group(name, selector, settings.repository or self.default_repository())

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
        excluded: dict[str, None] = {}
        for pattern, disks in settings.exclude_disks.items():
            if Selector(guests=(pattern,)).why(guest):
                excluded.update(dict.fromkeys(disks))
        return ExportOptions(
            freeze=defaults.freeze if settings.freeze is None else settings.freeze,
            freeze_budget=settings.freeze_budget or defaults.freeze_budget,
            agent_timeout=settings.agent_timeout or defaults.agent_timeout,
            exclude_disks=tuple(excluded),
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
