"""A real QEMU process without a guest in it, for what is said over its monitor."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAM = shutil.which("qemu-system-x86_64")


class Qemu:
    """folder: where its monitor's socket is. Ends with the block."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        assert PROGRAM is not None
        self.path = folder / "100.qmp"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [
                PROGRAM, "-nodefaults", "-display", "none", "-S",
                "-qmp", f"unix:{self.path},server=on,wait=off", *(arguments or ("-machine", "none")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                assert self.process.stderr is not None
                raise RuntimeError(self.process.stderr.read().decode())
            time.sleep(0.02)

    def _answers(self) -> bool:
        """The socket is there before QEMU has looked at the rest of its arguments."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(str(self.path))
                return bool(probe.recv(1))
            except OSError:
                return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self.process.stderr is not None
        self.process.stderr.close()
