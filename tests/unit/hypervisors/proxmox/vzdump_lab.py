"""A `vzdump` for tests: prints what it is told, and logs and ends as it is told."""

from __future__ import annotations

import io
import random
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from vmconsole.hypervisors.proxmox.facts import PlanFacts, PveGuest
from vmconsole.hypervisors.proxmox.guestconf import archive_device
from vmconsole.hypervisors.vma.writer import Writer
from vmconsole.interfaces import DiskPlan, ExportOptions, ExportPlan
from vmconsole.model.guest import Guest, GuestKind, GuestState
from vmconsole.model.point import Mode
from vmconsole.remote.local import LocalMachine

MIB = 1 << 20
CLUSTER = 65536

FROZEN = (
    "INFO: issuing guest-agent 'fs-freeze' command",
    "INFO: issuing guest-agent 'fs-thaw' command",
)


def vma(disks: Mapping[str, bytes], configs: Mapping[str, bytes], seed: int = 0) -> bytes:
    """A stream as QEMU writes it: the clusters of all disks mixed, out of order. disks: by key."""
    parts: list[bytes] = []
    devices = [(archive_device(key), len(data)) for key, data in disks.items()]
    writer = Writer(
        parts.append, uuid=UUID(int=seed + 1), ctime=1_763_600_000, configs=configs, devices=devices
    )
    position = dict.fromkeys(disks, 0)
    source = random.Random(seed)
    while waiting := [key for key in disks if position[key] < len(disks[key])]:
        key = source.choice(waiting)
        piece = disks[key][position[key] : position[key] + source.randrange(1, 9) * CLUSTER]
        writer.data(list(disks).index(key) + 1, position[key], piece)
        position[key] += len(piece)
    writer.finish()
    stream = b"".join(parts)
    at = int.from_bytes(stream[56:60], "big")
    head, extents = stream[:at], []
    while at < len(stream):
        size = 512 + 4096 * int.from_bytes(stream[at + 6 : at + 8], "big")
        extents.append(stream[at : at + size])
        at += size
    source.shuffle(extents)
    return head + b"".join(extents)


def tar(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            writer.addfile(info, io.BytesIO(content))
    return made.getvalue()


@dataclass
class Vzdump:
    """Writes the program into folder/bin, and what it prints beside it."""

    folder: Path
    log: tuple[str, ...] = ()
    end: str = "INFO: Backup job finished successfully"
    status: int = 0
    before: str = ""
    """Shell commands before the stream."""
    after: str = ""
    calls: list[list[str]] = field(default_factory=list)

    def prints(self, stream: bytes) -> None:
        (self.folder / "stream").write_bytes(stream)
        lines = "".join(f"echo {shlex.quote(line)} >&2\n" for line in self.log)
        self.program(
            "vzdump",
            f'echo "$*" >>"$FOLDER/calls"\n{lines}{self.before}\ncat "$FOLDER/stream" || exit 9\n{self.after}\n'
            f"echo {shlex.quote(self.end)} >&2\nexit {self.status}\n",
        )

    def program(self, name: str, source: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\nFOLDER={shlex.quote(str(self.folder))}\n{source}")
        path.chmod(0o755)

    def called(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


class OneNode:
    """What vzdump.py uses of Nodes."""

    def __init__(self, machine: Any = None) -> None:
        self.host = "pve"
        self._machine = machine or LocalMachine("pve/pve1")

    def machine(self, node: str) -> Any:
        assert node == "pve1"
        return self._machine


def plan_of(guest: PveGuest, excluded: tuple[str, ...] = ()) -> ExportPlan:
    container = guest.kind is GuestKind.CONTAINER
    disks = tuple(
        DiskPlan(
            disk.key,
            disk.size,
            "tar" if container else disk.format,
            disk.volume,
            Mode.SKIPPED if disk.key in excluded or not disk.included else Mode.FULL,
            "vzdump reads everything",
        )
        for disk in guest.disks
        if not container or disk.key == "rootfs" or not disk.included
    )
    shown = Guest(guest.uuid, str(guest.vmid), guest.name, "pve", guest.kind, GuestState.RUNNING)
    return ExportPlan(shown, disks, "vzdump", "", ExportOptions(), facts=PlanFacts(guest, "ab" * 32, "t"))
