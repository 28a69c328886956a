"""What the commands are handed: the real objects, built by wiring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vmconsole.config.settings import Config
from vmconsole.events import EventSink
from vmconsole.interfaces import (
    AlertStore,
    Cancel,
    Channel,
    Clock,
    DiskReader,
    GuestFiles,
    History,
    HostKey,
    Hypervisor,
    Ledger,
    Metrics,
    Pinger,
    Repository,
    RunStore,
)
from vmconsole.model.guest import Check
from vmconsole.model.point import RestorePoint
from vmconsole.model.repository import RepositorySpace
from vmconsole.runs.restore import FileTarget
from vmconsole.runs.runner import Runner


class Editor(Protocol):
    """Edits the configuration file; comments survive, a wrong result never replaces the file."""

    def fields(self, section: str, name: str) -> Mapping[str, Any]:
        """A table as it stands in the file."""
        ...

    def add(self, section: str, name: str, values: dict[str, Any], *, save: bool = True) -> Config: ...

    def set(
        self,
        section: str,
        name: str,
        changes: dict[str, Any],
        *,
        within: tuple[str, ...] = (),
        save: bool = True,
    ) -> Config:
        """Set fields of a table, or of one within it; None removes one. Returns the configuration as it is then, or
        would be."""
        ...

    def remove(self, section: str, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Captured:
    """How a command of ours ended, and what it printed."""

    code: int
    out: str
    err: str


class Systemd(Protocol):
    """The system's, or the user's own."""

    @property
    def runs(self) -> bool: ...

    def command(self, *words: str) -> Sequence[str]:
        """What a person would type."""
        ...

    def call(self, *words: str) -> str:
        """Run systemctl; returns what is wrong, in its own words, or nothing."""
        ...


class DemoShop(Protocol):
    """The demo, running."""

    @property
    def config_path(self) -> Path: ...

    def night(self, number: int) -> None:
        """What the guests did since the last backup."""
        ...

    def report(self, points: Sequence[RestorePoint]) -> dict[str, Any]: ...


class Services(Protocol):
    """Everything is built on first use, so that `--help` needs no configuration."""

    @property
    def config_path(self) -> Path: ...

    @property
    def config(self) -> Config:
        """Raises ConfigError."""
        ...

    @property
    def editor(self) -> Editor: ...

    @property
    def store(self) -> RunStore: ...

    @property
    def history(self) -> History: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def cancel(self) -> Cancel: ...

    @property
    def alerts(self) -> AlertStore: ...

    def channel(self, name: str) -> Channel:
        """A way to reach people, from [notify.channels]. Raises ConfigError when there is none of that name."""
        ...

    @property
    def pinger(self) -> Pinger: ...

    @property
    def metrics(self) -> Metrics | None:
        """Where the figures for monitoring go; None when nothing is configured."""
        ...

    def space(self, repository: str) -> RepositorySpace | None:
        """The room where a repository lies; None where that is not known, as of one on another machine."""
        ...

    def hypervisor(self, host: str) -> Hypervisor: ...

    def repository(self, name: str) -> Repository: ...

    def files(self, disks: Mapping[str, DiskReader]) -> AbstractContextManager[GuestFiles, bool | None]:
        """The files in the disks of a virtual machine, which are read in a process of its own.

        disks: by their ids, in the guest's order; they must stay open meanwhile. Raises FilesUnreadable.
        """
        ...

    def runner(self, listeners: Sequence[EventSink]) -> Runner: ...

    def new_file(self, path: Path, size: int) -> FileTarget: ...

    def scan_host_key(self, host: str) -> HostKey:
        """host: a name, or `HOST/NODE`. Raises HostUnreachable."""
        ...

    def trust_host_key(self, key: HostKey, *, replace: bool) -> None: ...

    def host_nodes(self, host: str) -> Sequence[str]:
        """The other nodes of a cluster that are up, as `HOST/NODE`; none of a host that is one machine.

        Asks the host, whose key must be trusted. Raises HostError.
        """
        ...

    def checks(self) -> Sequence[Check]:
        """What this machine lacks."""
        ...

    def detach(self, argv: Sequence[str]) -> str:
        """Start vmconsole again with these arguments, in a session of its own, from `/`.

        Returns the process as runs name it. What it prints goes to `detached.log` in the state folder.
        """
        ...

    def capture(self, argv: Sequence[str]) -> Captured:
        """Run vmconsole with these arguments, in a session of its own, and wait for its end.

        For commands that are soon done; what must outlive us is detached. Raises CommandFailed after an hour.
        """
        ...

    def edit_config(self) -> int:
        """Open the configuration file in the person's editor, on this terminal; returns its exit status.

        Raises ToolMissing, CommandFailed.
        """
        ...

    def reread(self) -> None:
        """The configuration file has changed: read it anew, and open anew what was opened by it."""
        ...

    def stop_process(self, process: str) -> bool:
        """Ask a run to stop; False when that process is not running any more."""
        ...

    def systemd(self, *, user: bool) -> Systemd: ...

    def demo(self, folder: Path) -> AbstractContextManager[DemoShop, bool | None]: ...

    def at(self, config: Path) -> Services:
        """The same, for another configuration file."""
        ...

    def close(self) -> None: ...
