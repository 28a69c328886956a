"""The real command line with a trap in it: `python e2e_child.py ARGS`, the trap in $E2E_TRAP as JSON.

{"do": "kill" | "hold", "at": {"event": "step_started", "step": "read"}, "after": SECONDS, "folder": FOLDER,
 "again": SECONDS}

At the first event that has all that `at` says, the process kills itself with SIGKILL (`after` so many
seconds), or writes FOLDER/reached and goes no further until FOLDER/go is there. With `again` a schedule
tries a guest that is busy or has moved again after so many seconds, not after minutes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from vmconsole.__main__ import main
from vmconsole.events import Event, EventSink
from vmconsole.runs.runner import Runner
from vmconsole.schedule import queue
from vmconsole.wiring.services import Wiring

HOLD_AT_MOST = 90.0


class Trap:
    """An event sink."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._lock = threading.Lock()
        self._sprung = False

    def __call__(self, event: Event) -> None:
        said = event.as_json()
        with self._lock:
            wanted = self._document["at"].items()
            if self._sprung or any(said.get(key) != value for key, value in wanted):
                return
            self._sprung = True
        if self._document["do"] == "hold":
            self._hold(Path(self._document["folder"]))
        elif after := self._document.get("after", 0):
            threading.Timer(after, _die).start()
        else:
            _die()

    def _hold(self, folder: Path) -> None:
        (folder / "reached").touch()
        deadline = time.monotonic() + HOLD_AT_MOST
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def set_trap(trap: Trap) -> None:
    original = Wiring.runner

    def runner(self: Wiring, listeners: Sequence[EventSink]) -> Runner:
        return original(self, [*listeners, trap])

    Wiring.runner = runner  # type: ignore[method-assign]  # the product has no hook for this


if __name__ == "__main__":
    asked = json.loads(os.environ["E2E_TRAP"])
    if "again" in asked:
        queue._AGAIN = queue._MOVED = timedelta(seconds=asked["again"])
    set_trap(Trap(asked))
    sys.exit(main())
