"""Models of hosts whose guests and backups share one disk, for tests of how fast they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmconsole.model.guest import HostLoad
from vmconsole.model.vitals import Vitals, WriteCounters
from vmconsole.runs.headroom import Headroom, Verdict
from vmconsole.runs.symptoms import Sight

MIB = 1 << 20
LOOK = 3.0


@dataclass
class SharedDisk:
    """A queue (M/M/1): the fuller, the longer everybody waits. Rates in bytes per second.

    capacity: of the disk. guest: what the guest writes. demand: what a backup can take in.
    write: seconds of a write on the idle disk. tells: whether guests' writes are counted.
    """

    capacity: float = 200 * MIB
    guest: float = 10 * MIB
    demand: float = 400 * MIB
    write: float = 0.004
    tells: bool = True
    writes_per_second: float = 50.0
    steps: list[float] = field(default_factory=list)
    requests: int = 100
    seconds: float = 0.4
    psi: float = 0.0
    now: float = 0.0

    def use(self, rate: float) -> float:
        return min(0.98, (self.guest + rate) / self.capacity)

    def latency(self, rate: float) -> float:
        return self.write / (1 - self.use(rate))

    def reached(self, limit: int) -> float:
        most = min(self.demand, 0.97 * self.capacity - self.guest)
        return max(0.0, min(limit, most) if limit else most)

    def pass_time(self, limit: int, *, reading: bool = True) -> Sight:
        """One look later."""
        rate = self.reached(limit) if reading else 0.0
        self.now += LOOK
        count = round(self.writes_per_second * LOOK)
        self.requests += count
        self.seconds += count * self.latency(rate)
        # A PSI average: ten seconds' memory.
        self.psi += (self.use(rate) - self.psi) * 0.26
        writes = {"a": WriteCounters(self.requests, self.seconds)} if self.tells else {}
        service = MIB / self.capacity / (1 - self.use(rate)) if rate else None
        return Sight(self.now, Vitals(HostLoad(0.1, self.psi, 0.0), writes), rate, service, bool(limit))


@dataclass
class Trial:
    """A backup from a host. verdicts, rates, latencies: one per look."""

    host: SharedDisk
    headroom: Headroom = field(default_factory=Headroom)
    verdicts: list[Verdict] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def quiet(self, looks: int) -> Trial:
        for _ in range(looks):
            self.headroom.observe(self.host.pass_time(self.headroom.verdict.rate, reading=False))
        return self

    def read(self, looks: int) -> Trial:
        for _ in range(looks):
            sight = self.host.pass_time(self.headroom.verdict.rate)
            self.rates.append(sight.rate)
            self.latencies.append(self.host.latency(sight.rate))
            self.verdicts.append(self.headroom.observe(sight))
        return self
