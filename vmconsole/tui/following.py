"""What a run's events say of how far it is. Pure: events in, a picture of the run out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any

from vmconsole.events import (
    DiskProgress,
    Event,
    GuestEvent,
    GuestFailed,
    GuestPlanned,
    GuestPostponed,
    PointMade,
    Restored,
    RunFinished,
    StepFinished,
    StepStarted,
    Throttled,
    Waiting,
    Warned,
)
from vmconsole.front.describe import event_from, held

WINDOW_SECONDS = 20.0
"""Rates are of so long: long enough not to jump, short enough to show that it has become slower."""
STALLED_SECONDS = 10.0

Told = tuple[int, datetime, Mapping[str, Any]]
"""A stored event: (sequence, time, document)."""


class Stage(Enum):
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    POSTPONED = "postponed"
    LEFT = "left"
    """The run ended before it was done with."""


@dataclass(frozen=True, slots=True)
class DiskPart:
    """done, total: bytes. samples: (time, done) of the last WINDOW_SECONDS, oldest first, and one before them."""

    name: str
    done: int
    total: int
    samples: tuple[tuple[datetime, int], ...]
    moved: datetime
    """When done last grew."""

    @property
    def complete(self) -> bool:
        return self.done >= self.total

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total > 0 else 1.0

    def rate(self, now: datetime) -> float | None:
        """Bytes a second; None while it is too early to tell."""
        began, base = self.samples[0]
        seconds = (now - began).total_seconds()
        return None if seconds < 1.0 else max(0, self.done - base) / seconds

    def stalled(self, now: datetime) -> float:
        """For how many seconds nothing came; 0 when that is no cause for worry."""
        idle = (now - self.moved).total_seconds()
        return idle if idle >= STALLED_SECONDS and not self.complete else 0.0

    def moved_to(self, done: int, total: int, when: datetime) -> DiskPart:
        if done < self.done or total != self.total:
            # It began anew: what was read before says nothing about how fast it is now.
            return DiskPart(self.name, done, total, ((when, done),), when)
        samples = (*self.samples, (when, done))
        while len(samples) > 2 and (when - samples[1][0]).total_seconds() >= WINDOW_SECONDS:
            samples = samples[1:]
        return replace(self, done=done, samples=samples, moved=when if done > self.done else self.moved)


@dataclass(frozen=True, slots=True)
class GuestPart:
    """What one guest of a run is at. since: of the step. expected: bytes to read, as planned; None before the plan.

    told: what became of it, in the log's words; hint: the remedy.
    """

    name: str
    since: datetime
    uuid: str = ""
    step: str = ""
    host: str = ""
    mode: str = ""
    reason: str = ""
    expected: int | None = None
    disks: Mapping[str, DiskPart] = field(default_factory=dict)
    stage: Stage = Stage.WORKING
    told: str = ""
    hint: str = ""
    bytes_read: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Several guests may have one name; runs of older versions do not tell their uuids."""
        return self.uuid or self.name

    @property
    def done(self) -> int:
        return sum(disk.done for disk in self.disks.values())

    @property
    def total(self) -> int:
        """Of the disks that have begun; at least what was planned."""
        return max(sum(disk.total for disk in self.disks.values()), self.expected or 0)

    @property
    def moving(self) -> bool:
        """Whether its bytes say more than its step's name."""
        return self.stage is Stage.WORKING and any(not disk.complete for disk in self.disks.values())

    def rate(self, now: datetime) -> float | None:
        rates = [disk.rate(now) for disk in self.disks.values() if not disk.complete]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known else None

    def left(self, now: datetime) -> float | None:
        """Seconds; None when nobody can tell."""
        rate = self.rate(now)
        return max(0, self.total - self.done) / rate if rate else None

    def stalled(self, now: datetime) -> float:
        """Seconds; only when none of its disks moves."""
        waits = [disk.stalled(now) for disk in self.disks.values() if not disk.complete]
        return min(waits, default=0.0)


@dataclass(frozen=True, slots=True)
class Following:
    """A run as its events tell it, up to the event of number `after`.

    guests: by GuestPart.key, in the order they began. held: by host, how fast it may be read and why. waiting: what the
    run waits for, and why.
    """

    after: int = 0
    guests: Mapping[str, GuestPart] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[str, str] | None = None
    warnings: tuple[str, ...] = ()
    """Those that are about no guest."""
    ended: bool = False

    @property
    def working(self) -> list[GuestPart]:
        return [guest for guest in self.guests.values() if guest.stage is Stage.WORKING]

    def label(self, guest: GuestPart) -> str:
        """Its name, with what tells it from others of that name in this run."""
        same = [other for other in self.guests.values() if other.name == guest.name]
        if len(same) == 1 or not guest.uuid:
            return guest.name
        hosts = {other.host for other in same}
        return (
            f"{guest.host}/{guest.name}"
            if len(hosts) == len(same) and all(hosts)
            else f"{guest.name} ({guest.uuid[:8]})"
        )

    def part(self, uuid: str, name: str) -> GuestPart | None:
        return self.guests.get(uuid) or self.guests.get(name)

    @property
    def finished(self) -> int:
        """Guests that are done with, well or not."""
        return sum(guest.stage in (Stage.DONE, Stage.FAILED) for guest in self.guests.values())

    @property
    def made(self) -> int:
        """Guests that were done well."""
        return sum(guest.stage is Stage.DONE for guest in self.guests.values())

    @property
    def bytes_read(self) -> int:
        return sum(
            guest.done if guest.stage is Stage.WORKING else guest.bytes_read for guest in self.guests.values()
        )

    @property
    def warned(self) -> int:
        return len(self.warnings) + sum(len(guest.warnings) for guest in self.guests.values())

    def left(self, now: datetime) -> float | None:
        """Seconds until the guests that are being worked on are read; None when nobody can tell."""
        times = [guest.left(now) for guest in self.working if guest.moving]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None


def follow(so_far: Following, told: Iterable[Told]) -> Following:
    """What is known once these events are told too, in order; those that were told before change nothing."""
    for sequence, when, document in told:
        if sequence <= so_far.after:
            continue
        event = event_from(document)
        so_far = replace(so_far if event is None else _told(so_far, event, when), after=sequence)
    return so_far


def _told(run: Following, event: Event, when: datetime) -> Following:
    match event:
        case GuestPlanned():
            guest = _guest(run, event, when)
            return _with(
                run,
                replace(
                    guest,
                    host=event.host,
                    mode=event.mode,
                    reason=event.reason,
                    expected=max(0, event.bytes_expected),
                ),
            )
        case StepStarted():
            # Whatever the run waited for, it has it now.
            run = replace(run, waiting=None)
            if not event.guest:
                return run
            guest = _guest(run, event, when)
            return _with(run, replace(guest, step=event.step, since=when, stage=Stage.WORKING))
        case StepFinished() if _key(event) in run.guests and event.step == "read":
            return _with(run, _all_read(run.guests[_key(event)]))
        case DiskProgress():
            return _with(run, _moved(_guest(run, event, when), event, when))
        case Waiting():
            return replace(run, waiting=(event.subject, event.reason))
        case Throttled():
            others = {host: why for host, why in run.held.items() if host != event.host}
            return replace(run, held=others | ({event.host: held(event)} if event.rate else {}))
        case PointMade():
            how = replace(
                _guest(run, event, when),
                stage=Stage.DONE,
                mode=event.mode,
                told=event.consistency,
                bytes_read=event.bytes_read,
                bytes_stored=event.bytes_stored,
                seconds=event.seconds,
            )
            return _with(run, how)
        case GuestFailed():
            failed = replace(
                _guest(run, event, when), stage=Stage.FAILED, told=event.message, hint=event.hint
            )
            return _with(run, failed)
        case GuestPostponed():
            later = replace(_guest(run, event, when), stage=Stage.POSTPONED, told=event.message)
            return _with(run, later)
        case Restored():
            return replace(run, guests={key: _restored(guest, event) for key, guest in run.guests.items()})
        case Warned():
            return _warned(run, event)
        case RunFinished():
            ended = replace(run, ended=True, waiting=None, held={})
            last = Stage.DONE if event.state in ("done", "warnings") else Stage.LEFT
            return replace(ended, guests={key: _ended(guest, last) for key, guest in run.guests.items()})
    return run


def _key(event: GuestEvent) -> str:
    return event.uuid or event.guest


def _guest(run: Following, event: GuestEvent, when: datetime) -> GuestPart:
    """As it is; one that was postponed begins anew."""
    known = run.guests.get(_key(event))
    if known is None or known.stage is Stage.POSTPONED:
        return GuestPart(event.guest, when, event.uuid, warnings=known.warnings if known else ())
    return known


def _with(run: Following, guest: GuestPart) -> Following:
    return replace(run, guests={**run.guests, guest.key: guest})


def _moved(guest: GuestPart, event: DiskProgress, when: datetime) -> GuestPart:
    known = guest.disks.get(event.disk)
    done, total = max(0, event.done), max(0, event.total)
    disk = (
        DiskPart(event.disk, done, total, ((when, done),), when)
        if known is None
        else known.moved_to(done, total, when)
    )
    return replace(guest, disks={**guest.disks, event.disk: disk})


def _all_read(guest: GuestPart) -> GuestPart:
    """A disk's last figure may have been thinned out."""
    disks = {name: replace(disk, done=max(disk.done, disk.total)) for name, disk in guest.disks.items()}
    return replace(guest, disks=disks)


def _restored(guest: GuestPart, event: Restored) -> GuestPart:
    """Which guest an archive is of is not told; it is one whose disks are all written."""
    if guest.stage is not Stage.WORKING or not guest.disks or guest.moving:
        return guest
    written, seconds = guest.bytes_read + event.bytes_written, guest.seconds + event.seconds
    return replace(guest, stage=Stage.DONE, told=event.target, bytes_read=written, seconds=seconds)


def _ended(guest: GuestPart, last: Stage) -> GuestPart:
    return replace(guest, stage=last) if guest.stage is Stage.WORKING else guest


def _warned(run: Following, event: Warned) -> Following:
    text = f"{event.message} {event.hint}".strip()
    guest = run.part(event.uuid, event.subject)
    if guest is None:
        about = f"{event.subject}: {text}" if event.subject else text
        return replace(run, warnings=(*run.warnings, about))
    return _with(run, replace(guest, warnings=(*guest.warnings, text)))
