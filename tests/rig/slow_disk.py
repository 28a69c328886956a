"""A guest on a slow disk that it shares with its backup, and how long its writes take.

The disk is a file on FUSE, served by qemu-storage-daemon behind a throttle: so many bytes per second
for reads and writes together, one request after the other, as an old disk or a busy line to a storage
server does it. Nothing of it is in the page cache.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.host import LibvirtHost
from lab.session import Lab
from lab.waiting import wait_for

DISK = "vda"
_SPAN = 4 * MIB
_PAUSE = 5_000
"""Microseconds between the guest's writes."""
_LOG = "/tmp/writes"


@dataclass(frozen=True, slots=True)
class Latency:
    """Of a guest's writes of 4 KiB, until each is safe; milliseconds."""

    count: int
    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        ordered = sorted(milliseconds)
        if not ordered:
            raise ValueError("the guest wrote nothing")
        at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99)]
        return cls(len(ordered), at[0], at[1], ordered[-1])

    def __str__(self) -> str:
        return f"p50 {self.p50:7.1f} ms   p99 {self.p99:7.1f} ms   worst {self.worst:7.1f} ms   {self.count} writes"


@contextmanager
def guest_on_slow_disk(lab: Lab, size: int, rate: int) -> Iterator[Guest]:
    """size: of its raw disk, which is full of data. rate: of the disk, bytes per second."""
    if not os.access("/dev/fuse", os.W_OK) or shutil.which("qemu-storage-daemon") is None:
        pytest.skip("no FUSE, or no qemu-storage-daemon, for a slow disk")
    with lab.guest("slow", [DiskSpec(DISK, size=size, format="raw")], start=False) as guest:
        front = guest.images[DISK]
        back = _back(front)
        source = random.Random(7)
        with back.open("wb") as file:
            for _ in range(size // MIB):
                file.write(source.randbytes(MIB))
        with _served(guest.host, back, front, rate):
            guest.start()
            yield guest
            guest.destroy()
            wait_for(lambda: guest.state() == "shut off", "the guest to end", 60)


def _back(front: Path) -> Path:
    return front.with_name("back.raw")


def content(guest: Guest) -> bytes:
    """What the disk holds. Nothing may write to it meanwhile."""
    guest.sync()
    return _back(guest.images[DISK]).read_bytes()


@contextmanager
def _served(host: LibvirtHost, back: Path, front: Path, rate: int) -> Iterator[None]:
    front.write_bytes(b"")
    pid_file = back.with_suffix(".pid")
    host.run([
        "qemu-storage-daemon", "--daemonize", "--pidfile", str(pid_file),
        "--object", f"throttle-group,id=slow,x-bps-total={rate}",
        "--blockdev", f"driver=file,filename={back},node-name=file,cache.direct=off",
        "--blockdev", "driver=throttle,throttle-group=slow,file=file,node-name=disk",
        "--export", f"type=fuse,id=disk,node-name=disk,mountpoint={front},writable=on,allow-other=on",
    ])  # fmt: skip
    try:
        yield
    finally:
        host.signal(int(pid_file.read_text()), signal.SIGTERM)
        wait_for(lambda: not pid_file.exists(), "the slow disk to be gone", 20)
        back.unlink(missing_ok=True)


class Writer:
    """A program in the guest that writes and waits, over and over."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        where = guest.disk(DISK).size - _SPAN
        command = f"labtool writes /dev/{DISK} {where} {_SPAN} {_PAUSE}"
        self._pid = int(guest.sh(f"{command} > {_LOG} 2>&1 & echo $!"))
        self.count = 0

    def since_last(self) -> list[float]:
        """Milliseconds of each write since this was asked before."""
        text = self._guest.sh(f"tail -n +{self.count + 1} {_LOG}", timeout=120)
        lines = [line for line in text.splitlines() if line.isdigit()]
        self.count += len(lines)
        return [int(line) / 1000 for line in lines]

    def stop(self) -> None:
        self._guest.sh(f"kill {self._pid}; sleep 1; ! kill -0 {self._pid} 2>/dev/null", timeout=60)

    def for_a_while(self, seconds: float) -> Latency:
        self.since_last()
        time.sleep(seconds)
        return Latency.of(self.since_last())


class Sampling:
    """Collects a writer's latencies until the end of the block, so that the control line never gets much."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._ended = threading.Event()
        self._began = 0.0
        self._found: list[tuple[float, list[float]]] = []
        self._thread = threading.Thread(target=self._collect)

    @property
    def latency(self) -> Latency:
        return Latency.of(self.after(0))

    def after(self, seconds: float) -> list[float]:
        """Milliseconds of the writes that were collected later than that; each time those of three seconds."""
        return [one for when, found in self._found if when - 3 >= seconds or not seconds for one in found]

    def __enter__(self) -> Sampling:
        self._writer.since_last()
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._take()

    def _take(self) -> None:
        found = self._writer.since_last()
        self._found.append((time.monotonic() - self._began, found))

    def _collect(self) -> None:
        while not self._ended.wait(3):
            self._take()
