"""The console in a terminal of its own, with a large shop in its state: python tests/bench/console.py [--guests 2000]

Prints: first frame from the start of the process, time from a key press to its paint, bytes written for a key press
and for a second of live progress at 80x24, memory. It asserts nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE))

from vmconsole.model.guest import Disk, Guest, GuestKind, GuestState, HostInventory, HostKind
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.remote.process import identity
from vmconsole.state.history import StateHistory
from vmconsole.state.store import StateStore
from vmconsole.wiring.clock import SystemClock

GIB = 1 << 30
HOSTS = 20
NIGHTS = 14
COLUMNS, LINES = 80, 24
QUIET = 0.15
"""Seconds without output after which a paint is over."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5, help="starts to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = shop(Path(folder), options.guests)
        frames = [first_frame(config) for _ in range(options.runs)]
        show("first frame", [seconds for seconds, _ in frames], "s", 0.8)
        show("memory", [memory for _, memory in frames], "MB", 150)
        times, sizes = keys(config)
        show("key to paint", times, "ms", 60, p95=True)
        show("bytes for a key press", sizes, "B", 4096, p95=True)
        show("bytes in a second of progress", progress(config), "B/s", 8192)


def shop(folder: Path, guests: int) -> Path:
    """A configuration and a state of that many guests, backed up every night."""
    hosts = [f"kvm{number:02}" for number in range(HOSTS)]
    text = 'state_dir = "state"\n[repositories.main]\nlocation = "repository"\nencryption = "none"\n'
    text += '[groups.daily]\nhosts = ["*"]\nwhen = "daily 02:00"\n'
    # An address where nothing answers, and nothing refuses: as a host that is down.
    text += "".join(f'[hosts.{name}]\nkind = "libvirt"\naddress = "root@192.0.2.1"\n' for name in hosts)
    config = folder / "config.toml"
    config.write_text(text)
    (folder / "state").mkdir()
    clock = SystemClock()
    store = StateStore.open(folder / "state" / "state.sqlite", clock, identity(), lambda process: False)
    history = StateHistory(store.database, clock, lambda process: False)
    now = datetime.now(UTC)
    all_guests = [guest(number, hosts[number % HOSTS]) for number in range(guests)]
    for name in hosts:
        mine = tuple(item for item in all_guests if item.host == name)
        store.save_inventory(HostInventory(name, HostKind.LIBVIRT, reachable=True, guests=mine), now)
    run = store.start_run("backup", "group daily")
    from sqlalchemy import insert

    from vmconsole.state.history import _values
    from vmconsole.state.tables import backups

    rows = [
        _values(record(item, run.id, now - timedelta(hours=6, days=night)))
        for night in range(NIGHTS)
        for item in all_guests
    ]
    with store.database.writing() as connection:
        connection.execute(insert(backups), rows)
    from vmconsole.model.run import RunState

    store.finish_run(run.id, RunState.DONE, "", 0)
    assert len(history.since(now - timedelta(days=1))) == guests
    store.close()
    return config


def guest(number: int, host: str) -> Guest:
    uuid = f"{number:08x}-0000-4000-8000-{number:012x}"
    disks = (Disk("vda", (20 + number % 400) * GIB, "qcow2", f"/images/{number}.qcow2"),)
    return Guest(
        uuid,
        str(number),
        f"guest-{number:04}",
        host,
        GuestKind.VM,
        GuestState.RUNNING,
        agent=True,
        disks=disks,
    )


def record(item: Guest, run: str, started: datetime) -> BackupRecord:
    return BackupRecord(
        0, run, item.uuid, item.name, item.host, "main", started, BackupState.DONE, group="daily", schedule="when",
        ended=started + timedelta(seconds=30), mode="incremental", consistency="application", archive=f"{item.name}-x",
        bytes_dirty=GIB, bytes_read=GIB, bytes_stored=GIB // 4, seconds=30.0,
    )  # fmt: skip


class Terminal:
    """The console in a pseudo-terminal."""

    def __init__(self, config: Path) -> None:
        self.began = time.monotonic()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "PYTHONPATH": str(HERE), "SSH_CONNECTION": "x"}
            os.execv(sys.executable, [sys.executable, "-m", "vmconsole", "--config", str(config)])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def until(self, wanted: bytes, seconds: float = 60.0) -> bytes:
        seen = b""
        deadline = time.monotonic() + seconds
        while wanted not in seen:
            if time.monotonic() > deadline:
                sys.exit(f"waited for {wanted!r}; seen: {seen[-2000:]!r}")
            seen += self.read(1.0)
        return seen

    def read(self, patience: float) -> bytes:
        if not select.select([self.fd], [], [], patience)[0]:
            return b""
        try:
            return os.read(self.fd, 1 << 16)
        except OSError:
            return b""

    def drain(self, quiet: float) -> int:
        """Bytes until nothing comes for so long."""
        count = 0
        while piece := self.read(quiet):
            count += len(piece)
        return count

    def during(self, seconds: float) -> int:
        """Bytes in so long a time."""
        until, count = time.monotonic() + seconds, 0
        while (left := until - time.monotonic()) > 0:
            count += len(self.read(left))
        return count

    def press(self, key: bytes) -> tuple[float, int]:
        """Milliseconds until the last byte of its paint, and how many bytes."""
        began = last = time.monotonic()
        os.write(self.fd, key)
        count = 0
        while piece := self.read(QUIET):
            last = time.monotonic()
            count += len(piece)
        return (last - began) * 1000, count

    def memory(self) -> float:
        """Of the process, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1000

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def first_frame(config: Path) -> tuple[float, float]:
    terminal = Terminal(config)
    terminal.until(b"guest-0000")
    seconds = time.monotonic() - terminal.began
    terminal.drain(2.0)
    memory = terminal.memory()
    terminal.close()
    return seconds, memory


def keys(config: Path) -> tuple[list[float], list[float]]:
    terminal = Terminal(config)
    terminal.until(b"guest-0000")
    terminal.drain(3.0)
    pressed = [
        terminal.press(key)
        for key in [b"j"] * 60 + [b"k"] * 30 + [b"\x1b[6~"] * 10 + [b" "] * 10 + [b"s"] * 4
    ]
    terminal.close()
    painted = [(took, size) for took, size in pressed if size]
    return [took for took, _ in painted], [float(size) for _, size in painted]


def progress(config: Path) -> list[float]:
    """Bytes in each of ten seconds while a run of another process tells its progress, on the places that show it."""
    writer = subprocess.Popen(
        [sys.executable, __file__, "--write", str(config)], env=os.environ | {"PYTHONPATH": str(HERE)}
    )
    try:
        terminal = Terminal(config)
        terminal.until(b"guest-0000")
        os.write(terminal.fd, b"3")
        # Going there is no progress.
        terminal.during(3.0)
        rates = [float(terminal.during(1.0)) for _ in range(10)]
        terminal.close()
        return rates
    finally:
        writer.kill()
        writer.wait()


def write(config: Path) -> None:
    """Progress of eight guests for a while, as a run writes it."""
    store = StateStore.open(
        config.parent / "state" / "state.sqlite", SystemClock(), identity(), lambda process: False
    )
    run = store.start_run("backup", "group daily").id
    for number in range(8):
        name = f"guest-{number:04}"
        store.add_event(run, {"event": "guest_planned", "run": run, "guest": name, "host": "kvm00", "mode": "full",
                              "reason": "", "method": "pull", "method_reason": "", "bytes_expected": 9})  # fmt: skip
        store.add_event(run, {"event": "step_started", "run": run, "guest": name, "step": "read"})
    for tick in range(1, 600):
        for number in range(8):
            store.add_event(run, {"event": "disk_progress", "run": run, "guest": f"guest-{number:04}", "disk": "vda",
                                  "done": tick * GIB // 8, "total": 100 * GIB})  # fmt: skip
        time.sleep(0.2)


def show(what: str, values: list[float], unit: str, aim: float, *, p95: bool = False) -> None:
    ordered = sorted(values)
    tail = (
        f", 95 % within {ordered[int(len(ordered) * 0.95)]:.3g}"
        if p95
        else f", {ordered[0]:.3g} to {ordered[-1]:.3g}"
    )
    print(f"{what:32} median {statistics.median(values):.3g}{tail} {unit} (aim: under {aim:g})", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]))
    else:
        main()
