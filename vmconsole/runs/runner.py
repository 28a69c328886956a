"""One run: its row in the state, its event log, its exit code, and the guests it is made of.

A run is its own process; everybody else follows it through the state. Whatever a guest's backup
raises ends that guest only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from vmconsole.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_WARNINGS,
    VmconsoleError,
)
from vmconsole.events import Event, EventSink, RunFinished, RunStarted, Warned
from vmconsole.interfaces import Cancel, Clock, Context, ExportPlan, History, Ledger, RunStore
from vmconsole.model.point import RestorePoint
from vmconsole.runs.backup import guest_points, with_full_rule
from vmconsole.runs.outcome import Outcome
from vmconsole.runs.paces import Limiting
from vmconsole.runs.shift import Shift
from vmconsole.runs.work import InOrder, Queue, Target


class Runner:
    """Carries out runs. listeners hear every event, besides the state's own log."""

    def __init__(
        self,
        store: RunStore,
        clock: Clock,
        cancel: Cancel,
        listeners: Sequence[EventSink],
        history: History | None = None,
        ledger: Ledger | None = None,
        limiting: Limiting | None = None,
    ) -> None:
        """limiting: what hosts may be asked; None for no limit at all."""
        self._limiting = limiting
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._cancel = cancel
        self._listeners = tuple(listeners)
        self._history = history

    def backup(self, targets: Sequence[Target], subject: str) -> Outcome:
        """Back up the targets one after another. Never raises for a guest's own failure."""
        return self.work(InOrder(targets), "backup", subject)

    def work(self, queue: Queue, kind: str, subject: str) -> Outcome:
        """Back up what the queue hands out, each repository opened once. Never raises for a guest's own failure."""
        with self.run(kind, subject) as (context, outcome):
            Shift(
                queue, self._store, self._history, self._ledger, self._limiting, context, outcome
            ).carry_out()
        return outcome

    @contextmanager
    def run(self, kind: str, subject: str) -> Iterator[tuple[Context, Outcome]]:
        """A run's frame: its row, its log, and what its end means. VmconsoleErrors end up in the outcome."""
        began = self._clock.monotonic()
        row = self._store.start_run(kind, subject)
        outcome = Outcome(row.id)
        context = Context(
            row.id, self._sink(row.id, outcome), self._cancel, self._store.journal(row.id), self._clock
        )
        context.events(RunStarted(row.id, kind, subject))
        crashed = True
        try:
            yield context, outcome
            crashed = False
        except VmconsoleError as error:
            crashed = False
            outcome.errors.append((error.subject or subject, error))
        finally:
            outcome.exit_code = EXIT_INTERNAL if crashed else _exit_code(outcome)
            self._store.release_claims(row.id)
            last = outcome.errors[-1][1].message if outcome.errors else ""
            self._store.finish_run(row.id, outcome.state, last, outcome.exit_code)
            context.events(
                RunFinished(row.id, outcome.state.value, self._clock.monotonic() - began, outcome.exit_code)
            )

    def _sink(self, run: str, outcome: Outcome) -> EventSink:
        listeners = self._listeners
        store = self._store

        def sink(event: Event) -> None:
            with outcome.lock:
                if isinstance(event, Warned):
                    outcome.warnings += 1
                for listener in listeners:
                    listener(event)
            store.add_event(run, event.as_json())

        return sink


def forecast(
    targets: Sequence[Target], context_points: Mapping[str, Sequence[RestorePoint]]
) -> Iterator[tuple[Target, ExportPlan | VmconsoleError]]:
    """What a backup would do, changing nothing: a plan, or the reason there can be none, per target.

    context_points: by repository name, newest first.
    """
    for target in targets:
        try:
            points = guest_points(target.guest.uuid, context_points.get(target.repository.name, ()))
            options = with_full_rule(target.options, points, target.full_every, target.repository.chunk_size)
            yield target, target.hypervisor.plan(target.guest.uuid, target.repository.id(), points, options)
        except VmconsoleError as error:
            yield target, error


def _exit_code(outcome: Outcome) -> int:
    codes = [error.exit_code for _, error in outcome.errors]
    if EXIT_INTERRUPTED in codes:
        return EXIT_INTERRUPTED
    if codes:
        return codes[0] if len(set(codes)) == 1 else EXIT_FAILED
    return EXIT_WARNINGS if outcome.warnings else EXIT_DONE
