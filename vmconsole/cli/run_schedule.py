"""Back up what is due: `vmconsole --run-schedule`, once, in a loop, or as a forecast."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from vmconsole.cli.housekeeping import compact_due, due_for_compact, prune_touched, troubles_of
from vmconsole.cli.output import Output
from vmconsole.cli.schedule_plan import show_plan
from vmconsole.cli.telling import ping, tell
from vmconsole.errors import EXIT_DONE, Cancelled, UsageError, VmconsoleError
from vmconsole.front.fleet import ConfiguredFleet, capacity_of
from vmconsole.front.services import Services
from vmconsole.interfaces import Clock
from vmconsole.model.ledger import Vanished
from vmconsole.model.message import Delivery
from vmconsole.model.run import Run, RunState
from vmconsole.runs.outcome import Outcome
from vmconsole.schedule.due import Slot, next_due
from vmconsole.schedule.queue import ScheduleQueue

KIND = "schedule"
HEARTBEAT = "scheduler"
_LOOP_SECONDS = 60.0
_REST_SECONDS = 300.0
"""Between two runs of a loop: a host that is out of reach is not asked without end."""


class At:
    """A clock that shows another time."""

    def __init__(self, clock: Clock, moment: datetime) -> None:
        self._clock = clock
        self._ahead = moment - clock.now()

    def now(self) -> datetime:
        return self._clock.now() + self._ahead

    def monotonic(self) -> float:
        return self._clock.monotonic()


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.schedule_at and not args.schedule_plan:
        raise UsageError("--at shows the plan of another time: it needs --dry-run.", hint="Add --dry-run")
    if args.schedule_loop and args.schedule_plan:
        raise UsageError("--loop and --dry-run are of no use together.", hint="Leave one of them out")
    if not any(group.schedules for group in services.config.groups()):
        output.note(
            f'No group in {services.config_path} has a schedule. Give one: when = "daily 22:00"', "yellow"
        )
        if not args.schedule_loop:
            output.document({"run": None, "due": []})
            return EXIT_DONE
    if args.schedule_plan:
        clock = (
            At(services.clock, _moment(args.schedule_at, services)) if args.schedule_at else services.clock
        )
        return show_plan(_queue(services, clock), clock, services, output)
    return _loop(services, output) if args.schedule_loop else _once(services, output)


def _moment(text: str, services: Services) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f'"{text}" is not a time.', hint='Write it as "2026-12-24 22:00"', subject=text
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=services.config.timezone)


def _queue(services: Services, clock: Clock, began: Callable[[Slot], None] | None = None) -> ScheduleQueue:
    config = services.config
    seen = [found for found, _ in services.store.inventories().values()]
    return ScheduleQueue(
        config.groups(),
        config.timezone,
        capacity_of(config, seen),
        ConfiguredFleet(services),
        services.history,
        clock,
        began=began,
    )


def _once(services: Services, output: Output) -> int:
    services.history.note(HEARTBEAT, "once")
    due = _queue(services, services.clock).due()
    other = _other(services)
    if other is not None:
        output.document({"run": None, "due": [slot.key for slot in due]})
        output.note(f"Run {other.id} is at it already; it takes in what becomes due meanwhile.")
        output.hint(f"Follow it: vmconsole runs {other.id} --follow")
        return EXIT_DONE
    if not due and not due_for_compact(services):
        tell(services, output, vanished=_vanished(services))
        output.document({"run": None, "due": []})
        output.note(f"Nothing is due.{_next(services)}")
        return EXIT_DONE
    return _carry_out(due, services, output)


def _carry_out(due: Sequence[Slot], services: Services, output: Output) -> int:
    outcomes: list[Outcome] = []
    pings: list[Delivery] = []
    run: str | None = None
    with output.events(services) as watcher:
        if due:
            subject = ", ".join(slot.key for slot in due)
            queue = _queue(
                services,
                services.clock,
                lambda slot: pings.extend(ping(services, {slot.group.name}, "start")),
            )
            backups = services.runner([watcher]).work(queue, KIND, subject)
            run = backups.run
            outcomes.append(backups)
            pings += _ping_ends(services, run)
        if not services.cancel.is_set():
            records = services.history.of_run(run) if run else ()
            touched = {record.repository for record in records if record.good}
            outcomes += prune_touched(services, watcher, touched)
            outcomes += compact_due(services, watcher)
    for error in (error for outcome in outcomes for _, error in outcome.errors):
        if error.message not in watcher.told:
            output.error(error)
    troubles = troubles_of(outcomes, services.config.repositories)
    tell(services, output, run=run, pings=pings, troubles=troubles, vanished=_vanished(services))
    if not output.json and run:
        failed = sum(not record.good for record in services.history.of_run(run))
        made = len(outcomes[0].points)
        output.note(f"{made} backed up{f', {failed} not' if failed else ''}.{_next(services)}")
        output.note(f"  → Its log: vmconsole runs {run}")
    return next((outcome.exit_code for outcome in outcomes if outcome.exit_code), EXIT_DONE)


def _ping_ends(services: Services, run: str) -> list[Delivery]:
    """Each group by how its own guests fared, the last word on each."""
    newest = {(record.group, record.uuid): record for record in services.history.of_run(run)}
    bad = {group for (group, _), record in newest.items() if not record.good}
    good = {group for group, _ in newest} - bad
    return [*ping(services, good), *ping(services, bad, "fail")]


def _vanished(services: Services) -> list[Vanished]:
    return [item for name in services.config.repositories for item in services.ledger.vanished(name)]


def _loop(services: Services, output: Output) -> int:
    """Until it is stopped; the configuration is read anew each time."""
    while True:
        fresh = services.at(services.config_path)
        try:
            wait = _turn(fresh, output)
        except Cancelled:
            raise
        except VmconsoleError as error:
            # Somebody is editing the configuration, or the disk is full: later is better than never.
            output.error(error)
            wait = _LOOP_SECONDS
        finally:
            fresh.close()
        services.cancel.wait(wait)


def _turn(services: Services, output: Output) -> float:
    """Do what is due. Returns seconds until the next look."""
    services.history.note(HEARTBEAT, "loop")
    due = _queue(services, services.clock).due()
    wait = _LOOP_SECONDS
    if _other(services) is None:
        if due or due_for_compact(services):
            _carry_out(due, services, output)
            wait = _REST_SECONDS
        else:
            tell(services, output, vanished=_vanished(services))
    coming = next_due(services.config.groups(), services.clock.now(), services.config.timezone)
    if coming is None:
        return wait
    return min(wait, max(1.0, (coming[0] - services.clock.now()).total_seconds()))


def _other(services: Services) -> Run | None:
    """The run of another scheduler that is at work."""
    running = (run for run in services.store.runs(200) if run.state is RunState.RUNNING)
    return next((run for run in running if run.kind == KIND), None)


def _next(services: Services) -> str:
    """` Next: daily/main on 2026-11-26 at 22:00.`"""
    zone = services.config.timezone
    now = services.clock.now()
    coming = next_due(services.config.groups(), now + timedelta(seconds=1), zone)
    if coming is None:
        return ""
    time, schedule = coming
    return f" Next: {schedule.group}/{schedule.name} on {time.astimezone(zone):%Y-%m-%d at %H:%M}."
