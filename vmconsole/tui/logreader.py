"""Reads the log of one run, in a thread of its own, and goes on reading while the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from vmconsole.errors import VmconsoleError
from vmconsole.front.services import Services
from vmconsole.model.run import Run, RunState
from vmconsole.tui.following import Following, follow
from vmconsole.tui.logtext import Line, lines_of

_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LogPart:
    """lines: those that are new. following: how far the run is. error: why it cannot be read; run is then None."""

    run: Run | None
    lines: tuple[Line, ...] = ()
    following: Following = field(default_factory=Following)
    error: str = ""


class LogReader:
    """give: is called from the reader's thread; for the last time when the run has ended."""

    def __init__(self, services: Services, run: str, give: Callable[[LogPart], object]) -> None:
        self._services, self._run, self._give = services, run, give
        self._following = Following()
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._read, name="log", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _read(self) -> None:
        while not self._ended.is_set():
            part = self._next()
            if self._ended.is_set():
                return
            self._give(part)
            if part.run is None or part.run.state is not RunState.RUNNING:
                return
            self._ended.wait(_SECONDS)

    def _next(self) -> LogPart:
        store = self._services.store
        try:
            # Asked first: what a run that ends right now has said is there by then.
            run = store.run(self._run)
            told = store.events(run.id, self._following.after)
        except VmconsoleError as error:
            return LogPart(None, error=error.message)
        self._following = follow(self._following, told)
        return LogPart(run, tuple(line for event in told for line in lines_of(*event)), self._following)
