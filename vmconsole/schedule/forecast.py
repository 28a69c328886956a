"""What a schedule comes to: the order of work carried out with a clock that jumps from one event to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

from vmconsole.schedule.jobs import Capacity, Job, Resource
from vmconsole.schedule.order import Order


@dataclass(frozen=True, slots=True)
class Planned:
    """A job that starts. why: what it waited for last, a clause; empty when it starts as soon as it is due."""

    job: Job
    start: datetime
    end: datetime
    why: str = ""

    @property
    def late(self) -> bool:
        """Whether it may not be done by its deadline."""
        return self.job.deadline is not None and self.end.timestamp() > self.job.deadline.timestamp()


@dataclass(frozen=True, slots=True)
class Left:
    """A job that does not start. why: what it waited for when its deadline came, or for good."""

    job: Job
    why: str


@dataclass(frozen=True, slots=True)
class Peak:
    """How many jobs use a resource at the same time, at most, and how many may."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """planned: in the order they start. left: those that do not. peaks: of all resources that are asked for.

    total: of everything together.
    """

    planned: tuple[Planned, ...]
    left: tuple[Left, ...]
    peaks: Mapping[Resource, Peak]
    total: Peak

    @property
    def late(self) -> tuple[Planned, ...]:
        """Those that start, but may not be done by their deadline."""
        return tuple(planned for planned in self.planned if planned.late)

    @property
    def missed(self) -> tuple[Job, ...]:
        """All that are not done by their deadline: those that do not start, then those that end too late."""
        return tuple(item.job for item in self.left) + tuple(item.job for item in self.late)

    @property
    def end(self) -> datetime | None:
        """When the last one ends."""
        return max((planned.end for planned in self.planned), default=None)


def simulate(jobs: Iterable[Job], capacity: Capacity, now: datetime) -> Forecast:
    """What becomes of the jobs from now on, if each takes as long as expected. Times are in the zone of now."""
    order = Order(jobs, capacity)
    clock = began = now.astimezone(UTC)
    ends: list[tuple[datetime, str, Job]] = []
    planned: list[Planned] = []
    left: list[Left] = []
    freed = _Freed()
    most = 0
    while True:
        for job in order.start(clock):
            end = clock + timedelta(seconds=job.seconds)
            heappush(ends, (end, job.key, job))
            waited = clock > began and clock.timestamp() > job.due.timestamp()
            why = freed.why(job) if waited else ""
            planned.append(Planned(job, clock.astimezone(now.tzinfo), end.astimezone(now.tzinfo), why))
        left += (Left(*expired) for expired in order.take_expired())
        most = max(most, len(ends))
        times = [time for time in (ends[0][0] if ends else None, order.next_change()) if time is not None]
        if not times:
            break
        clock = min(times)
        ended = []
        while ends and ends[0][0] <= clock:
            ended.append(heappop(ends)[2])
        freed = _freed_by(ended, order, capacity)
        for job in ended:
            order.finish(job)
    left += (Left(job, order.why(job)) for job in order.waiting)
    peaks = {
        resource: Peak(used, min(capacity.of(resource), capacity.total))
        for resource, used in order.peaks().items()
    }
    return Forecast(tuple(planned), tuple(left), peaks, Peak(most, capacity.total))


@dataclass(frozen=True, slots=True)
class _Freed:
    """What had no place left until now. users: the job whose end made one. total: how many ran when no more could."""

    users: Mapping[Resource, Job] = field(default_factory=dict)
    total: int = 0

    def why(self, job: Job) -> str:
        """What had to end for the job to start."""
        for resource in job.resources:
            if resource in self.users:
                return f"{resource} was busy with {self.users[resource].guest}"
        if self.total:
            return f"as many guests as may be were being backed up ({self.total})"
        return "other work came first"


def _freed_by(ended: Iterable[Job], order: Order, capacity: Capacity) -> _Freed:
    users = {resource: job for job in ended for resource in order.full(job)}
    return _Freed(users, capacity.total if order.busy else 0)
