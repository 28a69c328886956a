"""A lab host as a Machine, and a Context, for tests of single rooms without a whole run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lab.host import LibvirtHost

from vmconsole.events import Event
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.interfaces import Cancel, Context
from vmconsole.model.run import JournalEntry
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.machine import Completed, Process, Stream


class LabMachine:
    """Programs run inside the lab host's namespaces; sockets are reached through its root."""

    def __init__(self, host: LibvirtHost) -> None:
        self._host = host
        self._local = LocalMachine(host.name)

    @property
    def name(self) -> str:
        return self._host.name

    def run(self, argv: Sequence[str], **more: Any) -> Completed:
        return self._local.run([*self._host.enter, *argv], **more)

    def script(self, source: str, args: Sequence[str] = (), **more: Any) -> Completed:
        return self._local.run([*self._host.enter, "sh", "-c", source, "vmconsole", *args], **more)

    def start(self, argv: Sequence[str]) -> Process:
        return self._local.start([*self._host.enter, *argv])

    def open_unix(self, path: str) -> Stream:
        return self._local.open_unix(str(self._host.path(path)))

    def close(self) -> None:
        self._local.close()


@dataclass
class MemoryJournal:
    """entries: id -> (host, kind, payload), as a payload would come back from the database."""

    entries: dict[int, tuple[str, str, dict[str, str]]] = field(default_factory=dict)
    count: int = 0

    def acquire(self, host: str, kind: str, payload: Mapping[str, str]) -> int:
        self.count += 1
        self.entries[self.count] = (host, kind, json.loads(json.dumps(dict(payload))))
        return self.count

    def release(self, entry: int) -> None:
        del self.entries[entry]

    def entry(self) -> JournalEntry:
        """The only one."""
        ((number, (host, kind, payload)),) = self.entries.items()
        return JournalEntry(number, "run", "host:1:1", host, kind, payload, datetime.now(UTC))


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class Bench:
    """What a room needs to work on a lab host. events: all that was said."""

    host: LibvirtHost
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    cancel: Cancel = field(default_factory=Cancel)
    events: list[Event] = field(default_factory=list)
    run: str = "run-1"

    def __post_init__(self) -> None:
        self.machine = LabMachine(self.host)
        self.virsh = Virsh(self.machine, "qemu:///system")

    @property
    def context(self) -> Context:
        return Context(self.run, self.events.append, self.cancel, self.journal, SystemClock())
