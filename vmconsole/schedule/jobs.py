"""What the planner orders: jobs, what each of them takes up, how much of it there is, and which go first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from vmconsole.model.limits import Limits

HOST, STORAGE, UPLINK, REPOSITORY = "host", "storage", "uplink", "repository"

NO_LIMIT = sys.maxsize
"""Of a resource that nobody limits; there is always the total."""

_HOUR = 3600.0
_PATIENCE = 48 * _HOUR
_HEAD_START = 8 * _HOUR
_HALF = 1 * _HOUR


class Resource(NamedTuple):
    """Something that several jobs want at the same time. kind: one of the words above; name: unique in its kind."""

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name if self.kind == HOST else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Job:
    """One guest to back up. key: unique among all jobs that are known at a time.

    host: the host's name, of a cluster `host/node`. storages: each unique over all hosts, such as `kvm1/ssd`.
    uplink: the line it goes over, empty when that is nobody's concern.
    seconds, bytes: what is expected. due: since when it may start; deadline: from then on it may not, None for
    no such time. overdue: seconds past its group's limit when it is handed in, or becomes due if that is later.
    """

    key: str
    guest: str
    host: str
    repository: str
    seconds: float
    bytes: int
    due: datetime
    storages: tuple[str, ...] = ()
    uplink: str = ""
    deadline: datetime | None = None
    overdue: float = 0.0
    also: tuple[Resource, ...] = ()
    """What else it takes up: more hosts, for guests that are cut together; the guests themselves."""

    @property
    def resources(self) -> tuple[Resource, ...]:
        """One of each is taken up while it runs. The narrowest come first: they say best why it waits."""
        return (
            Resource(HOST, self.host),
            *(Resource(STORAGE, name) for name in sorted(set(self.storages))),
            *((Resource(UPLINK, self.uplink),) if self.uplink else ()),
            Resource(REPOSITORY, self.repository),
            *self.also,
        )


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many jobs at the same time: in total, of one resource, and of any other resource of a kind.

    0 closes a resource. What neither names is limited by the total only.
    """

    total: int
    parallel: Mapping[Resource, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def from_limits(
        total: Limits, named: Mapping[Resource, Limits], others: Mapping[str, Limits] | None = None
    ) -> Capacity:
        return Capacity(
            total.parallel,
            {resource: limits.parallel for resource, limits in named.items()},
            {kind: limits.parallel for kind, limits in (others or {}).items()},
        )

    def of(self, resource: Resource) -> int:
        found = self.parallel.get(resource)
        return self.others.get(resource.kind, NO_LIMIT) if found is None else found


Rank = tuple[float, float, str]


def rank(job: Job, now: float) -> Rank:
    """The smaller goes first. now: Unix time at which the job was handed in, or became due if that is later.

    It holds as long as the job waits, whatever comes later, so queues need no sorting again. It is a time:

    - of an overdue job, since when it is: the most overdue goes first;
    - of any other, when it became due plus _PATIENCE, minus a head start that grows with its length and
      stays below _HEAD_START. Of those that became due together the longest goes first, because what is long
      and starts late ends last. One that became due _HEAD_START before another goes first whatever its length.

    A job that has waited for long is thus treated as if it were overdue, and nothing that comes later
    passes it.
    """
    if job.overdue > 0:
        first = now - job.overdue
    else:
        head_start = _HEAD_START * (1 - _HALF / (max(job.seconds, 0.0) + _HALF))
        first = job.due.timestamp() + _PATIENCE - head_start
    return first, -job.seconds, job.key


@dataclass(frozen=True, slots=True)
class Heavy:
    """From where on a job is heavy: more than both, in seconds or in bytes."""

    seconds: float
    bytes: float

    def __call__(self, job: Job) -> bool:
        return job.seconds >= self.seconds or job.bytes >= self.bytes


def heaviest(jobs: Iterable[Job]) -> Heavy:
    """The jobs that make up half of everything (seconds, or bytes) although they are few.

    None of them is heavy when all are much alike: a heavy one is more than twice the median.
    """
    known = list(jobs)
    return Heavy(_half(sorted(job.seconds for job in known)), _half(sorted(job.bytes for job in known)))


def _half(amounts: Sequence[float]) -> float:
    """The smallest of the largest amounts that together are half of the sum. amounts: sorted, smallest first."""
    if not amounts:
        return float("inf")
    twice = 2 * amounts[(len(amounts) - 1) // 2]
    rest, found = sum(amounts) / 2, float("inf")
    for amount in reversed(amounts):
        if rest <= 0 or amount <= twice:
            break
        rest -= amount
        found = amount
    return found
