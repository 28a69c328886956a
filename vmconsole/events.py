"""What a run says while it works.

Small frozen dataclasses. Printers, the state database and the console all read these and nothing
else; the engine does not know who watches. Sinks must accept events from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """run: the run's id. kind names the event in JSON and in the state database.

    Several guests may have one name. Where a run is about several, events that are about a guest also have its
    uuid; it is left out where it is not known.
    """

    kind: ClassVar[str] = "event"
    run: str

    def as_json(self) -> dict[str, Any]:
        told = {"event": self.kind, **asdict(self)}
        if told.get("uuid") == "":
            del told["uuid"]
        return told


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    kind: ClassVar[str] = "run_started"
    what: str
    subject: str


@dataclass(frozen=True, slots=True)
class GuestPlanned(Event):
    """The forecast: mode and why, bytes expected to be read from the host."""

    kind: ClassVar[str] = "guest_planned"
    guest: str
    host: str
    mode: str
    reason: str
    method: str
    method_reason: str
    bytes_expected: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class StepStarted(Event):
    """A step of ARCHITECTURE.md: inspect, plan, lock, freeze, cut, thaw, read, commit, advance, release …"""

    kind: ClassVar[str] = "step_started"
    guest: str
    step: str
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class StepFinished(Event):
    kind: ClassVar[str] = "step_finished"
    guest: str
    step: str
    seconds: float
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class DiskProgress(Event):
    """done and total in bytes of the disk's own address range that still had to be read."""

    kind: ClassVar[str] = "disk_progress"
    guest: str
    disk: str
    done: int
    total: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The run waits for something it does not hold: a lock, a host job to end."""

    kind: ClassVar[str] = "waiting"
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    kind: ClassVar[str] = "warned"
    subject: str
    message: str
    hint: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Throttled(Event):
    """How fast a host is read has changed, and why. rate: bytes per second, 0 for no limit."""

    kind: ClassVar[str] = "throttled"
    host: str
    rate: int
    reason: str


@dataclass(frozen=True, slots=True)
class GuestPostponed(Event):
    """It cannot be backed up right now, and is tried again. until: ISO 8601, when at the earliest."""

    kind: ClassVar[str] = "guest_postponed"
    guest: str
    message: str
    until: str
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class CutTogether(Event):
    """Several guests were cut at one moment. skew_ms: between the first cut and the last."""

    kind: ClassVar[str] = "cut_together"
    guests: tuple[str, ...]
    skew_ms: float


@dataclass(frozen=True, slots=True)
class PointMade(Event):
    """A restore point was committed."""

    kind: ClassVar[str] = "point_made"
    guest: str
    archive: str
    mode: str
    consistency: str
    seconds: float
    bytes_read: int
    bytes_stored: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class GuestFailed(Event):
    kind: ClassVar[str] = "guest_failed"
    guest: str
    error: str
    message: str
    hint: str
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Restored(Event):
    """target: a file, or `host/guest`."""

    kind: ClassVar[str] = "restored"
    archive: str
    target: str
    bytes_written: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Pruned(Event):
    """Points of a guest that retention does not keep were marked; nothing is deleted yet."""

    kind: ClassVar[str] = "pruned"
    guest: str
    repository: str
    archives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unpruned(Event):
    """Points that had been marked are kept by the rules as they are now, and are back."""

    kind: ClassVar[str] = "unpruned"
    guest: str
    repository: str
    archives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deleted(Event):
    """Points that had been marked were deleted; they cannot be had back."""

    kind: ClassVar[str] = "deleted"
    repository: str
    archives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compacted(Event):
    """The space of what was deleted is free. bytes_freed: about; None when Borg did not say."""

    kind: ClassVar[str] = "compacted"
    repository: str
    bytes_freed: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    kind: ClassVar[str] = "run_finished"
    state: str
    seconds: float
    exit_code: int


GuestEvent = (
    GuestPlanned | StepStarted | StepFinished | DiskProgress | GuestPostponed | PointMade | GuestFailed
)


class EventSink(Protocol):
    """Receives events, from any thread. Must not block for long and must not raise."""

    def __call__(self, event: Event, /) -> None: ...


def about(sink: EventSink, guest: str, uuid: str) -> EventSink:
    """The sink, for events that are about the guest of that name and say nothing of which one it is."""

    def tell(event: Event) -> None:
        if isinstance(event, GuestEvent):
            event = replace(event, uuid=uuid) if event.guest == guest else event
        elif isinstance(event, Warned) and event.subject == guest:
            event = replace(event, uuid=uuid)
        sink(event)

    return tell


@contextmanager
def step(sink: EventSink, run: str, guest: str, name: str) -> Iterator[None]:
    """Say when a step starts and, if it succeeds, how long it took."""
    sink(StepStarted(run, guest, name))
    began = time.monotonic()
    yield
    sink(StepFinished(run, guest, name, time.monotonic() - began))
