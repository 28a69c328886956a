"""What a guest feels of its own backup: how long its writes take, with and without headroom.

    python tests/bench/headroom.py                       40 MiB/s disk of 1 GiB; some three minutes
    python tests/bench/headroom.py --disk 100 --size 1024

It needs what tests/rig needs (root, Debian's libvirt and QEMU) and FUSE. An emulated guest writes 4 KiB,
O_DIRECT and O_DSYNC, every few milliseconds, onto a disk that is limited to so many bytes per second for
reads and writes together (tests/rig/slow_disk.py), through which its backup reads as well. Its latencies are
taken idle, then while a full backup reads as fast as it can, then while one reads at the pace of
runs/watching.py, from the moment it begins (`all of it`) and from when it has found its pace (`settled`: without
the first 20 seconds). What is read is thrown away: neither Borg nor a line slows it down.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "rig")]

from lab.gate import problem
from lab.guest import Guest
from lab.session import Lab
from libvirt_bench import Bench, SystemClock
from libvirt_shelf import Shelf
from slow_disk import Latency, Sampling, Writer, guest_on_slow_disk

from vmconsole.events import Event, Throttled
from vmconsole.interfaces import Pace
from vmconsole.model.extent import Content
from vmconsole.model.limits import Limits
from vmconsole.runs.allowance import Allowance
from vmconsole.runs.watching import watched

MIB = 1 << 20
SETTLING = 20.0


def read_all(shelf: Shelf, guest: Guest, seconds: float, reading: Callable[[], None]) -> tuple[int, float]:
    """Read a cut for at most so long, and throw it away. Returns bytes and seconds."""
    _, export, _ = shelf.open(guest.uuid)
    came, began = 0, time.monotonic()
    try:
        reading()
        for disk in export.disks:
            data = [extent for extent in disk.extents() if extent.content is Content.DATA]
            began = time.monotonic()
            for _, piece in disk.read(data):
                came += len(piece)
                if time.monotonic() - began > seconds:
                    return came, time.monotonic() - began
        return came, time.monotonic() - began
    finally:
        export.rollback()


def measure(lab: Lab, options: argparse.Namespace, folder: Path) -> None:
    with guest_on_slow_disk(lab, options.size * MIB, options.disk * MIB) as guest:
        bench = Bench(lab.host)
        shelf = Shelf(bench, folder)
        writer = Writer(guest)
        time.sleep(5)
        idle = writer.for_a_while(options.seconds)
        print(f"idle                     {idle}", flush=True)

        with Sampling(writer) as sampling:
            came, took = read_all(shelf, guest, options.seconds, lambda: None)
        report("unlimited", sampling.latency, idle, came, took)
        time.sleep(5)

        began = time.monotonic()

        def say(event: Event) -> None:
            if isinstance(event, Throttled):
                print(
                    f"  {time.monotonic() - began:6.1f} s  {event.rate / MIB:6.1f} MiB/s  {event.reason}",
                    flush=True,
                )

        clock = SystemClock()
        total = Allowance(Limits(), UTC, clock)
        with watched(shelf.host, [guest.uuid], Limits(), total, UTC, clock, say, "run") as pace:
            time.sleep(8)  # a run inspects, plans and cuts meanwhile
            began = time.monotonic()
            whole, settled = paced(shelf, guest, writer, pace, options.seconds * 3)
        report("headroom, all of it", whole[0], idle, whole[1], whole[2])
        if settled is not None:
            report("headroom, settled", settled, idle)


def paced(
    shelf: Shelf, guest: Guest, writer: Writer, pace: Pace, seconds: float
) -> tuple[tuple[Latency, int, float], Latency | None]:
    shelf.bench.pace = pace
    with Sampling(writer) as sampling:
        came, took = read_all(shelf, guest, seconds, lambda: None)
    settled = sampling.after(SETTLING)
    return (sampling.latency, came, took), Latency.of(settled) if settled else None


def report(name: str, found: Latency, idle: Latency, came: int = 0, took: float = 0.0) -> None:
    speed = f"   {came / took / MIB:6.1f} MiB/s read in {took:.0f} s" if took else ""
    print(f"{name:<24} {found}   p99 {found.p99 / idle.p99:5.1f} x idle{speed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--disk", type=int, default=40, metavar="MIB", help="per second (default 40)")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the disk (default 1024)")
    parser.add_argument(
        "--seconds", type=float, default=20, help="of each phase; three times that with headroom"
    )
    options = parser.parse_args()
    if reason := problem():
        raise SystemExit(reason)
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    print(
        f"{os.cpu_count()} processors, load before {load}; disk of {options.disk} MiB/s, {options.size} MiB"
    )
    with Lab() as lab:
        measure(lab, options, lab.folder("shelf"))


if __name__ == "__main__":
    main()
