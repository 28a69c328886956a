"""Random fleets, and the order of work written down as plainly as can be, however long it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from vmconsole.schedule.jobs import HOST, REPOSITORY, STORAGE, Capacity, Heavy, Job, Resource, heaviest, rank

NIGHT = datetime(2026, 11, 2, 22, 0, tzinfo=UTC)
HOUR = 3600.0
DAY = 24 * HOUR


def later(seconds: float) -> datetime:
    return NIGHT + timedelta(seconds=seconds)


def job(guest: str, host: str = "kvm1", **given: object) -> Job:
    settings: dict[str, object] = {
        "repository": "main",
        "seconds": 600.0,
        "bytes": 1 << 30,
        "due": NIGHT,
        **given,
    }
    return Job(f"{host}/{guest}", guest, host, **settings)  # type: ignore[arg-type]


def capacity(total: int = 100, **parallel: int) -> Capacity:
    """Hosts by name, repository main; one per host unless said otherwise."""
    kinds = {name: REPOSITORY if name == "main" else HOST for name in parallel}
    return Capacity(total, {Resource(kinds[name], name): n for name, n in parallel.items()}, {HOST: 1})


@st.composite
def jobs(draw: st.DrawFn, number: int, until: float = 0.0, windows: bool = False) -> Job:
    """One of few hosts and repositories, so that they meet. until: due up to so many seconds after NIGHT."""
    host = draw(st.sampled_from("abcd"))
    storages = draw(st.lists(st.sampled_from([f"{host}/1", f"{host}/2", "shared"]), max_size=2))
    due = draw(st.floats(-20 * HOUR, until)) if draw(st.booleans()) else 0.0
    return Job(
        f"job{number:03}",
        f"guest{number}",
        host,
        draw(st.sampled_from(["main", "second", "far"])),
        draw(st.sampled_from([60.0, 300.0, 900.0, 3 * HOUR]) | st.floats(0, 5 * HOUR)),
        draw(st.sampled_from([1, 1 << 20, 1 << 30, 1 << 40])),
        later(due),
        tuple(storages),
        draw(st.sampled_from(["", "", "wan"])),
        later(max(due, 0.0) + draw(st.floats(1, 10 * HOUR))) if windows and draw(st.booleans()) else None,
        draw(st.sampled_from([0.0, 0.0, 60.0, HOUR]) | st.integers(0, 3 * int(DAY)).map(float)),
    )


@st.composite
def fleets(draw: st.DrawFn, size: int = 25, until: float = 0.0, windows: bool = False) -> list[Job]:
    count = draw(st.integers(0, size))
    return [draw(jobs(number, until, windows)) for number in range(count)]


@st.composite
def capacities(draw: st.DrawFn) -> Capacity:
    few = st.integers(1, 3)
    return Capacity(
        draw(st.integers(1, 8)),
        {Resource(REPOSITORY, "main"): draw(few), Resource(HOST, "a"): draw(few)},
        {HOST: draw(few), STORAGE: draw(few), REPOSITORY: draw(st.integers(1, 5))},
    )


def within(running: Iterable[Job], limits: Capacity) -> bool:
    """Whether so many may run together."""
    together = list(running)
    used = Counter(resource for one in together for resource in one.resources)
    return len(together) <= limits.total and all(n <= limits.of(resource) for resource, n in used.items())


class PlainOrder:
    """Order, with a look at every job every time. No windows, and nothing waits for a day."""

    def __init__(self, limits: Capacity) -> None:
        self.limits = limits
        self.known: list[Job] = []
        self.ranks: dict[str, tuple[float, float, str]] = {}
        self.running: list[Job] = []
        self.heavies: set[str] = set()
        self.heavy = Heavy(float("inf"), float("inf"))
        self.weighed = self.unweighed = 0

    def add(self, new: Job) -> None:
        self.known.append(new)
        self.unweighed += 1

    def finish(self, done: Job) -> None:
        self.running.remove(done)
        self.known.remove(done)

    def start(self, now: datetime) -> list[Job]:
        if 2 * self.unweighed > self.weighed:
            self.heavy = heaviest(self.known)
            self.weighed, self.unweighed = len(self.known), 0
        for one in self.known:
            if one.due <= now:
                self.ranks.setdefault(one.key, rank(one, now.timestamp()))
        started = []
        while (chosen := self.choose(now)) is not None:
            started.append(chosen)
            self.running.append(chosen)
            self.heavies |= {chosen.key} if self.heavy(chosen) else set()
        return started

    def choose(self, now: datetime) -> Job | None:
        waiting = [one for one in self.known if one.due <= now and one not in self.running]
        can = [one for one in waiting if within([*self.running, one], self.limits)]
        return min(can, key=lambda one: (self.beside_heavy(one), self.ranks[one.key]), default=None)

    def beside_heavy(self, one: Job) -> bool:
        return self.heavy(one) and any(
            other.key in self.heavies and (other.host == one.host or other.repository == one.repository)
            for other in self.running
        )
