"""The work of the schedules that are due: what may start now, what is tried again, and what came too late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from typing import Protocol

from vmconsole.errors import BackupFailed, GuestNotFound, HostUnreachable, VmconsoleError
from vmconsole.interfaces import Clock, History
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest, GuestState, HostInventory
from vmconsole.model.history import BackupRecord
from vmconsole.model.schedule import Schedule
from vmconsole.runs.work import Target, Work
from vmconsole.schedule.due import Slot, due_slots, overdue_after, still_due
from vmconsole.schedule.jobs import Capacity, Job
from vmconsole.schedule.order import Order
from vmconsole.schedule.sizing import job_of

_AGAIN = timedelta(minutes=5)
_MOVED = timedelta(seconds=20)
_PATIENCE = timedelta(hours=2)
"""For a guest that is busy, where there is no window."""
_LOOK = timedelta(seconds=60)
"""Between two looks whether something else became due."""
_LATER = timedelta(days=30)
"""From then on everything that is ever tried again for a slot would be."""
_SLOT = "slot"


class Fleet(Protocol):
    """The hosts and guests, and how each guest is backed up."""

    def look(self) -> list[HostInventory]:
        """Ask all hosts; one that does not answer says so in its entry, with the guests last seen on it."""
        ...

    def target(self, guest: Guest, slot: Slot) -> Target: ...


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A work, what it is for, and its job in the order of work."""

    work: Work
    slot: Slot
    job: Job
    first: datetime
    """When its turn could come for the first time."""


class ScheduleQueue:
    """Implements runs.work.Queue. What becomes due while it is at work is done as well."""

    one_by_one = False

    def __init__(
        self,
        groups: Sequence[Group],
        zone: tzinfo,
        capacity: Capacity,
        fleet: Fleet,
        history: History,
        clock: Clock,
        *,
        began: Callable[[Slot], None] | None = None,
    ) -> None:
        """began: told of each slot once, when its first work is handed out."""
        self._groups = tuple(groups)
        self._zone = zone
        self._fleet = fleet
        self._history = history
        self._clock = clock
        self._began = began
        self._order = Order((), capacity)
        self._open: dict[str, Scheduled] = {}
        self._slots: dict[str, Slot] = {}
        self._covered: dict[str, tuple[Guest, ...]] = {}
        self._told: set[tuple[str, datetime]] = set()
        self._again: set[str] = set()
        self._number = 0
        self._unreachable: list[tuple[Work, VmconsoleError]] = []
        self._looked: datetime | None = None
        self._latest: dict[tuple[str, str], BackupRecord] = {}

    # --- runs.work.Queue -----------------------------------------------------------------------

    def start(self) -> Sequence[Work]:
        now = self._clock.now()
        if self._looked is None or now - self._looked >= _LOOK:
            self.refresh()
        begun = [self._open[job.key] for job in self._order.start(now)]
        if any(item.job.key in self._again for item in begun):
            begun = self._located(begun)
        for item in begun:
            self._again.discard(item.job.key)
            if (item.slot.key, item.slot.time) not in self._told:
                self._told.add((item.slot.key, item.slot.time))
                if self._began is not None:
                    self._began(item.slot)
        return [item.work for item in begun]

    def done(self, work: Work) -> None:
        item = self._open.get(work.key)
        if item is None:
            return
        self._order.finish(item.job)
        if work.key in self._again:
            self._order.add(item.job)
        else:
            del self._open[work.key]

    def again(self, work: Work, error: VmconsoleError) -> datetime | None:
        item = self._open[work.key]
        due = self._clock.now() + (_MOVED if isinstance(error, GuestNotFound) else _AGAIN)
        if due >= (item.slot.closes or item.first + _PATIENCE):
            return None
        self._again.add(work.key)
        self._open[work.key] = replace(item, job=replace(item.job, due=due))
        return due

    def expired(self) -> Sequence[tuple[Work, VmconsoleError]]:
        found, self._unreachable = self._unreachable, []
        for job, why in self._order.take_expired():
            item = self._open.pop(job.key)
            names = ", ".join(target.guest.name for target in item.work.targets)
            error = BackupFailed(
                f"{names} was not backed up: the window of {item.slot.key} closed before its turn came"
                f"{f' ({why})' if why else ''}.",
                hint="Widen the window, let more guests run at the same time (parallel), or spread the schedules. "
                "See the plan: vmconsole --run-schedule --dry-run",
                subject=names,
            )
            found.append((item.work, error))
        return found

    def pause(self) -> float | None:
        now = self._clock.now()
        if not self._open:
            self._close_slots()
            self.refresh()
            if not self._open:
                return None
        change = self._order.next_change()
        if change is None:
            return None
        return max(0.0, min((change - now).total_seconds(), _LOOK.total_seconds()))

    # --- what is due ---------------------------------------------------------------------------

    def due(self) -> list[Slot]:
        """The slots that are due now, without asking any host."""
        now = self._clock.now()
        slots = due_slots(self._groups, now, self._zone, self._followed, self._finished)
        return [slot for slot in slots if slot.opens <= now]

    def refresh(self) -> None:
        """Take in what has become due."""
        self._looked = self._clock.now()
        new = [slot for slot in self.due() if self._slots.get(slot.key) != slot and not self._has(slot)]
        if not new:
            return
        seen = self._fleet.look()
        self._latest = self._history.latest_good()
        for slot in new:
            self._supersede(slot)
            self._slots[slot.key] = slot
            for item in self._scheduled(slot, seen):
                self._open[item.work.key] = item
                self._order.add(item.job)

    def _supersede(self, slot: Slot) -> None:
        """What still waits for an earlier time of the same schedule would do the same work twice."""
        running = {job.key for job in self._order.running}
        for key, item in list(self._open.items()):
            if item.slot.key == slot.key and key not in running:
                self._order.remove(item.job)
                self._again.discard(key)
                del self._open[key]

    @property
    def scheduled(self) -> tuple[Scheduled, ...]:
        """All that waits or is under way."""
        return tuple(self._open.values())

    def _has(self, slot: Slot) -> bool:
        known = self._slots.get(slot.key)
        return known is not None and known.time == slot.time

    def _followed(self, schedule: Schedule) -> datetime:
        return self._history.follow(schedule.group, schedule.name, schedule.rule)

    def _finished(self, schedule: Schedule) -> datetime | None:
        noted = self._history.noted(f"{_SLOT}/{schedule.group}/{schedule.name}")
        return datetime.fromisoformat(noted[0]) if noted else None

    def _close_slots(self) -> None:
        """Write down which slots are wholly done; those with hosts out of reach are not."""
        for key, slot in list(self._slots.items()):
            records = self._history.of_slot(slot.group.name, slot.schedule.name, slot.time)
            guests = self._covered.get(key, ())
            if not still_due(guests, records, (), self._clock.now() + _LATER):
                self._history.note(f"{_SLOT}/{key}", slot.time.isoformat())

    # --- from slots to work --------------------------------------------------------------------

    def _scheduled(self, slot: Slot, seen: Sequence[HostInventory]) -> Iterable[Scheduled]:
        lost = {host.name: host for host in seen if not host.reachable}
        guests = _once_each(guest for host in seen for guest in host.guests if slot.group.selector.why(guest))
        self._covered[slot.key] = tuple(guests)
        records = self._history.of_slot(slot.group.name, slot.schedule.name, slot.time)
        reachable = []
        for guest in still_due(guests, records, lost, self._clock.now()):
            target = self._fleet.target(guest, slot)
            if guest.host in lost:
                self._unreachable.append((Work(self._key(slot), (target,)), _lost(lost[guest.host], guest)))
            else:
                reachable.append(target)
        if slot.group.together and len(reachable) > 1:
            yield self._item(slot, tuple(reachable))
            return
        for target in reachable:
            yield self._item(slot, (target,))

    def _item(self, slot: Slot, targets: tuple[Target, ...]) -> Scheduled:
        key = self._key(slot)
        work = Work(key, targets, slot.group.apart)
        due = max(slot.starts(target.guest) for target in targets)
        job = job_of(
            work,
            due,
            self._history.of_guest,
            deadline=slot.closes,
            overdue=max(self._overdue(target.guest, slot.group) for target in targets),
        )
        return Scheduled(work, slot, job, due)

    def _key(self, slot: Slot) -> str:
        self._number += 1
        return f"{slot.key}#{self._number:06}"

    def _overdue(self, guest: Guest, group: Group) -> float:
        """Seconds past the group's limit; 0 within it, and for a guest that was never backed up."""
        now = self._clock.now()
        limit = overdue_after(group, now, self._zone)
        newest = self._latest.get((guest.uuid, group.name))
        if limit is None or newest is None:
            return 0.0
        return max(0.0, (now - newest.started).total_seconds() - limit)

    def _located(self, begun: Sequence[Scheduled]) -> list[Scheduled]:
        """Those that are tried again, where their guests are now."""
        seen = self._fleet.look()
        now = {guest.uuid: guest for guest in _once_each(guest for host in seen for guest in host.guests)}
        found = []
        for item in begun:
            if item.job.key in self._again:
                targets = tuple(
                    self._fleet.target(now.get(target.guest.uuid, target.guest), item.slot)
                    for target in item.work.targets
                )
                item = replace(item, work=replace(item.work, targets=targets))
                self._open[item.job.key] = item
            found.append(item)
        return found


def _once_each(guests: Iterable[Guest]) -> list[Guest]:
    """A guest that is seen on two hosts is in migration, or was: the one that runs counts."""
    found: dict[str, Guest] = {}
    for guest in guests:
        known = found.get(guest.uuid)
        if known is None or (known.state is not GuestState.RUNNING and guest.state is GuestState.RUNNING):
            found[guest.uuid] = guest
    return list(found.values())


def _lost(host: HostInventory, guest: Guest) -> HostUnreachable:
    hint = host.failure.hint if host.failure else f"Check the host with: vmconsole host check {host.name}"
    return HostUnreachable(f"{guest.name} was not backed up: {host.error}", hint=hint, subject=guest.name)
