"""What `vmconsole --run-schedule --dry-run` shows: per guest when it starts, how, why, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from vmconsole.cli.documents import plan_document
from vmconsole.cli.format import duration, size
from vmconsole.cli.output import Cell, Output
from vmconsole.cli.selection import all_points
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, VmconsoleError
from vmconsole.front.fleet import capacity_of
from vmconsole.front.services import Services
from vmconsole.interfaces import Clock, ExportPlan
from vmconsole.runs.runner import forecast
from vmconsole.schedule.due import next_due
from vmconsole.schedule.expect import seconds_for
from vmconsole.schedule.forecast import Forecast, Planned, simulate
from vmconsole.schedule.queue import Scheduled, ScheduleQueue

Outlook = ExportPlan | VmconsoleError


def show_plan(queue: ScheduleQueue, clock: Clock, services: Services, output: Output) -> int:
    due = queue.due()
    if not due:
        output.document({"due": [], "plan": [], "left": [], "next": _next(clock, services)})
        output.note(_nothing(clock, services))
        return EXIT_DONE
    with output.busy("Asking the hosts …"):
        queue.refresh()
    lost = queue.expired()
    plans = _plans(queue.scheduled, services, output)
    zone = services.config.timezone
    items = {item.job.key: _measured(item, plans, services) for item in queue.scheduled}
    seen = [found for found, _ in services.store.inventories().values()]
    jobs = [item.job for item in items.values()]
    outlook = simulate(jobs, capacity_of(services.config, seen), clock.now().astimezone(zone))
    rows, documents, failed = _rows(outlook, items, plans)
    for work, error in lost:
        failed = True
        for target in work.targets:
            documents.append({"guest": target.guest.name, "host": target.guest.host} | error.as_json())
            rows.append(("–", target.guest.name, target.guest.host, "–", "–", "–", (f"✗ {error.message}",)))
    for left in outlook.left:
        rows.append(
            (
                "–",
                left.job.guest,
                left.job.host,
                "–",
                "–",
                "–",
                (f"✗ not before its window closes: {left.why}",),
            )
        )
    output.document(
        {
            "due": [
                {
                    "group": slot.group.name,
                    "schedule": slot.schedule.name,
                    "time": slot.time.astimezone(zone).isoformat(),
                }
                for slot in due
            ],
            "plan": documents,
            "left": [{"guest": left.job.guest, "reason": left.why} for left in outlook.left],
            "end": outlook.end.isoformat() if outlook.end else None,
            "next": _next(clock, services),
        }
    )
    _show(rows, outlook, output)
    return EXIT_FAILED if failed or outlook.left else EXIT_DONE


def _plans(
    items: tuple[Scheduled, ...], services: Services, output: Output
) -> Mapping[tuple[str, str], Outlook]:
    """By (work key, guest uuid)."""
    found: dict[tuple[str, str], Outlook] = {}
    names = {target.repository.name for item in items for target in item.work.targets}
    points = {name: [point for _, point in all_points(services, output, name)] for name in names}
    count = sum(len(item.work.targets) for item in items)
    with output.busy(f"Planning {count} backups …"):
        for item in items:
            for target, plan in forecast(item.work.targets, points):
                found[item.job.key, target.guest.uuid] = plan
    return found


def _measured(item: Scheduled, plans: Mapping[tuple[str, str], Outlook], services: Services) -> Scheduled:
    """The job with what the plans say instead of what earlier runs suggest."""
    amount, seconds = 0, 0.0
    for target in item.work.targets:
        plan = plans[item.job.key, target.guest.uuid]
        if isinstance(plan, ExportPlan):
            amount += plan.bytes_expected
            records = services.history.of_guest(target.guest.uuid, 20)
            seconds = max(seconds, seconds_for(plan.bytes_expected, records))
    return replace(item, job=replace(item.job, bytes=amount, seconds=seconds))


def _rows(
    outlook: Forecast, items: Mapping[str, Scheduled], plans: Mapping[tuple[str, str], Outlook]
) -> tuple[list[tuple[Cell, ...]], list[dict[str, Any]], bool]:
    rows: list[tuple[Cell, ...]] = []
    documents: list[dict[str, Any]] = []
    failed = False
    for planned in outlook.planned:
        item = items[planned.job.key]
        for target in item.work.targets:
            plan = plans[planned.job.key, target.guest.uuid]
            start = f"{planned.start:%H:%M:%S}"
            about = {
                "group": item.slot.group.name,
                "schedule": item.slot.schedule.name,
                "slot": item.slot.time.isoformat(),
                "start": planned.start.isoformat(),
                "end": planned.end.isoformat(),
                "seconds": planned.job.seconds,
                "waits_for": planned.why,
                "late": planned.late,
                "together": len(item.work.targets) > 1,
            }
            if isinstance(plan, VmconsoleError):
                failed = True
                documents.append(
                    {"guest": target.guest.name, "host": target.guest.host} | about | plan.as_json()
                )
                why = [f"✗ {plan.message}", *([f"→ {plan.hint}"] if plan.hint else [])]
                rows.append((start, target.guest.name, target.guest.host, "–", "–", "–", tuple(why)))
                continue
            documents.append(plan_document(plan) | about)
            figures = (plan.mode.value, size(plan.bytes_expected), duration(planned.job.seconds))
            rows.append((start, plan.guest.name, plan.guest.host, *figures, _why(plan, planned, item)))
    return rows, documents, failed


def _why(plan: ExportPlan, planned: Planned, item: Scheduled) -> tuple[str, ...]:
    together = "with the others of its group" if len(item.work.targets) > 1 else ""
    waited = f"it waits: {planned.why}" if planned.why else ""
    reasons = "; ".join(filter(None, (plan.reason, plan.method_reason, waited, together)))
    late = ["! it may not be done when its window closes"] if planned.late else []
    return (*([reasons] if reasons else []), *(f"! {text}" for text in plan.warnings), *late)


def _show(rows: list[tuple[Cell, ...]], outlook: Forecast, output: Output) -> None:
    columns = (
        Column("start"),
        Column("guest", least=16),
        Column("host", drop=1),
        Column("mode"),
        Column("to read", right=True),
        Column("takes", right=True, drop=2),
        Column("why", below=True, least=40),
    )
    output.table(columns, rows)
    if output.json or outlook.end is None:
        return
    amount = sum(planned.job.bytes for planned in outlook.planned)
    most = f"at most {outlook.total.used} at a time"
    output.note(
        f"Nothing was changed. About {size(amount)} would be read, {most}, until {outlook.end:%H:%M:%S}."
    )


def _next(clock: Clock, services: Services) -> dict[str, Any] | None:
    zone = services.config.timezone
    coming = next_due(services.config.groups(), clock.now() + timedelta(seconds=1), zone)
    if coming is None:
        return None
    time, schedule = coming
    return {"group": schedule.group, "schedule": schedule.name, "time": time.astimezone(zone).isoformat()}


def _nothing(clock: Clock, services: Services) -> str:
    coming = _next(clock, services)
    if coming is None:
        return "Nothing is due, and nothing will be."
    time = f"{datetime.fromisoformat(coming['time']):%Y-%m-%d %H:%M}"
    return (
        f"Nothing is due. Next: {coming['group']}/{coming['schedule']} on {time}. "
        f'Its plan: vmconsole --run-schedule --dry-run --at "{time}"'
    )
