"""systemd of this machine: whether it runs, and `systemctl`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vmconsole.errors import VmconsoleError
from vmconsole.remote.local import LocalMachine

_RUNS = Path("/run/systemd/system")
"""As sd_booted(3)."""


class Systemd:
    """The system's, or with user that of the user we are."""

    def __init__(self, machine: LocalMachine, *, user: bool) -> None:
        self._machine = machine
        self._scope = ["--user"] if user else []

    @property
    def runs(self) -> bool:
        if not self._scope:
            return _RUNS.is_dir()
        folder = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        return (Path(folder) / "systemd/private").exists()

    def command(self, *words: str) -> Sequence[str]:
        return ["systemctl", *self._scope, *words]

    def call(self, *words: str) -> str:
        """Run systemctl; returns what is wrong, in its own words, or nothing."""
        try:
            done = self._machine.run(self.command(*words), check=False)
        except VmconsoleError as error:
            return error.message
        return "" if done.status == 0 else done.errors or f"exit status {done.status}"
