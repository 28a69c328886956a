"""What a host and its guests suffer from while they are read, and what is only our own reading.

Guests' writes are the best witness: they are compared with how long they took while nothing was
read. Pressure (PSI) counts any process that waits, our reading included, so pressure on the disks
counts only where guests' writes do not say more. Pure: knows neither threads nor clocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from vmconsole.model.guest import HostLoad
from vmconsole.model.vitals import Vitals, WriteCounters

WRITES_RATIO: Final = 1.5
WRITES_LEAST: Final = 0.004
"""Seconds below which no write is slow, whatever it was before."""
WRITES_FINE: Final = 1.2
READS_RATIO: Final = 3.0
READS_LEAST: Final = 0.02
ALLOWED: Final = HostLoad(cpu=0.6, io=0.4, memory=0.1)
ADDED: Final = HostLoad(cpu=0.3, io=0.2, memory=0.05)
"""A host that was under pressure before we came may get so much more."""
LOAD_ALLOWED: Final = 1.5
LOAD_ADDED: Final = 0.75
"""As ALLOWED and ADDED, for the load per processor of a kernel without PSI."""
_FEW: Final = 8
"""Writes that tell something together."""
_ALONE: Final = 40
"""Writes of one guest that tell something by themselves."""
_SURE: Final = 100
_IDLE: Final = 1.0
"""Writes per second below which nobody there would notice."""
_PATIENCE: Final = 15.0
"""Seconds to wait for a few writes."""
_PSI_MEMORY: Final = 15.0
"""Seconds after which nothing of what was before is left in a PSI average."""
_FIRST_READS: Final = 10
_DRIFT: Final = 0.02
_NONE: Final = WriteCounters(0, 0.0)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a host since the look before.

    now: seconds, of any clock. vitals: None when it did not answer in time. rate: bytes per second
    that came from it. service: seconds it takes for one request, the queue before it taken out;
    None without requests. held: whether reading was held back meanwhile.
    """

    now: float
    vitals: Vitals | None
    rate: float
    service: float | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Symptom:
    """severity: 1 and above is suffering. lasting: it shows for a while after its cause is gone."""

    severity: float
    reason: str
    lasting: bool = False


class Symptoms:
    """Keeps what is usual for one host, and tells what is not. Not thread-safe."""

    def __init__(self) -> None:
        self._guests: dict[str, _Guest] = {}
        self._reads = {False: _Usual(), True: _Usual()}
        self._load: HostLoad | None = None
        self._quiet_since: float | None = None
        self._fine_until = float("-inf")
        """Until when the last that was seen of guests' writes says that they do not suffer."""
        self._last: float | None = None

    def look(self, sight: Sight) -> list[Symptom]:
        """The worst first. With the first look it is learnt what is usual."""
        quiet = sight.rate == 0 and self._last is not None
        if not quiet:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = self._last
        found = list(self._reading(sight))
        if sight.vitals is None:
            found.append(Symptom(2.0, "it does not answer in time"))
        else:
            writes, disks_matter = self._writing(sight.vitals.writes, sight.now, quiet=quiet)
            found += writes
            found += self._pressure(sight.vitals.load, sight.now, disks_matter=disks_matter)
        self._last = sight.now
        return sorted(found, key=lambda symptom: -symptom.severity)

    def _reading(self, sight: Sight) -> Iterator[Symptom]:
        """Held and free reading each have their own usual time: the depth of the queue differs."""
        if sight.service is None:
            return
        usual = self._reads[sight.held].see(sight.service)
        if usual and sight.service > READS_LEAST:
            ratio = sight.service / usual
            yield Symptom(ratio / READS_RATIO, f"it takes {ratio:.1f} times as long to read from it")

    def _writing(
        self, writes: Mapping[str, WriteCounters], now: float, *, quiet: bool
    ) -> tuple[list[Symptom], bool]:
        """Symptoms, and whether pressure on the disks may be what guests suffer from."""
        expected = took = 0.0
        count, worst, witnesses, idle = 0, 0.0, 0, 0
        for uuid, counters in writes.items():
            guest = self._guests.setdefault(uuid, _Guest())
            seen = guest.see(counters, now, quiet=quiet)
            idle += guest.idle
            usual = guest.usual
            if seen is None or quiet or usual is None:
                continue
            witnesses += 1
            expected += seen.requests * usual
            took += seen.seconds
            count += seen.requests
            if seen.requests >= _ALONE and seen.seconds / seen.requests > WRITES_LEAST:
                worst = max(worst, seen.seconds / seen.requests / usual)
        if count >= _FEW and took / count > WRITES_LEAST:
            worst = max(worst, took / expected)
        if witnesses:
            self._fine_until = now + _PATIENCE * 2 if worst < WRITES_FINE else now
        nobody = bool(writes) and idle == len(writes)
        symptoms = []
        if worst:
            reason = f"its guests' writes take {worst:.1f} times as long"
            symptoms.append(Symptom(worst / WRITES_RATIO, reason))
        return symptoms, now >= self._fine_until and not nobody

    def _pressure(self, load: HostLoad, now: float, *, disks_matter: bool) -> Iterator[Symptom]:
        settled = self._quiet_since is not None and now - self._quiet_since >= _PSI_MEMORY
        if self._load is None or settled:
            self._load = load
        usual = self._load
        if load.io is None and load.cpu is not None:
            allowed = max(LOAD_ALLOWED, (usual.cpu or 0.0) + LOAD_ADDED)
            reason = f"its load is {load.cpu:.1f} per processor"
            yield Symptom(load.cpu / allowed, reason, lasting=True)
            return
        for what, reason in _REASONS.items():
            value = getattr(load, what)
            if value is None or (what == "io" and not disks_matter):
                continue
            allowed = max(getattr(ALLOWED, what), (getattr(usual, what) or 0.0) + getattr(ADDED, what))
            if allowed <= 1:
                yield Symptom(value / allowed, f"{reason} {value * 100:.0f} % of the time", lasting=True)


_REASONS: Final = {
    "io": "it waits for its disks",
    "memory": "it waits for memory",
    "cpu": "programs there wait for a processor",
}


@dataclass(slots=True)
class _Guest:
    """One guest's writes: how long they take while nothing is read, and since the guest was started."""

    life: WriteCounters | None = None
    before: WriteCounters = _NONE
    since: float = 0.0
    quiet_requests: float = 0.0
    quiet_seconds: float = 0.0
    quiet_time: float = 0.0
    idle: bool = False
    """It writes next to nothing, and did not write more before: a guest whose writes hang did."""

    def see(self, counters: WriteCounters, now: float, *, quiet: bool) -> WriteCounters | None:
        """What it wrote since the look before, once these are a few writes."""
        if self.life is None or counters.requests < self.before.requests:
            # The first look, or it was started anew.
            self.life, self.before, self.since = counters, counters, now
            return None
        requests = counters.requests - self.before.requests
        seconds = max(0.0, counters.seconds - self.before.seconds)
        time = max(now - self.since, 1e-3)
        if quiet:
            self._learn(requests, seconds, time)
        self.idle = requests / time < _IDLE and self.quiet_requests <= _IDLE * self.quiet_time
        if not quiet and requests < _FEW and now - self.since < _PATIENCE:
            return None
        self.before, self.since = counters, now
        return WriteCounters(requests, seconds) if requests >= _FEW else None

    @property
    def usual(self) -> float | None:
        """Seconds of a write; None when that is not known."""
        quiet = self.quiet_seconds / self.quiet_requests if self.quiet_requests >= _FEW else 0.0
        if self.quiet_requests >= _SURE and quiet:
            return quiet
        life = self.life
        ever = life.seconds / life.requests if life is not None and life.requests >= _SURE else 0.0
        return max(quiet, ever) or None

    def _learn(self, requests: int, seconds: float, time: float) -> None:
        if self.quiet_requests > 50 * _SURE:
            self.quiet_requests /= 2
            self.quiet_seconds /= 2
            self.quiet_time /= 2
        self.quiet_requests += requests
        self.quiet_time += time
        self.quiet_seconds += seconds


@dataclass(slots=True)
class _Usual:
    """A figure as it was at first; it slowly becomes what it is now, so that nothing is unusual for ever."""

    values: list[float] = field(default_factory=list)
    value: float = 0.0

    def see(self, value: float) -> float:
        """The usual figure; 0 while it is being learnt."""
        if len(self.values) < _FIRST_READS:
            self.values.append(value)
            self.value = sorted(self.values)[len(self.values) // 2]
            return self.value if len(self.values) >= 3 else 0.0
        usual = self.value
        self.value += (value - usual) * _DRIFT
        return usual
