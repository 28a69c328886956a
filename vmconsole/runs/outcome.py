"""How a run went."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from vmconsole.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_WARNINGS, VmconsoleError
from vmconsole.model.point import RestorePoint
from vmconsole.model.run import RunState


@dataclass(slots=True)
class Outcome:
    """How a run went. errors: by guest name or subject, in the order they happened."""

    run: str
    points: list[RestorePoint] = field(default_factory=list)
    errors: list[tuple[str, VmconsoleError]] = field(default_factory=list)
    warnings: int = 0
    exit_code: int = EXIT_DONE
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Held while several guests' threads add to it."""

    @property
    def state(self) -> RunState:
        if self.exit_code == EXIT_INTERRUPTED:
            return RunState.CANCELLED
        if self.exit_code == EXIT_WARNINGS:
            return RunState.WARNINGS
        return RunState.DONE if self.exit_code == EXIT_DONE else RunState.FAILED
