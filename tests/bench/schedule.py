"""Plans two weeks of a large fleet. Run by hand, it prints figures and asserts nothing:

    python tests/bench/schedule.py [--hosts 500] [--guests 10000] [--nights 14] [--seed 1]

Every night all guests are due at 22:00, with up to 30 minutes of jitter, and the window ends at 06:00. One host
is off for nights 4 to 6; its guests come back three nights behind. What a night does not manage is due
since then, and has more to read in the next. One guest in thirty is read in full.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vmconsole.schedule.forecast import Forecast, simulate
from vmconsole.schedule.jobs import HOST, REPOSITORY, STORAGE, UPLINK, Capacity, Job, Resource

MIB, GIB = 1 << 20, 1 << 30
HOUR = 3600.0
FIRST = datetime(2026, 11, 2, 22, 0, tzinfo=UTC)
WINDOW = timedelta(hours=8)
LIMIT = 36 * HOUR
JITTER = 1800.0
OVERHEAD = 25.0  # seconds per guest besides reading: inspect, freeze, cut, commit, release
OFF_HOST, OFF_NIGHTS = "host007", range(3, 6)
REPOSITORIES = {"main": 48, "second": 48, "third": 32, "archive": 24, "branch": 12}


@dataclass
class Guest:
    """size: bytes; change: the share of them that a day changes; rate: bytes per second read from it.

    good: when it was last backed up. due: since when it should be again, None when it is not behind.
    """

    name: str
    host: str
    storages: tuple[str, ...]
    repository: str
    uplink: str
    size: int
    change: float
    rate: float
    jitter: float
    good: datetime = FIRST - timedelta(days=1)
    due: datetime | None = None


def fleet(hosts: int, guests: int, dice: random.Random) -> list[Guest]:
    """Sizes and change rates are log-normal: many small guests, few large ones that change much."""
    names = [f"host{number:03}" for number in range(hosts)]
    repositories = list(REPOSITORIES)
    weights = [REPOSITORIES[name] for name in repositories]
    home = {name: dice.choices(repositories, weights)[0] for name in names}
    found = []
    for number in range(guests):
        host = names[number % hosts]
        san = int(host[4:]) % 10 == 0  # one host in ten has its disks on storage it shares with nine others
        storage = f"san{int(host[4:]) // 100}" if san else f"{host}/{dice.choice(['ssd', 'ssd', 'hdd'])}"
        more = (f"{host}/hdd",) if dice.random() < 0.1 else ()
        found.append(
            Guest(
                f"guest{number:05}",
                host,
                (storage, *more),
                home[host] if dice.random() < 0.9 else dice.choices(repositories, weights)[0],
                "wan" if home[host] == "branch" else "",
                int(min(dice.lognormvariate(3.9, 1.0), 4000) * GIB),
                min(dice.lognormvariate(-4.2, 1.0), 0.5),
                dice.uniform(40, 160) * MIB,
                dice.uniform(0, JITTER),
            )
        )
    return found


def tonight(guests: list[Guest], night: int, dice: random.Random) -> list[Job]:
    start = FIRST + timedelta(days=night)
    jobs = []
    for guest in guests:
        due = start + timedelta(seconds=guest.jitter)
        guest.due = guest.due or due
        if guest.host == OFF_HOST and night in OFF_NIGHTS:
            continue
        behind = (due - guest.good).total_seconds()
        share = min(guest.change * dice.lognormvariate(0, 0.5) * behind / (24 * HOUR), 1.0)
        everything = (night + int(guest.name.removeprefix("guest")) * 7919) % 30 == 0
        amount = guest.size if everything else int(guest.size * share)
        jobs.append(
            Job(
                guest.name,
                guest.name,
                guest.host,
                guest.repository,
                OVERHEAD + amount / guest.rate,
                amount,
                guest.due,
                guest.storages,
                guest.uplink,
                start + WINDOW,
                max(behind - LIMIT, 0.0),
            )
        )
    return jobs


def limits() -> Capacity:
    named = {Resource(REPOSITORY, name): parallel for name, parallel in REPOSITORIES.items()}
    named |= {Resource(STORAGE, f"san{number}"): 4 for number in range(10)}
    named |= {Resource(HOST, f"host{number:03}"): 3 for number in range(0, 500, 5)}
    named[Resource(UPLINK, "wan")] = 8
    return Capacity(150, named, {HOST: 2, STORAGE: 1})


def carry_over(guests: dict[str, Guest], forecast: Forecast) -> int:
    """What became of the night's jobs; how many ended within their window."""
    kept = 0
    for planned in forecast.planned:
        guest = guests[planned.job.key]
        if not planned.late:
            kept += 1
            guest.good, guest.due = planned.start, None
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--guests", type=int, default=10_000)
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    dice = random.Random(asked.seed)
    guests = {guest.name: guest for guest in fleet(asked.hosts, asked.guests, dice)}
    capacity = limits()
    peaks: Counter[Resource] = Counter()
    allowed: dict[Resource, int] = {}
    planning = longest = 0.0
    all_jobs = all_kept = most = 0
    print("night   jobs  TiB    kept   late  left  last end  longest wait   planned in")
    for night in range(asked.nights):
        jobs = tonight(list(guests.values()), night, dice)
        start = FIRST + timedelta(days=night)
        began = time.perf_counter()
        forecast = simulate(jobs, capacity, start)
        took = time.perf_counter() - began
        kept = carry_over(guests, forecast)
        wait = max((one.start - max(one.job.due, start)).total_seconds() for one in forecast.planned)
        for resource, peak in forecast.peaks.items():
            peaks[resource] = max(peaks[resource], peak.used)
            allowed[resource] = peak.limit
        last = max(one.end for one in forecast.planned)
        print(
            f"{night + 1:5} {len(jobs):6} {sum(job.bytes for job in jobs) / GIB / 1024:4.1f} "
            f"{100 * kept / len(jobs):6.2f}% {len(forecast.late):5} {len(forecast.left):5} "
            f"  {last:%d. %H:%M} {wait / HOUR:10.2f} h {took:12.2f} s"
        )
        if night == OFF_NIGHTS.stop:
            back = [one for one in forecast.planned if one.job.host == OFF_HOST]
            if back:
                done = max(one.end for one in back)
                print(f"      {OFF_HOST} is back: {len(back)} guests caught up by {done:%d. %H:%M}")
        planning += took
        longest = max(longest, wait)
        all_jobs += len(jobs)
        all_kept += kept
        most = max(most, forecast.total.used)
    print(f"\n{all_jobs} jobs in {asked.nights} nights, planned in {planning:.2f} s")
    print(f"windows kept {100 * all_kept / all_jobs:.3f} %, longest wait {longest / HOUR:.2f} h")
    print(f"peak in total {most} of {capacity.total}")
    for kind in (REPOSITORY, UPLINK, STORAGE, HOST):
        report(kind, peaks, allowed)


def report(kind: str, peaks: Counter[Resource], allowed: dict[Resource, int]) -> None:
    """Peaks against limits: each where they are few, else how often which."""
    found = sorted(resource for resource in peaks if resource.kind == kind)
    over = sum(peaks[resource] > allowed[resource] for resource in found)
    if len(found) <= 8:
        print(f"{kind}: " + ", ".join(f"{one.name} {peaks[one]} of {allowed[one]}" for one in found))
    else:
        seen = Counter((peaks[one], allowed[one]) for one in found)
        counts = ", ".join(f"{n} x {used} of {limit}" for (used, limit), n in sorted(seen.items()))
        print(f"{kind}: {counts}; {over} over their limit")


if __name__ == "__main__":
    main()
