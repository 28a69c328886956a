"""A cluster of one real machine with stub programs, and points to restore on it."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import restore_stubs

from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.interfaces import Cancel, Context, GuestTarget
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.model.run import JournalEntry
from vmconsole.remote.local import LocalMachine

MIB = 1 << 20
GIB = 1 << 30
UUID = "1a8a1dd1-6c7b-4d6a-8b6f-6a4c6a1b7d11"


class Clock:
    def now(self) -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


@dataclass
class MemoryJournal:
    entries: dict[int, JournalEntry] = field(default_factory=dict)
    count: int = 0

    def acquire(self, host: str, kind: str, payload: Any) -> int:
        self.count += 1
        copied = json.loads(json.dumps(dict(payload)))
        self.entries[self.count] = JournalEntry(
            self.count, "run1", "host:1:1", host, kind, copied, Clock().now()
        )
        return self.count

    def release(self, entry: int) -> None:
        del self.entries[entry]

    def only(self) -> JournalEntry:
        (entry,) = self.entries.values()
        return entry


@dataclass
class FakeNode:
    """root: what the stub programs remember."""

    root: Path
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    cancel: Cancel = field(default_factory=Cancel)

    def __post_init__(self) -> None:
        (self.root / "api").mkdir(parents=True)
        self.nodes = Nodes("pve", lambda node, address: LocalMachine("pve"), {}, Clock())
        self.answer(
            "cluster/status",
            [
                {
                    "type": "node",
                    "name": "pve1",
                    "id": "node/pve1",
                    "nodeid": 0,
                    "local": 1,
                    "online": 1,
                    "ip": "",
                }
            ],
        )
        self.answer("cluster/resources", [{"type": "qemu", "vmid": 100, "name": "web", "node": "pve1"}])
        self.answer("cluster/nextid", "105")
        self.storages(
            {"storage": "local", "type": "dir", "content": "iso,vztmpl", "avail": 100 * GIB},
            {"storage": "local-lvm", "type": "lvmthin", "content": "images,rootdir", "avail": 50 * GIB},
        )
        self.answer("nodes/pve1/storage/local/content", [{"volid": "local:iso/debian.iso"}])

    @property
    def context(self) -> Context:
        return Context("run1", lambda event: None, self.cancel, self.journal, Clock())

    def answer(self, path: str, value: Any) -> None:
        (self.root / "api" / path.replace("/", ".")).write_text(json.dumps(value))

    def storages(self, *storages: dict[str, Any]) -> None:
        self.answer("nodes/pve1/storage", [{"enabled": 1, "active": 1, **storage} for storage in storages])

    def conf(self, vmid: str = "105") -> str:
        return (self.root / f"{vmid}.conf").read_text()

    def has(self, vmid: str = "105") -> bool:
        return (self.root / f"{vmid}.conf").exists()

    def device(self, name: str, vmid: str = "105") -> bytes:
        return (self.root / "devices" / vmid / name).read_bytes()

    def devices(self, vmid: str = "105") -> set[str]:
        return {path.name for path in (self.root / "devices" / vmid).iterdir()}

    def archived(self, name: str = "qemu-server.conf", vmid: str = "105") -> str:
        return (self.root / f"{name}.{vmid}").read_text()

    @property
    def commands(self) -> list[list[str]]:
        log = self.root / "log"
        return [ast.literal_eval(line) for line in log.read_text().splitlines()] if log.exists() else []

    def called(self, *words: str) -> list[list[str]]:
        return [command for command in self.commands if tuple(command[: len(words)]) == words]


def make_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    programs = tmp_path / "bin"
    restore_stubs.install(programs)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path / "fake"))
    return FakeNode(tmp_path / "fake")


def make_point(hypervisor: str = "proxmox", *, dirty: int | None = None, **sizes: int) -> RestorePoint:
    disks = tuple(
        DiskPoint(
            name, f"disks/{name}.raw", size, "raw", Mode.FULL, bytes_dirty=size if dirty is None else dirty
        )
        for name, size in sizes.items()
    )
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return RestorePoint("web.x-1", "web", UUID, "old", hypervisor, when, Consistency.OFFLINE, disks)


def fill(target: GuestTarget, disk: DiskPoint, *pieces: tuple[int, bytes]) -> bytes:
    """As a run does: data only, ascending. Returns what the disk then holds."""
    content = bytearray(disk.size)
    sink = target.open_disk(disk)
    for offset, data in pieces:
        sink.write(offset, memoryview(data))
        content[offset : offset + len(data)] = data
    sink.close()
    return bytes(content)
