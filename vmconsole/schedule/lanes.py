"""Queues of jobs that want the same resources, looked at only when what they wait for has become free.

Jobs that take up exactly the same resources form a lane, its best job first. A lane whose best job can
perhaps start is ready. One that was looked at and found a resource full is parked there. When a resource has
room again, the best lane that is parked there becomes ready; the next one only when that has been looked at
and there is still room. So an event costs a few looks, however many jobs wait.

Heavy jobs have lanes of their own, which queue twice: strictly, where they also need the one place for heavy
work of their host and of their repository, and loosely, without those but behind everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush

from vmconsole.schedule.jobs import HOST, REPOSITORY, Capacity, Job, Rank, Resource

Entry = tuple[float, float, str, int]
"""A job's rank, and a number that is another one each time a job is put into a lane: no two entries are equal."""


class State(Enum):
    COMING = "coming"
    """Not due yet."""
    WAITING = "waiting"
    RUNNING = "running"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Slots:
    """A resource: how many may use it, how many do, and how many places are held free for one that has waited.

    peak: the most that ever used it together.
    """

    resource: Resource
    limit: int
    held: int = 0
    peak: int = 0
    users: dict[Item, None] = field(default_factory=dict)
    """In the order they started."""
    parked: list[tuple[int, Entry, Place]] = field(default_factory=list)
    """A heap; entries of lanes that have left since stay until they come up."""

    @property
    def full(self) -> bool:
        return len(self.users) + self.held >= self.limit


@dataclass(slots=True, eq=False)
class Item:
    """A job and where it stands. Times are Unix time. number: counts jobs as they are handed in.

    heavy_slots: of its host and its repository, empty when it is not heavy. entry: once it waits. lane: while it waits.
    """

    job: Job
    slots: tuple[Slots, ...]
    due: float
    deadline: float
    number: int
    heavy_slots: tuple[Slots, ...] = ()
    state: State = State.COMING
    entry: Entry = (0.0, 0.0, "", 0)
    lane: Lane | None = None

    @property
    def fits(self) -> bool:
        """Whether there is a place on everything it needs, were none held."""
        return all(len(slots.users) < slots.limit for slots in self.slots)


@dataclass(slots=True, eq=False)
class Lane:
    """Waiting jobs that need the same. jobs: a heap; those that have left since stay until they come up."""

    jobs: list[tuple[Entry, Item]] = field(default_factory=list)
    places: tuple[Place, ...] = ()

    @property
    def best(self) -> Item | None:
        while self.jobs:
            item = self.jobs[0][1]
            if item.lane is self:
                return item
            heappop(self.jobs)
        return None


@dataclass(slots=True, eq=False)
class Place:
    """A lane's place in the queues. turn: 0, or 1 for behind everything else.

    at: the resource it is parked at; None when ready, or nowhere. entry: the rank it queues with, None for nowhere.
    caller: the resource it was parked at when it became ready.
    """

    lane: Lane
    turn: int
    needs: tuple[Slots, ...]
    at: Slots | None = None
    entry: Entry | None = None
    caller: Slots | None = None


class Lanes:
    """All that waits and runs."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._slots: dict[Resource, Slots] = {}
        self._heavy_slots: dict[Resource, Slots] = {}
        self._lanes: dict[tuple[tuple[Slots, ...], bool], Lane] = {}
        self._ready: list[tuple[int, Entry, Place]] = []
        self._puts = 0

    @property
    def slots(self) -> Iterable[Slots]:
        """Of all resources that were ever asked for."""
        return self._slots.values()

    def slots_of(self, job: Job) -> tuple[Slots, ...]:
        return tuple(self._one(resource) for resource in job.resources)

    def heavy_slots_of(self, job: Job) -> tuple[Slots, ...]:
        keys = (Resource(HOST, job.host), Resource(REPOSITORY, job.repository))
        return tuple(self._heavy_slots.setdefault(key, Slots(key, 1)) for key in keys)

    def put(self, item: Item, rank: Rank) -> None:
        """Let it wait, or wait elsewhere when its heaviness has changed."""
        self._puts += 1
        item.entry = (*rank, self._puts)
        key = (item.slots, bool(item.heavy_slots))
        lane = self._lanes.get(key) or self._lanes.setdefault(key, _lane(item))
        item.lane = lane
        heappush(lane.jobs, (item.entry, item))
        if lane.best is item:
            for place in lane.places:
                self._make_ready(place, item.entry)

    def take(self) -> Item | None:
        """Begin the best job that has a place on everything it needs."""
        while self._ready:
            _, entry, place = heappop(self._ready)
            if place.entry is not entry or place.at is not None:
                continue
            caller, place.caller = place.caller, None
            taken = self._look(place)
            if caller is not None and not caller.full:
                self._call(caller)
            if taken is not None:
                return taken
        return None

    def begin(self, item: Item) -> None:
        item.lane = None
        for slots in (*item.slots, *item.heavy_slots):
            slots.users[item] = None
            slots.peak = max(slots.peak, len(slots.users))

    def end(self, item: Item) -> None:
        for slots in (*item.slots, *item.heavy_slots):
            was_full = slots.full
            del slots.users[item]
            if was_full and not slots.full:
                self._call(slots)

    def hold(self, item: Item) -> None:
        """Keep one place free on everything it needs."""
        for slots in item.slots:
            slots.held += 1

    def release(self, item: Item) -> None:
        for slots in item.slots:
            was_full = slots.full
            slots.held -= 1
            if was_full and not slots.full:
                self._call(slots)

    def _look(self, place: Place) -> Item | None:
        """Begin the lane's best, or park the lane at what is full, or let it queue again with what it has now."""
        best, entry = place.lane.best, place.entry
        if best is None:
            place.entry = None
            return None
        if best.entry is not entry:
            self._make_ready(place, best.entry)
            return None
        for slots in place.needs:
            if len(slots.users) + slots.held >= slots.limit:
                _park(place, slots, best.entry)
                return None
        self.begin(best)
        following = place.lane.best
        place.entry = None
        if following is not None:
            self._make_ready(place, following.entry)
        return best

    def _call(self, slots: Slots) -> None:
        """Make the best lane ready that is parked there."""
        while slots.parked:
            _, entry, place = heappop(slots.parked)
            if place.at is not slots or place.entry is not entry:
                continue
            best = place.lane.best
            if best is None:
                place.at = place.entry = None
            elif best.entry is not entry:
                _park(place, slots, best.entry)
            else:
                place.caller = slots
                self._make_ready(place, entry)
                return

    def _make_ready(self, place: Place, entry: Entry) -> None:
        place.at, place.entry = None, entry
        heappush(self._ready, (place.turn, entry, place))

    def _one(self, resource: Resource) -> Slots:
        found = self._slots.get(resource)
        if found is None:
            found = self._slots[resource] = Slots(resource, self._capacity.of(resource))
        return found


def _lane(item: Item) -> Lane:
    lane = Lane()
    strict = Place(lane, 0, (*item.slots, *item.heavy_slots))
    lane.places = (strict, Place(lane, 1, item.slots)) if item.heavy_slots else (strict,)
    return lane


def _park(place: Place, slots: Slots, entry: Entry) -> None:
    place.at, place.entry = slots, entry
    heappush(slots.parked, (place.turn, entry, place))
