"""How long it takes to list folders inside a disk, and to read a file of it.

    python tests/bench/files.py          needs root and loop devices; less than a minute

An ext4 of 1 GiB with a folder of 20,000 files and one file of 400 MiB, read as `vmconsole ls` and `get` do it, by the
process that parses it. The disk comes from an image file, not from a repository: the parsing is measured. With a
repository come its opening (some 0.3 s, once) and its chunks. Nothing is asserted about time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "rig")]

from disk_images import MIB, blank, mounted, run

from vmconsole.guestfs.client import open_files
from vmconsole.remote.local import LocalMachine

FILES = 20_000
LARGE = 400 * MIB


class ImageFile:
    """A DiskReader of a file on this machine."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = blank(Path(folder, "disk"), 1024 * MIB)
        run("mkfs.ext4", "-qF", "-N", "40000", image)
        with mounted(image, Path(folder, "m"), "-o", "loop") as top:
            (top / "many").mkdir()
            for number in range(FILES):
                (top / f"many/file {number}").touch()
            with (top / "large").open("wb") as file:
                for _ in range(LARGE // MIB):
                    file.write(os.urandom(MIB))
        measure(image)


def measure(image: Path, runs: int = 5) -> None:
    figures: dict[str, list[float]] = {}
    for _ in range(runs):
        subprocess.run(["sync"], check=True)
        began = time.perf_counter()
        with open_files(LocalMachine(), {"vda": ImageFile(image)}) as files:
            list(files.entries("", "/"))
            row = {
                "/ with the start of the parser": time.perf_counter() - began,
                "/ again": seconds(lambda: list(files.entries("", "/"))),
                f"a folder of {FILES:,} files": seconds(lambda: list(files.entries("", "/many"))),
                "the same again": seconds(lambda: list(files.entries("", "/many"))),
                f"a file of {LARGE // MIB} MiB": seconds(
                    lambda: sum(map(len, files.read("", "/large", 0, LARGE)))
                ),
            }
        for name, value in row.items():
            figures.setdefault(name, []).append(value)
    for name, values in figures.items():
        print(f"{name:<34} {statistics.median(values):7.3f} s  ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
