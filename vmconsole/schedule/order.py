"""The order of work: which of the jobs that are due may start now.

Used by the runner, with the wall clock, and by the forecast, with one that it turns itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from heapq import heappop, heappush
from math import inf

from vmconsole.schedule.jobs import Capacity, Heavy, Job, Rank, Resource, heaviest, rank
from vmconsole.schedule.lanes import Item, Lanes, Slots, State

_OLD = 24 * 3600.0


class Order:
    """Jobs that wait, and what they wait for. Tell it what starts to exist and what ends, ask it what to start.

    - No more jobs run at the same time than the capacity allows, in total and of every resource.
    - The most overdue go first, then the longest, an old one before any (see jobs.rank). A job that cannot start
      does not keep others from what it cannot use yet.
    - A heavy job (see jobs.heaviest) starts on a host, or into a repository, where another one runs only
      when nothing lighter can.
    - Nothing starts before it is due, nor from its deadline on.
    - A job that has waited here for a day, because what it needs was never free at the same time, has places held
      for it until it starts. That is done for one job at a time, the first by rank.

    The same jobs, asked at the same times, start in the same order, in whatever order they were handed in.
    """

    def __init__(self, jobs: Iterable[Job], capacity: Capacity) -> None:
        self._capacity = capacity
        self._lanes = Lanes(capacity)
        self._items: dict[str, Item] = {}  # what is coming, waits or runs, by key
        self._running: dict[str, Item] = {}  # in the order they started
        # Heaps by time; what is no longer in that state stays until it comes up.
        self._coming: list[tuple[float, str, int, Item]] = []
        self._deadlines: list[tuple[float, str, int, Item]] = []
        self._young: list[tuple[float, str, int, Item]] = []
        self._old: list[tuple[tuple[float, float, str, int], Item]] = []
        self._held: Item | None = None
        self._expired: list[tuple[Job, str]] = []
        self._heavy = Heavy(inf, inf)
        self._weighed = self._unweighed = 0
        self._count = 0
        for job in jobs:
            self.add(job)

    def add(self, job: Job) -> None:
        """Hand in a job; start() looks at it. Raises ValueError when its key is known."""
        if job.key in self._items:
            raise ValueError(f"job {job.key!r} is known already")
        self._count += 1
        deadline = inf if job.deadline is None else job.deadline.timestamp()
        item = Item(job, self._lanes.slots_of(job), job.due.timestamp(), deadline, number=self._count)
        self._items[job.key] = item
        self._unweighed += 1
        heappush(self._coming, (item.due, job.key, item.number, item))
        if deadline < inf:
            heappush(self._deadlines, (deadline, job.key, item.number, item))

    def remove(self, job: Job) -> None:
        """Forget a job that has not started. Raises KeyError when there is none such."""
        item = self._items[job.key]
        if item.state is State.RUNNING:
            raise KeyError(job.key)
        self._drop(item)

    def start(self, now: datetime) -> list[Job]:
        """What starts now, first things first. It counts as running until finish()."""
        at = now.timestamp()
        self._weigh()
        self._admit(at)
        self._expire(at)
        started = []
        while not self.busy:
            item = self._take_held(at) or self._lanes.take()
            if item is None:
                break
            item.state = State.RUNNING
            self._running[item.job.key] = item
            started.append(item.job)
        return started

    def finish(self, job: Job) -> None:
        """A job has ended, however. Raises KeyError when it does not run."""
        item = self._running.pop(job.key)
        del self._items[job.key]
        item.state = State.GONE
        self._lanes.end(item)

    def next_change(self) -> datetime | None:
        """When start() is to be asked again though nothing ends: something is due, or may not start any more."""
        for heap, states in (
            (self._coming, (State.COMING,)),
            (self._deadlines, (State.COMING, State.WAITING)),
        ):
            while heap and heap[0][-1].state not in states:
                heappop(heap)
        times = [heap[0][0] for heap in (self._coming, self._deadlines) if heap]
        return datetime.fromtimestamp(min(times), UTC) if times else None

    def take_expired(self) -> list[tuple[Job, str]]:
        """The jobs whose deadline passed before they started, and why; each is told once."""
        expired, self._expired = self._expired, []
        return expired

    @property
    def waiting(self) -> tuple[Job, ...]:
        """Those that have not started: first the due ones by rank, then the others by when they are due."""
        items = [item for item in self._items.values() if item.state is not State.RUNNING]
        items.sort(key=lambda item: (item.state is State.COMING, item.entry, item.due, item.job.key))
        return tuple(item.job for item in items)

    @property
    def running(self) -> tuple[Job, ...]:
        """In the order they started."""
        return tuple(item.job for item in self._running.values())

    @property
    def busy(self) -> bool:
        """Whether as many run as may in total."""
        return len(self._running) >= self._capacity.total

    def full(self, job: Job) -> tuple[Resource, ...]:
        """What the job takes up that nobody else has a place on now."""
        slots_of_job = self._items[job.key].slots
        return tuple(slots.resource for slots in slots_of_job if len(slots.users) >= slots.limit)

    def peaks(self) -> dict[Resource, int]:
        """How many jobs used each resource together, at most so far."""
        return {slots.resource: slots.peak for slots in sorted(self._lanes.slots, key=_resource)}

    def why(self, job: Job) -> str:
        """Why it waits, as a clause without a full stop; empty when it does not."""
        item = self._items.get(job.key)
        if item is None or item.state is State.RUNNING:
            return ""
        if item.state is State.COMING:
            return f"it is not due before {job.due:%Y-%m-%d %H:%M}"
        for slots in item.slots:
            if slots.limit <= 0:
                return f"{slots.resource} takes no backups"
            if len(slots.users) >= slots.limit:
                return f"{slots.resource} is busy with {_names(slots)}"
        if self.busy:
            return f"as many guests as may be are being backed up ({self._capacity.total})"
        for slots in item.slots:
            if slots.full and self._held is not None and self._held is not item:
                return f"{slots.resource} is kept for {self._held.job.guest}, which has waited for a day"
        for slots in item.heavy_slots:
            if slots.full:
                return f"{slots.resource} is busy with {_names(slots)}, which is as large"
        return "it is its turn"

    def _weigh(self) -> None:
        """Say anew what is heavy, once many jobs have come since that was last said."""
        if 2 * self._unweighed <= self._weighed:
            return
        self._heavy = heaviest(item.job for item in self._items.values())
        self._weighed, self._unweighed = len(self._items), 0
        for item in self._items.values():
            if item.state is State.WAITING and self._heavy(item.job) != bool(item.heavy_slots):
                self._put(item, item.entry[:3])

    def _admit(self, at: float) -> None:
        while self._coming and self._coming[0][0] <= at:
            *_, item = heappop(self._coming)
            if item.state is State.COMING:
                item.state = State.WAITING
                heappush(self._young, (at + _OLD, item.job.key, item.number, item))
                self._put(item, rank(item.job, at))

    def _put(self, item: Item, its_rank: Rank) -> None:
        item.heavy_slots = self._lanes.heavy_slots_of(item.job) if self._heavy(item.job) else ()
        self._lanes.put(item, its_rank)

    def _expire(self, at: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= at:
            *_, item = heappop(self._deadlines)
            if item.state in (State.COMING, State.WAITING):
                self._expired.append((item.job, self.why(item.job)))
                self._drop(item)

    def _drop(self, item: Item) -> None:
        del self._items[item.job.key]
        item.state, item.lane = State.GONE, None
        if item is self._held:
            self._let_go(item)

    def _take_held(self, at: float) -> Item | None:
        """Begin the job that places are held for, if it can; hold places for the first of the old ones."""
        while self._young and self._young[0][0] <= at:
            *_, old = heappop(self._young)
            if old.state is State.WAITING and all(slots.limit > 0 for slots in old.slots):
                heappush(self._old, (old.entry, old))
        if self._held is None:
            while self._old and self._old[0][1].state is not State.WAITING:
                heappop(self._old)
            if self._old:
                self._held = heappop(self._old)[1]
                self._lanes.hold(self._held)
        item = self._held
        if item is None or not item.fits:
            return None
        self._lanes.begin(item)
        self._let_go(item)
        return item

    def _let_go(self, item: Item) -> None:
        self._held = None
        self._lanes.release(item)


def _names(slots: Slots) -> str:
    """`web-01`, `web-01 and web-02`, `web-01, web-02 and 5 more`."""
    names = [user.job.guest for user in slots.users]
    if len(names) > 3:
        names = [*names[:2], f"{len(names) - 2} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _resource(slots: Slots) -> Resource:
    return slots.resource
