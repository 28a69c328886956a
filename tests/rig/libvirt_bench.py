"""A lab host as a Machine, and a Context, for tests of single rooms without a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lab.host import LibvirtHost

from vmconsole.events import Event
from vmconsole.hypervisors.libvirt.gather import gather
from vmconsole.hypervisors.libvirt.plan import make_plan
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.interfaces import UNHURRIED, Cancel, Context, Export, ExportOptions, ExportPlan, Pace
from vmconsole.model.extent import Content
from vmconsole.model.point import DiskPoint, Mode, RestorePoint
from vmconsole.model.run import JournalEntry
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.machine import Completed, Machine, Process, Stream


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
    pace: Pace = UNHURRIED
    machine: Machine = field(init=False)

    def __post_init__(self) -> None:
        self.use(LabMachine(self.host))

    def use(self, machine: Machine) -> None:
        """Reach the host another way, such as over SSH."""
        self.machine = machine
        self.virsh = Virsh(machine, "qemu:///system")

    @property
    def context(self) -> Context:
        return Context(self.run, self.events.append, self.cancel, self.journal, SystemClock(), pace=self.pace)


REPOSITORY = "0123456789abcdef" * 4


@dataclass
class Vault:
    """Restore points as raw disks in memory: what an engine does, in the plainest way."""

    points: list[RestorePoint] = field(default_factory=list)
    disks: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def store(self, plan: ExportPlan, export: Export) -> RestorePoint:
        """Read, release, keep, advance. Newest point first in `points`."""
        read = self.read(plan, export)
        export.release()
        point = self.keep(plan, export, read)
        export.advance()
        return point

    def read(self, plan: ExportPlan, export: Export) -> dict[str, bytes]:
        found = {}
        for disk in export.disks:
            parent = self.disks.get((disk.plan.parent, disk.plan.id), b"")
            if disk.plan.mode is Mode.INCREMENTAL:
                assert parent, f"no parent {disk.plan.parent} for {disk.plan.id}"
            content = bytearray(disk.plan.size)
            extents = disk.extents()
            for extent in extents:
                if extent.content is Content.CLEAN:
                    assert disk.plan.mode is Mode.INCREMENTAL
                    assert extent.end <= len(parent)
                    content[extent.offset : extent.end] = parent[extent.offset : extent.end]
            position = 0
            for extent in extents:
                assert extent.offset == position
                position = extent.end
            assert position == disk.plan.size
            for offset, piece in disk.read(item for item in extents if item.content is Content.DATA):
                content[offset : offset + len(piece)] = piece
            found[disk.plan.id] = bytes(content)
        return found

    def keep(self, plan: ExportPlan, export: Export, read: Mapping[str, bytes]) -> RestorePoint:
        archive = f"point-{len(self.points)}"
        disks = []
        for disk in export.disks:
            self.disks[archive, disk.plan.id] = read[disk.plan.id]
            disks.append(
                DiskPoint(
                    id=disk.plan.id,
                    path=f"disks/{disk.plan.id}.raw",
                    size=disk.plan.size,
                    format=disk.plan.format,
                    mode=disk.plan.mode,
                    reason=disk.plan.reason,
                    source=disk.plan.source,
                    bitmap=disk.bitmap,
                    process=disk.process,
                    bytes_dirty=disk.bytes_dirty,
                )
            )
        point = RestorePoint(
            archive=archive,
            guest=plan.guest.name,
            uuid=plan.guest.uuid,
            host=plan.guest.host,
            hypervisor="libvirt",
            time=export.cut.time,
            consistency=export.cut.consistency,
            disks=tuple(disks),
            facts=json.loads(json.dumps(dict(export.cut.facts))),
        )
        self.points.insert(0, point)
        return point


def make_plan_for(bench: Bench, uuid: str, vault: Vault, method: str = "auto", **options: Any) -> ExportPlan:
    settings = LibvirtSettings(method=method, scratch_min_free=64 * 1024**2)
    gathered = gather(bench.machine, settings, uuid)
    return make_plan(gathered, bench.host.name, settings, REPOSITORY, vault.points, ExportOptions(**options))


@contextmanager
def loop_device(folder: Path, mib: int = 16) -> Iterator[str]:
    """A block device of zeros; the test is skipped where there are none."""
    backing = folder / f"backing-{os.urandom(4).hex()}"
    with backing.open("wb") as file:
        file.truncate(mib * 1024**2)
    done = subprocess.run(
        ["losetup", "-f", "--show", str(backing)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop devices here: {done.stderr}")
    try:
        yield done.stdout.strip()
    finally:
        subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)


def block_disk(disk: str, device: str) -> str:
    """The XML of a raw disk on a block device."""
    return (
        f"<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='{device}'/>"
        f"<target dev='{disk}' bus='virtio'/></disk>"
    )
