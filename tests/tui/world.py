"""A shop for tests of the console: real configuration and state, a clock that stands still, hosts that answer what
they are told to. `async with world.console(80, 24) as driver` opens the console on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from vmconsole.errors import HostUnreachable
from vmconsole.front.services import Captured
from vmconsole.interfaces import Cancel
from vmconsole.model.guest import (
    Disk,
    Guest,
    GuestKind,
    GuestState,
    HostInventory,
    HostKind,
    HostLoad,
    Tracking,
)
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint, archive_name
from vmconsole.model.run import Run, RunState
from vmconsole.tui.app import Console, Settings
from vmconsole.wiring.services import Wiring

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
NIGHT = timedelta(days=1)
GIB = 1 << 30
CONFIG = """\
# The shop. This comment stays.
state_dir = "state"
timezone = "UTC"

[repositories.main]
location = "repository"
encryption = "none"

[hosts.kvm1]
kind = "libvirt"
address = "root@kvm1.example"

[hosts.pve]
kind = "proxmox"
address = "root@pve1.example"

[groups.daily]
tags = ["prod"]
when = "daily 02:00"
keep = { daily = 7, weekly = 4 }

[groups.hourly]
guests = ["sql-*"]
when = "every 1 h"
"""


class StillClock:
    """Stands still; monotonic time goes on by a little at each look."""

    def __init__(self) -> None:
        self.time = NOW
        self._ticks = 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        self._ticks += 0.001
        return self._ticks


class Host:
    """A hypervisor that answers with what the world says of it."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.kind = world.kinds[name]

    def inventory(self) -> HostInventory:
        if self.name in self._world.lost:
            raise HostUnreachable(f"{self.name} does not answer.", hint=f"vmconsole host check {self.name}")
        return self._world.inventory(self.name)

    def close(self) -> None:
        pass


class Services(Wiring):
    """Everything real but hosts and other processes. asked: the command lines that were captured or detached."""

    def __init__(self, config: Path, clock: StillClock, world: World) -> None:
        super().__init__(config, Cancel(), clock)
        self._world = world
        self.asked: list[list[str]] = []
        self.answers: dict[str, Captured] = {}

    def hypervisor(self, host: str) -> Any:
        self.config.host(host)
        return Host(self._world, host)

    def capture(self, argv: Sequence[str]) -> Captured:
        words = [word for word in argv if word not in ("--json", "--quiet")]
        self.asked.append(words)
        return self.answers.get(words[0], Captured(0, "{}", ""))

    def detach(self, argv: Sequence[str]) -> str:
        """The process is this one, and its run has begun."""
        words = list(argv)[2:] if list(argv)[:1] == ["--config"] else list(argv)
        self.asked.append(words)
        run = self.store.start_run(words[0], " ".join(words[1:]))
        return run.process


class World:
    """guests: by host, as the hosts tell them. Everything is written to the state by save()."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "config.toml"
        self.path.write_text(config)
        self.clock = StillClock()
        self.services = Services(self.path, self.clock, self)
        self.kinds = {"kvm1": HostKind.LIBVIRT, "pve": HostKind.PROXMOX}
        self.guests: dict[str, list[Guest]] = {name: [] for name in self.kinds}
        self.lost: set[str] = set()
        self.points: list[RestorePoint] = []
        self._number = 0

    def guest(self, name: str, host: str = "kvm1", **values: Any) -> Guest:
        """A running guest with one disk and an agent, tagged prod."""
        self._number += 1
        number = self._number
        disk = Disk(
            "vda", values.pop("size", 120 * GIB), "qcow2", f"/images/{number}.qcow2", tracking=Tracking.BITMAP
        )
        uuid = f"{number:08x}-0000-4000-8000-{number:012x}"
        facts = {"agent": True, "tags": ("prod",), "disks": (disk,)} | values
        guest = Guest(uuid, str(100 + number), name, host, GuestKind.VM, GuestState.RUNNING, **facts)
        self.guests[host].append(guest)
        return guest

    def inventory(self, host: str) -> HostInventory:
        load = HostLoad(0.12, 0.05, 0.0)
        return HostInventory(
            host, self.kinds[host], reachable=True, load=load, guests=tuple(self.guests[host])
        )

    def save(self) -> None:
        """What the hosts and the repository were last seen with."""
        for host in self.guests:
            self.services.store.save_inventory(self.inventory(host), self.clock.now())
        self.services.store.save_points("main", self.points)

    def run(
        self,
        kind: str = "backup",
        subject: str = "group daily",
        *,
        ago: timedelta,
        took: float = 60.0,
        state: RunState = RunState.DONE,
        error: str = "",
        events: Sequence[dict[str, Any]] = (),
    ) -> Run:
        """A run that began so long ago. events: documents, as Event.as_json() makes them, without their run."""
        store = self.services.store
        self.clock.time = NOW - ago
        run = store.start_run(kind, subject)
        for document in events:
            store.add_event(run.id, document | {"run": run.id})
        if state is not RunState.RUNNING:
            self.clock.time += timedelta(seconds=took)
            store.finish_run(run.id, state, error, 0 if state is RunState.DONE else 1)
        self.clock.time = NOW
        return run

    def backup(self, guest: Guest, *, ago: timedelta, state: BackupState = BackupState.DONE, group: str = "daily",
               run: str = "", dirty: int = GIB, mode: str = "incremental", **values: Any) -> BackupRecord:  # fmt: skip
        """What became of a guest in a run, and the restore point of it."""
        if not run:
            how = {BackupState.FAILED: RunState.FAILED, BackupState.RUNNING: RunState.RUNNING}
            run = self.run(
                ago=ago, state=how.get(state, RunState.DONE), error=str(values.get("error", ""))
            ).id
        started = NOW - ago
        ended = None if state is BackupState.RUNNING else started + timedelta(seconds=90)
        record = BackupRecord(
            0,
            run,
            guest.uuid,
            guest.name,
            guest.host,
            "main",
            started,
            group=group,
            schedule="when",
            mode=mode,
        )
        record = replace(
            record, id=self.services.history.begin(record), state=state, ended=ended, seconds=90.0
        )
        if record.good:
            record = replace(record, archive=archive_name(guest.name, guest.uuid, started), consistency="application",
                             bytes_dirty=dirty, bytes_read=dirty, bytes_stored=dirty // 4)  # fmt: skip
            self.points.append(self.point(guest, started, record))
        record = replace(record, **values)
        self.services.history.end(record)
        return record

    def point(self, guest: Guest, moment: datetime, record: BackupRecord) -> RestorePoint:
        mode = Mode(record.mode)
        disks = tuple(
            DiskPoint(disk.id, f"disks/{disk.id}.raw", disk.size, "qcow2", mode, bytes_dirty=record.bytes_dirty,
                      bytes_read=record.bytes_read, bytes_stored=record.bytes_stored)
            for disk in guest.disks
        )  # fmt: skip
        return RestorePoint(
            archive_name(guest.name, guest.uuid, moment), guest.name, guest.uuid, guest.host,
            self.kinds[guest.host].value, moment, Consistency.APPLICATION, disks, run=record.run, freeze_ms=400,
            seconds=90.0, group=record.group, schedule="when", archive_id=f"{len(self.points):064x}",
        )  # fmt: skip

    @asynccontextmanager
    async def console(self, width: int = 120, height: int = 36, **settings: Any) -> AsyncIterator[Driver]:
        app = Console(self.services, Settings(**settings))
        async with app.run_test(size=(width, height), notifications=True) as pilot:
            driver = Driver(app, pilot, self)
            await driver.wait_for(lambda: not app.loading and not app.asking, "the first picture")
            await driver.settle()
            yield driver
        self.services.close()


class Driver:
    """Presses keys and reads the screen, waiting for what is expected and never for a length of time."""

    def __init__(self, app: Console, pilot: Pilot[None], world: World) -> None:
        self.app, self.pilot, self.world = app, pilot, world

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
        await self.settle()

    async def type(self, text: str) -> None:
        names = {" ": "space", "!": "exclamation_mark", ":": "colon", "-": "minus", "*": "asterisk", "/": "slash",
                 ".": "full_stop", "@": "at", ">": "greater_than_sign", "=": "equals_sign", ",": "comma"}  # fmt: skip
        await self.press(*(names.get(letter, letter) for letter in text))

    async def settle(self) -> None:
        await self.pilot.pause()
        await self.pilot.pause()

    async def wait_for(self, look: Any, what: str) -> None:
        """Until look() is true-ish; a hundred seconds at most."""
        for _ in range(2000):
            if look():
                await self.settle()
                return
            await self.pilot.pause(0.05)
        raise TimeoutError(f"waited for {what}; the screen:\n{self.screen}")

    async def see(self, text: str) -> None:
        await self.wait_for(lambda: text in self.screen, repr(text))

    @property
    def screen(self) -> str:
        """What is seen, line by line, without blanks at the ends."""
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)

    def line(self, text: str) -> str:
        """The line that has text in it."""
        return next((line for line in self.screen.split("\n") if text in line), "")

    @property
    def asked(self) -> list[list[str]]:
        """The commands that were run."""
        return self.world.services.asked


def a_shop(folder: Path) -> World:
    """Every state once: well, failed, late, never backed up, in no group, a template, paused by nobody."""
    world = World(folder)
    web, dc, files = (
        world.guest("web-01"),
        world.guest("dc-01", "pve", size=80 * GIB),
        world.guest("files", size=2048 * GIB),
    )
    sql = world.guest("sql-02", "pve", size=500 * GIB)
    world.guest("scan-station", tags=(), size=60 * GIB)
    world.guest("new-one")
    world.guest("golden", template=True, tags=())
    for night in range(13, -1, -1):
        ago = timedelta(hours=6) + night * NIGHT
        world.backup(web, ago=ago, dirty=GIB * (1 + night % 3))
        world.backup(dc, ago=ago, dirty=GIB // 2)
        if night > 1:
            world.backup(files, ago=ago, dirty=20 * GIB)
        else:
            world.backup(files, ago=ago, state=BackupState.FAILED, code="OutOfSpace",
                         error="Scratch space on kvm1 would not hold 41 GiB of changes: 12 GiB are free in "
                               "/var/lib/libvirt/images.",
                         hint="Choose another scratch folder: scratch under [hosts.kvm1].")  # fmt: skip
    world.backup(sql, ago=timedelta(hours=5), group="hourly", dirty=8 * GIB)
    world.save()
    return world
