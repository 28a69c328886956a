"""Builds the real objects from the configuration; the only importer of adapters.

Adapters are imported when they are first needed: `vmconsole --help` and `vmconsole runs` must not
pay for Borg's, paramiko's or SQLAlchemy's start-up.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vmconsole import __version__
from vmconsole.config.load import load
from vmconsole.config.paths import find_config, new_config
from vmconsole.config.settings import Config
from vmconsole.errors import UsageError
from vmconsole.events import EventSink
from vmconsole.front.services import Captured
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
from vmconsole.model.repository import RepositorySpace
from vmconsole.remote.local import LocalMachine, run_on_terminal, start_detached
from vmconsole.remote.process import identity, is_dead, terminate
from vmconsole.remote.systemd import Systemd
from vmconsole.runs.restore import FileTarget
from vmconsole.runs.runner import Runner
from vmconsole.wiring.clock import SystemClock

if TYPE_CHECKING:
    from vmconsole.config.edit import ConfigChanger
    from vmconsole.demo.showing import DemoShop
    from vmconsole.hypervisors.proxmox.nodes import Nodes
    from vmconsole.remote.ssh import SshSettings
    from vmconsole.state.store import StateStore

_T = TypeVar("_T")
_CAPTURE_SECONDS = 3600.0


class Wiring:
    """What the front ends are handed (front/services.py). Objects are made on first use and kept."""

    def __init__(self, config: Path | None, cancel: Cancel, clock: Clock | None = None) -> None:
        self._explicit = config
        self._cancel = cancel
        self._clock = clock or SystemClock()
        self._local = LocalMachine()
        self._lock = threading.RLock()
        self._made: dict[tuple[str, str], Any] = {}
        self._closers: list[Callable[[], None]] = []

    @property
    def config_path(self) -> Path:
        """The file in use, or the one that `init` would make."""
        try:
            return find_config(self._explicit)
        except UsageError:
            return new_config(self._explicit)

    @property
    def config(self) -> Config:
        return self._once("config", "", lambda: load(find_config(self._explicit)))

    @property
    def editor(self) -> ConfigChanger:
        from vmconsole.config.edit import ConfigChanger

        return ConfigChanger(self.config_path, lambda: self._forget("config"))

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def cancel(self) -> Cancel:
        return self._cancel

    @property
    def store(self) -> RunStore:
        return self._state

    @property
    def history(self) -> History:
        from vmconsole.state.history import StateHistory

        return self._once("history", "", lambda: StateHistory(self._state.database, self._clock, is_dead))

    @property
    def alerts(self) -> AlertStore:
        from vmconsole.state.alerts import StateAlerts

        return StateAlerts(self._state.database, self._clock)

    def channel(self, name: str) -> Channel:
        from vmconsole.notify.opening import open_channel

        settings = self.config.channel(name)
        return open_channel(name, settings, self._run)

    @property
    def pinger(self) -> Pinger:
        from vmconsole.notify.ping import HttpPinger

        return HttpPinger()

    @property
    def metrics(self) -> Metrics | None:
        from vmconsole.notify.metrics import MetricsFile

        path = self.config.notify.metrics
        return MetricsFile(path) if path else None

    def space(self, repository: str) -> RepositorySpace | None:
        from vmconsole.borg.space import local_space

        return local_space(repository, self.config.repository(repository).location)

    @property
    def ledger(self) -> Ledger:
        from vmconsole.state.ledger import StateLedger

        return self._once("ledger", "", lambda: StateLedger(self._state.database, self._clock))

    @property
    def _state(self) -> StateStore:
        return self._once("store", "", self._open_store)

    def hypervisor(self, host: str) -> Hypervisor:
        return self._once("hypervisor", host, lambda: self._open_host(host))

    def repository(self, name: str) -> Repository:
        return self._once("repository", name, lambda: self._open_repository(name))

    def files(self, disks: Mapping[str, DiskReader]) -> AbstractContextManager[GuestFiles, bool | None]:
        from vmconsole.guestfs.client import open_files

        return open_files(self._local, disks)

    def runner(self, listeners: Sequence[EventSink]) -> Runner:
        from vmconsole.disks.memory import keep_buffers

        keep_buffers()
        return Runner(self.store, self.clock, self.cancel, listeners, self.history, self.ledger, self.config)

    def new_file(self, path: Path, size: int) -> FileTarget:
        from vmconsole.disks.sparse import SparseFile

        return SparseFile(path, size)

    def scan_host_key(self, host: str) -> HostKey:
        from vmconsole.remote.hostkeys import scan_host_key, trusted_fingerprint

        settings = self._ssh_settings_of(host)
        key = scan_host_key(settings)
        return HostKey(
            host,
            settings.address,
            key.type,
            key.fingerprint,
            key.line,
            trusted_fingerprint(settings, key.type),
        )

    def trust_host_key(self, key: HostKey, *, replace: bool) -> None:
        from vmconsole.remote.hostkeys import trust
        from vmconsole.remote.known_hosts import HostKeyInfo

        settings = self._ssh_settings_of(key.host)
        trust(settings, HostKeyInfo(key.type, key.fingerprint, key.line), replace=replace)

    def host_nodes(self, host: str) -> Sequence[str]:
        if self.config.host(host).kind != "proxmox":
            return ()
        status = self._nodes(host).status(fresh=True)
        return [f"{host}/{node.name}" for node in status.nodes if node.online and not node.asked]

    def checks(self) -> Sequence[Check]:
        borg = Path(sys.executable).with_name("borg")
        found = str(borg) if borg.exists() else shutil.which("borg")
        return [
            Check("vmconsole", ok=True, detail=f"{__version__}, Python {platform.python_version()}"),
            Check(
                "borg",
                ok=found is not None,
                detail=found or "the borg command is missing",
                remedy="" if found else "pipx reinstall vmconsole",
            ),
            self._state_check(),
        ]

    def detach(self, argv: Sequence[str]) -> str:
        log = self.config.state_dir / "detached.log"
        return start_detached([sys.executable, "-m", "vmconsole", "--quiet", *argv], log)

    def capture(self, argv: Sequence[str]) -> Captured:
        words = [sys.executable, "-m", "vmconsole", "--config", str(self.config_path), *argv]
        before = self._config_stamp()
        done = self._local.run(words, timeout=_CAPTURE_SECONDS, check=False)
        if self._config_stamp() != before:
            # What is asked for next must not meet the file as it was before the command.
            self.reread()
        return Captured(done.status, done.text, done.errors)

    def edit_config(self) -> int:
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        return run_on_terminal([*shlex.split(editor), str(self.config_path)])

    def reread(self) -> None:
        for kind in ("config", "hypervisor", "nodes", "repository"):
            self._forget(kind)

    def stop_process(self, process: str) -> bool:
        return terminate(process)

    def systemd(self, *, user: bool) -> Systemd:
        return Systemd(self._local, user=user)

    @contextmanager
    def demo(self, folder: Path) -> Iterator[DemoShop]:
        from vmconsole.demo.shop import Shop
        from vmconsole.demo.showing import DemoShop

        with Shop(folder) as shop:
            yield DemoShop(shop)

    def at(self, config: Path) -> Wiring:
        other = Wiring(config, self._cancel, self._clock)
        self._closers.append(other.close)
        return other

    def close(self) -> None:
        """Close every connection; safe to call twice."""
        with self._lock:
            closers, self._closers = self._closers, []
            self._made.clear()
        for close in reversed(closers):
            close()

    def _once(self, kind: str, name: str, make: Callable[[], _T]) -> _T:
        with self._lock:
            if (kind, name) not in self._made:
                self._made[kind, name] = make()
            found: _T = self._made[kind, name]
            return found

    def _forget(self, kind: str) -> None:
        with self._lock:
            for key in [key for key in self._made if key[0] == kind]:
                del self._made[key]

    def _config_stamp(self) -> int:
        try:
            return self.config_path.stat().st_mtime_ns
        except OSError:
            return 0

    def _open_store(self) -> StateStore:
        from vmconsole.state.store import StateStore

        folder = self.config.state_dir
        store = StateStore.open(folder / "state.sqlite", self._clock, identity(), is_dead)
        self._closers.append(store.close)
        return store

    def _open_host(self, name: str) -> Hypervisor:
        return (
            self._open_proxmox(name) if self.config.host(name).kind == "proxmox" else self._open_libvirt(name)
        )

    def _open_libvirt(self, name: str) -> Hypervisor:
        from vmconsole.hypervisors.libvirt.host import LibvirtHost
        from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
        from vmconsole.remote.ssh import SshMachine

        settings = self.config.host(name)
        machine = SshMachine(self._ssh_settings(name))
        host = LibvirtHost(
            name,
            machine,
            LibvirtSettings(
                uri=settings.uri,
                scratch=settings.scratch,
                scratch_min_free=settings.scratch_reserve,
                method=settings.export,
                nbd_connections=settings.connections,
                networks=settings.networks,
            ),
            self._clock,
        )
        self._closers.append(host.close)
        return host

    def _open_proxmox(self, name: str) -> Hypervisor:
        from vmconsole.hypervisors.proxmox.apiaccess import https_api
        from vmconsole.hypervisors.proxmox.host import ProxmoxHost
        from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings

        settings = self.config.host(name)
        host = ProxmoxHost(
            self._nodes(name),
            ProxmoxSettings(
                export=settings.export,
                fleecing=settings.fleecing or "",
                fleecing_min_free=settings.scratch_reserve,
                nbd_connections=settings.connections,
                networks=settings.networks,
            ),
            https_api(name, settings, self._run),
        )
        self._closers.append(host.close)
        return host

    def _nodes(self, host: str) -> Nodes:
        from vmconsole.hypervisors.proxmox.nodes import Nodes
        from vmconsole.remote.ssh import SshMachine

        def make() -> Nodes:
            nodes = Nodes(
                host,
                lambda node, address: SshMachine(self._node_settings(host, node, address)),
                self.config.host(host).nodes,
                self._clock,
            )
            self._closers.append(nodes.close)
            return nodes

        return self._once("nodes", host, make)

    def _ssh_settings_of(self, name: str) -> SshSettings:
        """name: of a host, or `HOST/NODE` of a cluster's node."""
        host, slash, node = name.partition("/")
        settings = self.config.host(host)
        if not slash:
            return self._ssh_settings(host)
        if settings.kind != "proxmox":
            raise UsageError(
                f"{host} is one machine, without nodes.", hint=f"Name it alone: {host}", subject=name
            )
        if node in settings.nodes:
            return self._node_settings(host, node, "")
        status = self._nodes(host).status(fresh=True)
        entry = status.node(node)
        if entry is None or not (entry.address or entry.asked):
            raise UsageError(
                f"{host} has no node {node} that it tells an address of.",
                hint=f"Its nodes: {', '.join(item.name for item in status.nodes)}.",
                subject=name,
            )
        return self._ssh_settings(host) if entry.asked else self._node_settings(host, node, entry.address)

    def _node_settings(self, host: str, node: str, address: str) -> SshSettings:
        from vmconsole.remote.configured import node_settings

        return node_settings(self.config, host, node, address)

    def _ssh_settings(self, name: str) -> SshSettings:
        from vmconsole.remote.configured import ssh_settings

        return ssh_settings(self.config, name)

    def _open_repository(self, name: str) -> Repository:
        from vmconsole.wiring.repositories import open_repository

        return open_repository(self.config, name, self._local, self._run)

    def _run(self, argv: Sequence[str]) -> bytes:
        """A program of this machine that prints a secret."""
        return self._local.run(argv).stdout

    def _state_check(self) -> Check:
        self.store.runs(1)
        return Check("state", ok=True, detail=str(self.config.state_dir))
