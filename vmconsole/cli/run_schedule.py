"""Back up what is due: `vmconsole --run-schedule`, once, in a loop, or as a forecast."""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta

from vmconsole.cli.fleet import ConfiguredFleet, capacity_of
from vmconsole.cli.output import Output
from vmconsole.cli.schedule_plan import show_plan
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, UsageError
from vmconsole.interfaces import Clock
from vmconsole.model.run import Run, RunState
from vmconsole.schedule.due import next_due
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


def _queue(services: Services, clock: Clock) -> ScheduleQueue:
    config = services.config
    seen = [found for found, _ in services.store.inventories().values()]
    return ScheduleQueue(
        config.groups(),
        config.timezone,
        capacity_of(config, seen),
        ConfiguredFleet(services),
        services.history,
        clock,
    )


def _once(services: Services, output: Output) -> int:
    services.history.note(HEARTBEAT, "once")
    queue = _queue(services, services.clock)
    due = queue.due()
    if not due:
        output.document({"run": None, "due": []})
        output.note(f"Nothing is due.{_next(services)}")
        return EXIT_DONE
    other = _other(services)
    if other is not None:
        output.document({"run": None, "due": [slot.key for slot in due]})
        output.note(f"Run {other.id} is at it already; it takes in what becomes due meanwhile.")
        output.hint(f"Follow it: vmconsole runs {other.id} --follow")
        return EXIT_DONE
    return _carry_out(queue, ", ".join(slot.key for slot in due), services, output)


def _carry_out(queue: ScheduleQueue, subject: str, services: Services, output: Output) -> int:
    with output.events(services) as watcher:
        outcome = services.runner([watcher]).work(queue, KIND, subject)
    for _, error in outcome.errors:
        if error.message not in watcher.told:
            output.error(error)
    if not output.json:
        failed = f", {len(outcome.errors)} failed" if outcome.errors else ""
        output.note(f"{len(outcome.points)} backed up{failed}.{_next(services)}")
        output.note(f"  → Its log: vmconsole runs {outcome.run}")
    return outcome.exit_code


def _loop(services: Services, output: Output) -> int:
    """Until it is stopped; the configuration is read anew each time."""
    while True:
        fresh = services.at(services.config_path)
        try:
            fresh.history.note(HEARTBEAT, "loop")
            queue = _queue(fresh, fresh.clock)
            due = queue.due()
            wait = _LOOP_SECONDS
            if due and _other(fresh) is None:
                _carry_out(queue, ", ".join(slot.key for slot in due), fresh, output)
                wait = _REST_SECONDS
            coming = next_due(fresh.config.groups(), fresh.clock.now(), fresh.config.timezone)
            if coming is not None:
                wait = min(wait, max(1.0, (coming[0] - fresh.clock.now()).total_seconds()))
        finally:
            fresh.close()
        services.cancel.wait(wait)


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
