"""How fast vmconsole is beside stock Borg and restic, on a real guest of a real libvirt host.

    python tests/bench/run.py                      4 GiB disk, 5 runs; some five minutes
    python tests/bench/run.py --size 32 --runs 3   a disk large enough that start-up does not decide

It needs what tests/rig needs (root, Debian's libvirt and QEMU; `sh tests/run.sh` installs them), and free space
of about three times the size. Each run makes new repositories and measures, one after another and in another order
each time, a full backup by

    vmconsole     `vmconsole backup`, over SSH, of a running guest (its disk is a qcow2 file; QEMU emulates it)
    borg file     `borg create --sparse` of a local raw image with the same bytes, which skips the image's holes
    borg device   `borg create --read-special` of the same bytes as a block device gives them, zeros included
                  (through standard input, because loop devices are not to be had everywhere)
    restic        `restic backup` of the raw image, where restic is installed

then the guest writes 1 % of its disk, the same bytes are brought into the raw image, and all of them back up again;
three times: in pieces of 16 MiB (`long`: long files), of 4 MiB and 1 MiB (`mixed`), and of 64 KiB (`scattered`, the
worst case for chunks of 1 MiB: each piece makes a chunk new). Half of what is written cannot be compressed.
Borg's settings are the same for all: repokey-blake2, zstd,3, chunks of 1 MiB. Times are of whole processes,
start-up included, and so is the peak memory: the largest of a program and the programs it started here (not of
sshd and QEMU). Headroom is off: here the host is also the backup server, and would be spared from its own work.
Everything that is read has just been written, so it comes from memory, not from a disk;
with --cold the kernel forgets it before each program, as it has at night, and all of them read from the disk.
With --one-image the guest's disk is a qcow2 image over the very raw file that the others read (an external data
file): a larger disk fits into the same free space.
With --shared Borg writes into vmconsole's repository, where it finds most chunks already stored, which is to its
advantage; a disk half as large again then fits into the same free space.
Ratios are made within a run; medians, and the smallest and the largest in brackets. Nothing is asserted about time;
in the end the last restore point is restored and compared with the guest's disk.

Last comes a disk of 1 TiB with little on it: time and peak memory of vmconsole alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "rig")]

from bench_disk import (
    DATA_SHARE,
    LONG,
    MIB,
    MIXED,
    SCATTERED,
    Change,
    changes,
    copy_writes,
    make_disk,
    write_in_guest,
)
from e2e_world import PASSPHRASE, World, drop_checkpoints, open_world
from lab.domain import DiskSpec
from lab.gate import problem
from lab.guest import Guest
from lab.session import Lab
from launcher import Launcher

GIB = 1024 * MIB
TIB = 1024 * GIB
DISK = "vda"
CHUNK = MIB
COMPRESSION = "zstd,3"
PHASES = {"full": None, "long": LONG, "mixed": MIXED, "scattered": SCATTERED}
"""How the 1 % is written before each."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One program that ran. memory in bytes; steps: seconds by step of a vmconsole run."""

    seconds: float
    cpu: float
    memory: int
    steps: dict[str, float] = field(default_factory=dict)
    point: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """What all programs share. raw: the image that holds what the guest's disk holds."""

    launcher: Launcher
    world: World
    guest: Guest
    raw: Path
    cold: bool = False
    shared: bool = False
    one_image: bool = False
    phases: Sequence[str] = tuple(PHASES)

    def archive(self, of: str, name: str) -> str:
        """Where Borg writes: into a repository of its own, or into vmconsole's."""
        return f"{self.world.repository}::{of}-{name}" if self.shared else f"{of}::{name}"

    @property
    def folder(self) -> Path:
        return self.world.folder

    @property
    def environment(self) -> dict[str, str]:
        return {**self.world.environment, "BORG_PASSPHRASE": PASSPHRASE, "RESTIC_PASSWORD": PASSPHRASE}

    def run(self, *argv: str, stdin: Path | None = None) -> Figure:
        os.sync()  # what others left to be written must not slow this one down
        if self.cold:
            Path("/proc/sys/vm/drop_caches").write_text("3\n")
            _warm_programs()
        out = self.folder / "out"
        made = self.launcher.run(
            list(argv),
            cwd=str(self.folder),
            env=self.environment,
            out=str(out),
            stdin=str(stdin or "/dev/null"),
        )
        if made["status"]:
            said = out.read_text() + Path(f"{out}.err").read_text()
            raise SystemExit(f"{' '.join(argv)} ended with status {made['status']}:\n{said}")
        return Figure(made["seconds"], made["cpu"], made["memory"])

    def new_repositories(self) -> None:
        """Empty ones, and nothing that a program remembers of the old ones."""
        for name in ("repository", "borg-file", "borg-device", "restic", "state", "home"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "home").mkdir()
        drop_checkpoints(self.guest)
        self.world.run("repo", "init", "main")
        for name in ("borg-file", "borg-device"):
            self.run(_borg(), "init", "--encryption", "repokey-blake2", name)
        if restic := shutil.which("restic"):
            self.run(restic, "init", "--quiet", "--repository-version", "2", "--repo", "restic")


def _warm_programs() -> None:
    """Bring the programs themselves back into memory: their start is not what is measured."""
    libraries = "import paramiko, pydantic, sqlalchemy.dialects.sqlite, borg.archiver, zstandard"
    for argv in (
        [_borg(), "--version"],
        [sys.executable, "-m", "vmconsole", "--help"],
        [sys.executable, "-c", libraries],
    ):
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def vmconsole(bench: Bench, name: str) -> Figure:
    argv = [sys.executable, "-m", "vmconsole", "--config", str(bench.world.config), "--json"]
    made = bench.run(*argv, "backup", bench.guest.uuid)
    events = [json.loads(line) for line in (bench.folder / "out").read_text().splitlines()]
    steps = {event["step"]: event["seconds"] for event in events if event["event"] == "step_finished"}
    (point,) = [event for event in events if event["event"] == "point_made"]
    assert (point["mode"] == "full") == (name == "full"), point
    return Figure(made.seconds, made.cpu, made.memory, steps, point)


def borg_file(bench: Bench, name: str) -> Figure:
    return bench.run(
        *_borg_create("--sparse", "--read-special"), bench.archive("borg-file", name), str(bench.raw)
    )


def borg_device(bench: Bench, name: str) -> Figure:
    return bench.run(*_borg_create(), bench.archive("borg-device", name), "-", stdin=bench.raw)


def restic(bench: Bench, name: str) -> Figure:
    return bench.run("restic", "backup", "--quiet", "--repo", "restic", str(bench.raw))


def _borg() -> str:
    return str(Path(sys.executable).with_name("borg"))


def _borg_create(*options: str) -> list[str]:
    return [_borg(), "create", "--compression", COMPRESSION, "--chunker-params", f"fixed,{CHUNK}", *options]


PROGRAMS: dict[str, Callable[[Bench, str], Figure]] = {
    "vmconsole": vmconsole,
    "borg file": borg_file,
    "borg device": borg_device,
    "restic": restic,
}
Figures = dict[tuple[str, str], list[Figure]]


def measure(bench: Bench, runs: int, programs: list[str], areas: list[tuple[int, int]]) -> Figures:
    """By (phase, program), one figure per run."""
    figures: Figures = defaultdict(list)
    for number in range(runs):
        bench.new_repositories()
        order = programs[number % len(programs) :] + programs[: number % len(programs)]
        for phase in bench.phases:
            if pieces := PHASES[phase]:
                _change(bench, changes(bench.raw.stat().st_size, areas, number, pieces), number)
            for name in order:
                made = PROGRAMS[name](bench, phase)
                figures[phase, name].append(made)
                print(f"  run {number + 1}, {phase:<11} {name:<11} {_figure(made)}", flush=True)
    return figures


def _change(bench: Bench, writes: list[Change], seed: int) -> None:
    write_in_guest(bench.guest, DISK, writes, seed)
    if not bench.one_image:
        copy_writes(bench.guest, DISK, writes, bench.raw)


def prove(bench: Bench, size: int) -> None:
    """Restore the newest point and compare it with what Borg and restic were given."""
    if shutil.disk_usage(bench.folder).free < size * DATA_SHARE * 1.2:
        print("\nThere is no space to restore the last restore point and compare it: not proven.")
        return
    restored = bench.world.restore(bench.world.newest(bench.guest)["archive"])[DISK]
    subprocess.run(["cmp", restored, bench.raw], check=True)
    print("The last restore point, restored, equals the image the others read.")


def report(figures: Figures, programs: list[str], phases: Sequence[str]) -> None:
    for phase in phases:
        print(f"\n{phase}")
        print(f"  {'':<12} {'seconds':<22} {'vmconsole is … times as fast':<28} peak memory")
        ours = figures[phase, "vmconsole"]
        for name in programs:
            theirs = figures[phase, name]
            times = _spread([made.seconds for made in theirs], "{:.2f}")
            ratios = [their.seconds / mine.seconds for mine, their in zip(ours, theirs, strict=True)]
            ratio = "" if name == "vmconsole" else _spread(ratios, "{:.2f}")
            memory = max(made.memory for made in theirs) / 1e6
            print(f"  {name:<12} {times:<22} {ratio:<28} {memory:.0f} MB")
    print("\nvmconsole's steps, median seconds")
    for phase in phases:
        print(f"  {phase:<12} {_steps(figures[phase, 'vmconsole'])}")


def _spread(values: list[float], form: str) -> str:
    middle, low, high = (form.format(function(values)) for function in (statistics.median, min, max))
    return f"{middle} ({low}–{high})"


def _steps(made: Iterable[Figure]) -> str:
    rows = list(made)
    parts = [
        f"{step} {statistics.median(row.steps.get(step, 0) for row in rows):.2f}" for step in rows[0].steps
    ]
    outside = statistics.median(row.seconds - sum(row.steps.values()) for row in rows)
    return ", ".join([*parts, f"all else {outside:.2f}"])


def _figure(made: Figure) -> str:
    text = f"{made.seconds:7.2f} s  {made.cpu:7.2f} s processor  {made.memory / 1e6:5.0f} MB"
    if made.point:
        text += f"  read {made.point['bytes_read'] / 1e6:.0f} MB, stored {made.point['bytes_stored'] / 1e6:.0f} MB"
    return text


def sparse_disk(bench: Bench, size: int) -> None:
    """bench.guest has an empty disk of that size."""
    print(f"\ndisk of {size / TIB:g} TiB with 64 MiB of data")
    step = size // 64 // MIB * MIB
    for phase, length in (("full", MIB), ("incremental", MIB // 8)):
        writes = [Change(place * step, length, False) for place in range(64)]
        write_in_guest(bench.guest, DISK, writes, len(phase))
        made = vmconsole(bench, phase)
        print(f"  vmconsole {phase:<12} {_figure(made)}\n    {_steps([made])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=float, default=4, metavar="GIB", help="of the disk (default 4)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="how often (default 5)")
    parser.add_argument(
        "--only", nargs="+", choices=PROGRAMS, metavar="PROGRAM", help=f"of: {', '.join(PROGRAMS)}"
    )
    parser.add_argument(
        "--sparse", type=float, default=1, metavar="TIB", help="of the sparse disk; 0: leave it out"
    )
    parser.add_argument(
        "--phases",
        nargs="+",
        choices=PHASES,
        default=list(PHASES),
        metavar="PHASE",
        help=f"of: {', '.join(PHASES)}",
    )
    parser.add_argument("--shared", action="store_true", help="one repository for vmconsole and Borg")
    parser.add_argument("--one-image", action="store_true", help="no copy of the disk for the others")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from memory")
    options = parser.parse_args()
    if reason := problem():
        raise SystemExit(reason)
    size = int(options.size * 1024) * MIB
    programs = [name for name in PROGRAMS if name in (options.only or PROGRAMS)]
    programs = [name for name in programs if name != "restic" or shutil.which("restic")]
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    print(
        f"{os.cpu_count()} processors, load before {load}; disk of {size / GIB:g} GiB, 40 % data, "
        f"{options.runs} runs{', from the disk' if options.cold else ''}"
    )
    with Launcher() as launcher, Lab() as lab, tempfile.TemporaryDirectory(dir=lab.folder("bench")) as folder:
        if size and options.runs:
            compare(launcher, lab, Path(folder), size, programs, options)
        if options.sparse:
            specs = [DiskSpec(DISK, size=int(options.sparse * 1024) * GIB)]
            with lab.guest("sparse", specs) as guest, open_world(lab, Path(folder, "sparse")) as world:
                sparse_disk(Bench(launcher, world, guest, Path()), specs[0].size)


def compare(
    launcher: Launcher, lab: Lab, folder: Path, size: int, programs: list[str], options: argparse.Namespace
) -> None:
    with lab.guest("bench", [DiskSpec(DISK, size=size)], start=False) as guest:
        raw = guest.folder / "disk.raw" if options.one_image else folder / "disk.raw"
        if options.one_image:
            over = ["-o", f"data_file={raw},data_file_raw=on", guest.images[DISK], str(size)]
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *over], check=True)
            areas = make_disk(raw, size)
            raw.chmod(0o666)  # libvirt gives QEMU only what it knows of
        else:
            areas = make_disk(raw, size)
            command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, guest.images[DISK]]
            subprocess.run(command, check=True)
        guest.start()
        with open_world(lab, folder / "world") as world:
            with world.config.open("a") as config:
                config.write("\n[limits]\nheadroom = false\n")
            bench = Bench(
                launcher, world, guest, raw, options.cold, options.shared, options.one_image, options.phases
            )
            figures = measure(bench, options.runs, programs, areas)
            if "vmconsole" in programs:
                report(figures, programs, options.phases)
                prove(bench, size)


if __name__ == "__main__":
    main()
