"""Looks at a host every few seconds while it is read, and has the pace follow.

with watched(hypervisor, uuids, limits, total, zone, clock, events, run, enabled=True) as pace:
    ... replace(context, pace=pace) ...
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import tzinfo
from typing import Final

from vmconsole.events import EventSink, Throttled
from vmconsole.interfaces import UNHURRIED, Clock, Hypervisor, Pace
from vmconsole.model.limits import Limits
from vmconsole.model.vitals import Vitals
from vmconsole.runs.allowance import Allowance
from vmconsole.runs.governor import Governor

INTERVAL: Final = 3.0
"""Seconds between looks."""
FIRST_INTERVAL: Final = 1.0
"""The same for the first few: before anything is read, so that it is known what is usual."""
_FIRST: Final = 5
SLOW: Final = 5.0
"""Seconds after which a host that has not answered suffers."""
_SHARE: Final = 4
"""Looking takes at most this part of the time."""
_FAREWELL: Final = 1.0


@contextmanager
def watched(
    hypervisor: Hypervisor,
    uuids: Sequence[str],
    limits: Limits,
    total: Allowance,
    zone: tzinfo,
    clock: Clock,
    events: EventSink,
    run: str,
    *,
    enabled: bool = True,
    name: str = "",
) -> Iterator[Pace]:
    """The pace of all reads from a host, until the end of the block.

    Begin some seconds before the first read, and keep it over all guests of the host: it learns what
    is usual while nothing is read. uuids: guests whose writes are watched; best all that run there.
    limits: of the host, by the time of day in the zone. total: of all hosts together, shared by
    them. enabled: whether the pace follows the host's state; limits hold in any case. name: of the
    host in events, where it is not the hypervisor's.
    """
    host = Allowance(limits, zone, clock)
    if not enabled and not host.any and not total.any:
        yield UNHURRIED
        return
    name = name or hypervisor.name

    def say(rate: int, reason: str) -> None:
        events(Throttled(run, name, rate, reason))

    governor = Governor(host, total, clock, say, gentle=enabled)
    look = (lambda: hypervisor.vitals(uuids)) if enabled else None
    with Watch(governor, look, clock):
        yield governor


class Watch:
    """A context manager: threads that look, and judge. Whatever happens to them, reading goes on."""

    def __init__(
        self,
        governor: Governor,
        look: Callable[[], Vitals] | None,
        clock: Clock,
    ) -> None:
        """look: None when only the configured limits are to be said."""
        self._governor = governor
        self._look = look
        self._clock = clock
        self._ended = threading.Event()
        self._seen: queue.SimpleQueue[Vitals | None] = queue.SimpleQueue()
        self._asked: float | None = None
        """Since when an answer is waited for; None when none is."""
        # Nobody waits for a look that hangs, not even at the end of the program.
        self._threads = [threading.Thread(target=self._judge, name="headroom", daemon=True)]
        if look is not None:
            self._threads.append(threading.Thread(target=self._watch, name="headroom-look", daemon=True))

    def __enter__(self) -> Watch:
        self._governor.announce(self._clock.monotonic())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._seen.put(None)
        for thread in self._threads:
            thread.join(_FAREWELL)

    def _watch(self) -> None:
        assert self._look is not None
        for number in itertools.count():
            began = self._clock.monotonic()
            # The first has to connect, which takes as long as it takes.
            self._asked = began if number else None
            # One that fails tells nothing; one that is late is noticed by the judge.
            with suppress(Exception):
                self._seen.put(self._look())
            self._asked = None
            took = self._clock.monotonic() - began
            pause = min(FIRST_INTERVAL, INTERVAL) if number < _FIRST else INTERVAL
            if self._ended.wait(max(pause, took * (_SHARE - 1))):
                return

    def _judge(self) -> None:
        try:
            while not self._ended.is_set():
                self._turn()
        except Exception:
            self._governor.give_up()
            raise

    def _turn(self) -> None:
        try:
            vitals = self._seen.get(timeout=INTERVAL)
        except queue.Empty:
            now, asked = self._clock.monotonic(), self._asked
            if asked is not None and now - asked >= SLOW:
                self._governor.observe(None, now)
            else:
                self._governor.announce(now)
        else:
            if vitals is not None:
                self._governor.observe(vitals, self._clock.monotonic())
