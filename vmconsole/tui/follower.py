"""Reads what runs say, in a thread of its own, and hands over what is known of them once a second."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from vmconsole.errors import VmconsoleError
from vmconsole.front.services import Services
from vmconsole.model.run import Run, RunState
from vmconsole.tui.following import Following, follow
from vmconsole.tui.logtext import lines_of
from vmconsole.tui.runrows import RunRow, Watched, run_row

_SECONDS = 1.0
_TAIL = 200
_ROWS_AT_ONCE = 25
_REMEMBERED = 40
"""Runs that have ended and were looked at; they say the same for ever."""


class Follower:
    """give: is called from the follower's thread, whenever something is new and once a second while runs go on.

    It is given what is known of the running runs and of the one that is wanted, and the rows of runs that have
    ended; both by run id.
    """

    def __init__(
        self, services: Services, give: Callable[[Mapping[str, Watched], Mapping[str, RunRow]], object]
    ) -> None:
        self._services, self._give = services, give
        self._rows: dict[str, RunRow] = {}
        self._all: Sequence[Run] = ()
        self._known: dict[str, Watched] = {}
        self._wanted: Sequence[Run] = ()
        self._wake: threading.Event | None = None

    def start(self) -> None:
        """Follow, or follow again."""
        self.stop()
        wake = self._wake = threading.Event()
        threading.Thread(target=self._follow, args=(wake,), name="follower", daemon=True).start()

    def stop(self) -> None:
        before, self._wake = self._wake, None
        if before is not None:
            before.set()

    def want(self, runs: Sequence[Run], others: Sequence[Run] = ()) -> None:
        """runs: those that are running, and the one under the cursor. others: of which only the row is wanted."""
        self._all = others
        before = {(run.id, run.state) for run in self._wanted}
        self._wanted = tuple(runs)
        if self._wake is not None and any((run.id, run.state) not in before for run in runs):
            self._wake.set()

    def _follow(self, wake: threading.Event) -> None:
        given: Mapping[str, Watched] | None = None
        while self._wake is wake:
            wake.clear()
            found = self._found(self._wanted)
            fresh = self._read_rows()
            # Times go on, and that nothing comes is told too.
            going_on = any(not known.over for known in found.values())
            if (fresh or going_on or found != given) and self._wake is wake:
                given = found
                self._give(found, dict(self._rows))
            # As long as there are rows to be read, what goes on is looked at between them.
            if fresh < _ROWS_AT_ONCE:
                wake.wait(_SECONDS)

    def _read_rows(self) -> int:
        """Some of those that are missing; returns how many."""
        others = self._all
        missing = [run for run in others if run.state is not RunState.RUNNING and run.id not in self._rows]
        now, count = self._services.clock.now(), 0
        for run in missing[:_ROWS_AT_ONCE]:
            try:
                records = self._services.history.of_run(run.id)
            except VmconsoleError:
                break
            self._rows[run.id] = run_row(run, records, Following(), (), now)
            count += 1
        if len(self._rows) > 2 * len(others) + _ROWS_AT_ONCE:
            ids = {run.id for run in others}
            self._rows = {key: row for key, row in self._rows.items() if key in ids}
        return count

    def _found(self, wanted: Sequence[Run]) -> dict[str, Watched]:
        found: dict[str, Watched] = {}
        for run in wanted:
            known = self._known.get(run.id)
            if known is not None and known.over:
                found[run.id] = known
                continue
            try:
                found[run.id] = look(self._services, run, known)
            except VmconsoleError:
                # The picture tells what is wrong with the state.
                continue
        others = {key: known for key, known in self._known.items() if key not in found}
        self._known = dict([*others.items()][-_REMEMBERED:]) | found
        return found


def look(services: Services, run: Run, known: Watched | None) -> Watched:
    """What is known of a run now. Raises VmconsoleError."""
    before = known or Watched(run)
    # Asked first: what a run that ends right now has said is there by then.
    current = services.store.run(run.id)
    told: list[tuple[int, datetime, dict[str, Any]]] = services.store.events(run.id, before.following.after)
    tail = deque(before.tail, maxlen=_TAIL)
    for event in told:
        tail.extend(lines_of(*event))
    return replace(
        before,
        run=current,
        following=follow(before.following, told),
        records=tuple(services.history.of_run(run.id)),
        tail=tuple(tail),
    )
