"""How a host and its guests are doing while they are backed up."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmconsole.model.guest import HostLoad


@dataclass(frozen=True, slots=True)
class WriteCounters:
    """What the hypervisor counted of a guest's own writes since it was started: how many, and their seconds.

    Flushes count as writes: whoever waits for a write to be safe waits for them.
    """

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """writes: by guest uuid, of those asked for that run and whose hypervisor tells."""

    load: HostLoad
    writes: dict[str, WriteCounters] = field(default_factory=dict)
