"""A shop in memory for tests of the commands: real configuration, state, runner and output; fake hosts and
repositories. `World.call("backup", "web")` runs a command as the shell would.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import fakes

from vmconsole.cli.main import main
from vmconsole.errors import GuestExists, HostUnreachable, RepositoryLocked, RepositoryMissing
from vmconsole.interfaces import Cancel, HostKey
from vmconsole.model.guest import Check, Disk, Guest, GuestKind, GuestState, HostInventory, HostKind, Tracking
from vmconsole.model.repository import RepositoryInfo
from vmconsole.wiring.services import Wiring

HOSTILE = 'db"\x1b[2J\n✓ forged [bold]x[/] \u202eend'
CONFIG = """\
state_dir = "state"

[hosts.kvm1]
kind = "libvirt"
address = "root@kvm1.example"

[repositories.main]
location = "repository"
encryption = "none"

[groups.daily]
guests = ["web*"]
tags = ["prod"]
exclude = ["web-test"]
"""


def guest(name, number, *, tags=(), host="kvm1", state=GuestState.RUNNING):
    disk = Disk("vda", 4 << 20, "qcow2", f"/images/{number}", tracking=Tracking.BITMAP)
    uuid = f"{number:04x}1111-0000-4000-8000-{number:012x}"
    return Guest(uuid, str(number), name, host, GuestKind.VM, state, agent=True, tags=tags, disks=(disk,))


class Host:
    """A hypervisor with an inventory, and backups as in fakes.py."""

    kind = HostKind.LIBVIRT

    def __init__(self, name):
        self.name = name
        self.guests = [
            guest("web", 1, tags=("prod",), host=name),
            guest("web-test", 2, host=name),
            guest(HOSTILE, 3, host=name),
        ]
        self.checks = [Check("libvirt", ok=True, detail="version 9.0")]
        self.error = None
        self.warnings = ()
        self.nodes, self.storages, self.host_warnings = (), (), ()
        self.cleaned = []
        self.notes = ()
        self._fake = fakes.FakeHypervisor(fakes.Diary())

    def _reach(self):
        if self.error:
            raise self.error

    def inventory(self):
        self._reach()
        return HostInventory(
            self.name,
            self.kind,
            reachable=True,
            guests=tuple(self.guests),
            nodes=self.nodes,
            storages=self.storages,
            warnings=self.host_warnings,
        )

    def check(self):
        self._reach()
        return self.checks

    def plan(self, uuid, repository, points, options):
        self._reach()
        plan = self._fake.plan(uuid, repository, points, options)
        known = next(guest for guest in self.guests if guest.uuid == uuid)
        return replace(plan, guest=known, warnings=self.warnings)

    def export(self, plan, context):
        return self._fake.export(plan, context)

    def preview(self, point, files, request, context):
        if any(guest.name == request.name for guest in self.guests):
            raise GuestExists(f"There is a guest {request.name!r} on {self.name} already.")
        return self.notes

    def clean(self, entry):
        self.cleaned.append(entry)
        return f"Cleaned {entry.kind}."

    def close(self):
        pass


class Repository(fakes.FakeRepository):
    def __init__(self, name):
        super().__init__(fakes.Diary())
        self.name = name
        self.there = True
        self.locked = ""
        self.problems = []

    def id(self):
        self._look()
        return super().id()

    def reader(self, *, wait=None):
        self._look()
        if self.locked and (wait is not None or self.locked == "for ever"):
            raise RepositoryLocked(f"{self.name} is locked by a backup.", hint="Wait.", subject=self.name)
        return super().reader()

    def create(self):
        self.there = True
        return self.id()

    def info(self):
        self._look()
        return RepositoryInfo(self.name, "/srv", self.id(), "none", len(self.saved), 8 << 20, 1 << 20)

    def check(self, *, verify_data, context):
        self._look()
        return self.problems

    def _look(self):
        if not self.there:
            raise RepositoryMissing(
                f"There is no repository {self.name}.", hint="vmconsole repo init main", subject=self.name
            )


class Shop:
    """Services: everything real but hosts, repositories, host keys and other processes."""

    def __init__(self, wiring, world):
        self._wiring = wiring
        self._world = world

    def __getattr__(self, name):
        return getattr(self._wiring, name)

    def hypervisor(self, host):
        self.config.host(host)
        return self._world.hosts.setdefault(host, Host(host))

    def repository(self, name):
        self.config.repository(name)
        return self._world.repositories.setdefault(name, Repository(name))

    def scan_host_key(self, host):
        return replace(self._world.key, host=host)

    def host_nodes(self, host):
        if isinstance(self._world.nodes, Exception):
            raise self._world.nodes
        return [f"{host}/{node}" for node in self._world.nodes]

    def trust_host_key(self, key, *, replace):
        if self._world.disk_full:
            raise OSError(28, "No space left on device")
        self._world.trusted.append((key.fingerprint, replace))
        self._world.trusted_hosts.append(key.host)

    def checks(self):
        return [Check("vmconsole", ok=True, detail="test")]

    def detach(self, argv):
        self._world.detached.append(list(argv))
        return self._world.on_detach(argv)

    def stop_process(self, process):
        return self._world.on_stop(process)


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def documents(self):
        return [json.loads(line) for line in self.lines]

    @property
    def document(self):
        """The one document; there must be no other."""
        (only,) = self.documents
        return only


class World:
    def __init__(self, folder: Path, capsys):
        self.folder = folder
        self.config = folder / "config.toml"
        self.config.write_text(CONFIG)
        self.capsys = capsys
        self.hosts, self.repositories = {}, {}
        self.host = self.hosts["kvm1"] = Host("kvm1")
        self.repository = self.repositories["main"] = Repository("main")
        self.key = HostKey("kvm1", "root@kvm1.example", "ssh-ed25519", "SHA256:abc", "kvm1 ssh-ed25519 AAAA")
        self.trusted, self.detached = [], []
        self.trusted_hosts, self.nodes = [], ()
        self.disk_full = False
        self.on_detach = lambda argv: "elsewhere:1:1"
        self.on_stop = lambda process: False
        self.cancel = Cancel()

    def wiring(self):
        return Wiring(self.config, self.cancel)

    def call(self, *argv: str) -> Said:
        self.capsys.readouterr()
        words: Sequence[str] = ["--config", str(self.config), *argv]
        code = main(words, lambda config: Shop(Wiring(Path(config), self.cancel), self))
        shown = self.capsys.readouterr()
        return Said(code, shown.out, shown.err)

    def unreachable(self):
        self.host.error = HostUnreachable("kvm1 cannot be reached: timeout", hint="Is it up?", subject="kvm1")
