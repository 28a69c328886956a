"""Work that somebody asked for by hand: all of it now, within the same limits as at night."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from vmconsole.errors import VmconsoleError
from vmconsole.interfaces import Clock
from vmconsole.model.history import BackupRecord
from vmconsole.runs.work import Work
from vmconsole.schedule.jobs import Capacity
from vmconsole.schedule.order import Order
from vmconsole.schedule.sizing import job_of


class OnceQueue:
    """Implements runs.work.Queue. Nothing is tried again: whoever asked is there to ask again."""

    one_by_one = False

    def __init__(
        self,
        works: Iterable[Work],
        capacity: Capacity,
        clock: Clock,
        records_of: Callable[[str], Sequence[BackupRecord]],
    ) -> None:
        """records_of: what became of a guest (uuid) before, newest first."""
        self._clock = clock
        now = clock.now()
        self._works = {work.key: work for work in works}
        self._jobs = {work.key: job_of(work, now, records_of) for work in self._works.values()}
        self._order = Order(self._jobs.values(), capacity)

    def start(self) -> Sequence[Work]:
        return [self._works[job.key] for job in self._order.start(self._clock.now())]

    def done(self, work: Work) -> None:
        self._order.finish(self._jobs[work.key])

    def again(self, work: Work, error: VmconsoleError) -> datetime | None:
        return None

    def expired(self) -> Sequence[tuple[Work, VmconsoleError]]:
        return ()

    def pause(self) -> float | None:
        return None
