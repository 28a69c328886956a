"""What a scheduled run does besides backups: pruning by the groups' rules, and compacting when it is time."""

from __future__ import annotations

from collections.abc import Iterable

from vmconsole.config.when import parse_when
from vmconsole.errors import VmconsoleError
from vmconsole.events import EventSink
from vmconsole.front.services import Services
from vmconsole.model.calendar import newest_time
from vmconsole.model.message import Delivery
from vmconsole.runs.compact import run_compact
from vmconsole.runs.looking import Memory
from vmconsole.runs.outcome import Outcome
from vmconsole.runs.prune import plan_of, run_prune

_COMPACTED = "compact"


def prune_touched(services: Services, sink: EventSink, names: Iterable[str]) -> list[Outcome]:
    """Hide the points that no rule keeps, in the repositories that have a rule. Nothing is deleted."""
    groups = services.config.groups()
    plan = plan_of(groups, services.store.inventories(), services.config.timezone)
    ruled = {
        group.repository
        for group in groups
        if not group.retention.keeps_all or any(not each.retention.keeps_all for each in group.schedules)
    }
    memory, runner = Memory(services.store, services.ledger), services.runner([sink])
    return [
        run_prune(runner, services.repository(name), plan, memory)[0]
        for name in sorted(ruled.intersection(names))
    ]


def compact_due(services: Services, sink: EventSink) -> list[Outcome]:
    """Delete what was pruned long enough ago, and free its space, in the repositories whose time has come."""
    memory = Memory(services.store, services.ledger)
    outcomes = []
    for name in due_for_compact(services):
        services.cancel.check()
        repository = services.repository(name)
        undo = services.config.repository(name).undo
        outcome, _ = run_compact(services.runner([sink]), repository, undo, memory)
        # Also after a failure, which was told: a repository with a problem is not asked every five minutes.
        services.history.note(f"{_COMPACTED}/{name}", outcome.run)
        outcomes.append(outcome)
    return outcomes


def due_for_compact(services: Services) -> list[str]:
    """A repository that is new here waits for the next time of its rule."""
    now, zone = services.clock.now(), services.config.timezone
    found = []
    for name, settings in services.config.repositories.items():
        if settings.compact is None:
            continue
        noted = services.history.noted(f"{_COMPACTED}/{name}")
        if noted is None:
            services.history.note(f"{_COMPACTED}/{name}", "")
            continue
        time = newest_time(parse_when(settings.compact), now, zone)
        if time is not None and noted[1] < time:
            found.append(name)
    return found


def troubles_of(outcomes: Iterable[Outcome], repositories: Iterable[str]) -> list[Delivery]:
    """What went wrong with repositories, for the alerts."""
    names = set(repositories)
    return [_trouble(name, error) for outcome in outcomes for name, error in outcome.errors if name in names]


def _trouble(name: str, error: VmconsoleError) -> Delivery:
    return Delivery(name, error.message, error.hint)
