"""A guest on a node that has nothing but stubs for Proxmox's commands, and what backups of it hold.

with Bench(tmp_path, layout="blockdev", program=qemu10()) as bench:
    point = bench.backup()          # reads through the real export; raises what that raises
    assert bench.same("scsi0")      # the backup holds what the disk held at the cut
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.waiting import wait_for

from pve.qemu import QEMU7, Drive, Qemu
from pve.qmeventd import Qmeventd
from vmconsole.errors import VmconsoleError
from vmconsole.hypervisors.proxmox import document as documents
from vmconsole.hypervisors.proxmox.access import open_access_export
from vmconsole.hypervisors.proxmox.facts import FleecingPlace, PveDisk, PveGuest
from vmconsole.hypervisors.proxmox.gather import Gathered
from vmconsole.hypervisors.proxmox.guestconf import digest
from vmconsole.hypervisors.proxmox.nbd import NbdExport
from vmconsole.hypervisors.proxmox.plan import make_plan
from vmconsole.hypervisors.proxmox.qemu import ask_qemu
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.transaction import open_transaction_export
from vmconsole.hypervisors.qmp.client import QmpClient
from vmconsole.interfaces import Cancel, Context, ExportOptions, ExportPlan
from vmconsole.model.extent import Content
from vmconsole.model.guest import GuestKind, GuestState, HostKind
from vmconsole.model.point import DiskPoint, RestorePoint
from vmconsole.remote.local import LocalMachine

MIB = 1 << 20
STUBS = Path(__file__).parent / "stubs"
REPOSITORY = "5a" * 32
_OPEN = {"access": open_access_export, "transaction": open_transaction_export}


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class Journal:
    """In memory. entries: what is not released, by id."""

    entries: dict[int, tuple[str, dict[str, str]]] = field(default_factory=dict)
    count: int = 0

    def acquire(self, host: str, kind: str, payload: dict[str, str]) -> int:
        self.count += 1
        self.entries[self.count] = (kind, dict(payload))
        return self.count

    def release(self, entry: int) -> None:
        self.entries.pop(entry, None)


@dataclass
class Nodes:
    """All nodes are this machine."""

    host: str = "pve"
    local: LocalMachine = field(default_factory=lambda: LocalMachine("pve1"))

    def machine(self, node: str) -> LocalMachine:
        return self.local


class Bench:
    """sizes: per disk key, in MiB; efidisk0 has 528 KiB. access: QEMU has Proxmox's commands.

    method C of `transaction` is used when fleecing cannot be reserved (`reserve` false).
    """

    def __init__(
        self,
        folder: Path,
        *,
        layout: str = "drive",
        program: str = QEMU7,
        access: bool = False,
        reserve: bool = True,
        iothread: bool = False,
        keys: Sequence[str] = ("scsi0", "virtio1", "efidisk0"),
        fleecing: str = "storage",
        size: int = 64 * MIB,
        paused: bool = True,
    ) -> None:
        self.folder = folder
        self.vmid = random.randrange(100_000, 900_000)
        self.state = folder / "stubs"
        self.access = access
        self.reserve = reserve
        self.fleecing = fleecing
        self.journal = Journal()
        self.nodes = Nodes()
        self.events: list[Any] = []
        self.points: list[RestorePoint] = []
        self.copies: dict[str, dict[str, bytearray]] = {}
        self.truth: dict[str, bytes] = {}
        self.runs = 0
        self.settings = ProxmoxSettings(fleecing_min_free=1)
        self.agent = False
        self.loose: tuple[PveDisk, ...] = ()
        self.saved: dict[str, str | None] = {}
        drives = []
        for key in keys:
            form = "qcow2" if key.startswith("scsi") else "raw"
            path = folder / f"{key}.{form}"
            length = 528 << 10 if key == "efidisk0" else size
            subprocess.run(["qemu-img", "create", "-q", "-f", form, path, str(length)], check=True)
            drives.append(Drive(key, path, form, iothread=iothread and key != "efidisk0"))
        self.qemu = Qemu(
            self.vmid,
            drives,
            layout=layout,
            program=program,
            proxmox=access,
            log=folder / "qemu.log",
            paused=paused,
        )
        self.eventd = Qmeventd(folder / "qmeventd.sock")

    def __enter__(self) -> Bench:
        self.state.mkdir()
        changed = {
            "PVE_STUBS": str(self.state),
            "PATH": f"{STUBS}:{os.environ['PATH']}",
            "PERL5LIB": str(STUBS),
        }
        self.saved = {key: os.environ.get(key) for key in changed}
        os.environ.update(changed)
        self.events_path, documents.EVENTS = documents.EVENTS, str(self.eventd.path)
        self.eventd.__enter__()
        self.qemu.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.qemu.stop()
        self.eventd.__exit__(None, None, None)
        documents.EVENTS = self.events_path
        for key, value in self.saved.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value

    # --- the guest ---

    @property
    def keys(self) -> list[str]:
        return [drive.key for drive in self.qemu.drives]

    def write(self, key: str, seed: int, offset: int, length: int) -> None:
        self.qemu.io(key, f"write -P {seed} {offset} {length}")

    def zero(self, key: str, offset: int, length: int) -> None:
        self.qemu.io(key, f"write -z -u {offset} {length}")

    def content(self, key: str) -> bytes:
        """What the disk holds now."""
        drive = next(drive for drive in self.qemu.drives if drive.key == key)
        self.qemu.io(key, "flush")
        target = self.folder / f"{key}.now"
        words = ["qemu-img", "convert", "-U", "-f", drive.format, "-O", "raw", str(drive.path), str(target)]
        subprocess.run(words, check=True)
        return target.read_bytes()

    # --- facts and plans ---

    def guest(self) -> PveGuest:
        with QmpClient.connect(self.nodes.local, str(self.qemu.qmp), "web") as client:
            qemu = ask_qemu(client, self.keys)
        lines = [f"{drive.key}: local:{drive.path.name},discard=on" for drive in self.qemu.drives]
        conf = "\n".join(["bios: ovmf", "name: web", *lines, ""])
        disks = []
        for drive in self.qemu.drives:
            found = qemu.disks[drive.key]
            disks.append(
                PveDisk(
                    drive.key, f"local:{drive.path.name}", found.size, drive.format,
                    allocated=found.size, iothread=drive.iothread, device=found.device, node=found.node,
                    throttle=found.throttle, top=found.top, bitmaps=found.bitmaps,
                )
            )  # fmt: skip
        return PveGuest(
            uuid="aaaa1111-0000-4000-8000-000000000001", vmid=self.vmid, name="web", node="pve1",
            kind=GuestKind.VM, state=GuestState.RUNNING, template=False, conf=conf, digest=digest(conf),
            agent=self.agent, process=self.qemu.identity, qemu=qemu.version, machine=qemu.machine,
            blockdev=qemu.blockdev, backup_access=qemu.backup_access, busy=qemu.busy, disks=(*disks, *self.loose),
        )  # fmt: skip

    def plan(self, options: ExportOptions | None = None) -> ExportPlan:
        name = "flc" if self.fleecing == "storage" else self.fleecing
        kind = "storage" if self.fleecing == "storage" else "folder"
        place = FleecingPlace(kind, name, 1 << 40, "dir" if self.reserve else "nfs")
        if kind == "folder":
            place = replace(place, free=1 << 40 if self.reserve else 64 << 20)
        gathered = Gathered(self.guest(), {}, place)
        plan = make_plan(gathered, "pve", self.settings, REPOSITORY, self.points, options or ExportOptions())
        return replace(plan, facts=replace(plan.facts, reserve=self.reserve)) if not self.access else plan

    # --- backups ---

    def context(self) -> Context:
        self.runs += 1
        return Context(f"run{self.runs:04}", self.events.append, Cancel(), self.journal, Clock())

    def open(self, options: ExportOptions | None = None) -> NbdExport:
        """A new export; what the disks held before it is in `truth`."""
        plan = self.plan(options)
        self.truth = {key: self.content(key) for key in self.keys}
        return _OPEN[plan.method](self.nodes, self.settings, plan, self.context())  # type: ignore[arg-type]  # one node will do

    def backup(
        self,
        *,
        options: ExportOptions | None = None,
        meanwhile: Callable[[], None] = lambda: None,
        commit: bool = True,
    ) -> NbdExport:
        """Read everything as the core would. commit false: the archive fails after all was read."""
        export = self.open(options)
        try:
            meanwhile()
            parent = self.copies.get(export.disks[0].plan.parent, {})
            copies = {disk.plan.id: read(disk, parent) for disk in export.disks}
            export.release()
            if not commit:
                raise VmconsoleError("the archive could not be written")
        except BaseException:
            export.rollback()
            raise
        name = f"web-{self.runs}"
        self.copies[name] = copies
        point = RestorePoint(
            archive=name, guest="web", uuid="aaaa1111-0000-4000-8000-000000000001", host="pve",
            hypervisor=HostKind.PROXMOX.value, time=export.cut.time, consistency=export.cut.consistency,
            run=f"run{self.runs:04}", facts=dict(export.cut.facts),
            disks=tuple(
                DiskPoint(
                    id=disk.plan.id, path=f"disks/{disk.plan.id}", size=disk.plan.size,
                    format=disk.plan.format, mode=disk.plan.mode, bitmap=disk.bitmap, process=disk.process,
                )
                for disk in export.disks
            ),
        )  # fmt: skip
        self.points.insert(0, point)
        export.advance()
        return export

    def same(self, key: str) -> bool:
        """Whether the newest backup holds what the disk held before the cut."""
        return bytes(self.copies[self.points[0].archive][key]) == self.truth[key]

    def leftovers(self) -> list[str]:
        """What should not be there when nothing is going on; bitmaps aside."""
        found = [f"node {name}" for name in self.qemu.nodes() if name.startswith(("vmc-", "pbw-", "psn-"))]
        found += [f"node {name}" for name in self.qemu.nodes() if name.endswith("-fleecing")]
        found += [f"job {job['id']}" for job in self.qemu.monitor("query-jobs")]
        found += [f"export {export['id']}" for export in self.qemu.monitor("query-block-exports")]
        found += [str(path) for path in self.state.glob("*.lock")]
        found += [str(path) for path in (self.state / "storage").rglob("*fleece*")]
        found += [str(path) for path in self.folder.glob("**/*.fleecing")]
        folder = Path(documents.folder_of(self.vmid))
        found += [str(folder)] if folder.exists() else []
        found += [f"held {vmid}" for vmid in self.eventd.held()]
        return found

    def wait_clean(self, timeout: float = 30.0, *, but: str = "none") -> None:
        """Until nothing is left, however that comes about. but: beginning of what may be left."""
        try:
            wait_for(lambda: all(item.startswith(but) for item in self.leftovers()), "nothing left", timeout)
        except TimeoutError as error:
            raise AssertionError(f"left: {self.leftovers()}") from error


def read(disk: Any, parent: dict[str, bytearray]) -> bytearray:
    """The disk's content, from the export and the parent's copy."""
    extents = disk.extents()
    copy = bytearray(b"\xee" * disk.plan.size)
    for extent in extents:
        span = slice(extent.offset, extent.end)
        if extent.content is Content.ZERO:
            copy[span] = bytes(extent.length)
        elif extent.content is Content.CLEAN:
            copy[span] = parent[disk.plan.id][span]
    for offset, data in disk.read(extent for extent in extents if extent.content is Content.DATA):
        copy[offset : offset + len(data)] = data
    return copy
