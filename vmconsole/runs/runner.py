"""One run: its row in the state, its event log, its guests one after another, its exit code.

A run is its own process; everybody else follows it through the state. Whatever a guest's backup
raises ends that guest only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from vmconsole.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_WARNINGS,
    Cancelled,
    GuestBusy,
    ParentUnusable,
    VmconsoleError,
)
from vmconsole.events import Event, EventSink, GuestFailed, RunFinished, RunStarted, Warned, step
from vmconsole.interfaces import (
    Cancel,
    Clock,
    Context,
    ExportOptions,
    ExportPlan,
    Hypervisor,
    Ledger,
    Repository,
    RepositoryWriter,
    RunStore,
)
from vmconsole.model.guest import Guest
from vmconsole.model.point import RestorePoint
from vmconsole.model.run import RunState
from vmconsole.runs.backup import back_up, guest_points, with_full_rule
from vmconsole.runs.cleanup import clean, dead_entries
from vmconsole.runs.looking import Memory, remember, warn


@dataclass(frozen=True, slots=True)
class Target:
    """One guest to back up, where to, and within which limits."""

    guest: Guest
    hypervisor: Hypervisor
    repository: Repository
    options: ExportOptions = field(default_factory=ExportOptions)
    full_every: int = 30


@dataclass(slots=True)
class Outcome:
    """How a run went. errors: by guest name or subject, in the order they happened."""

    run: str
    points: list[RestorePoint] = field(default_factory=list)
    errors: list[tuple[str, VmconsoleError]] = field(default_factory=list)
    warnings: int = 0
    exit_code: int = EXIT_DONE

    @property
    def state(self) -> RunState:
        if self.exit_code == EXIT_INTERRUPTED:
            return RunState.CANCELLED
        if self.exit_code == EXIT_WARNINGS:
            return RunState.WARNINGS
        return RunState.DONE if self.exit_code == EXIT_DONE else RunState.FAILED


class Runner:
    """Carries out runs. listeners hear every event, besides the state's own log."""

    def __init__(
        self,
        store: RunStore,
        clock: Clock,
        cancel: Cancel,
        listeners: Sequence[EventSink],
        ledger: Ledger | None = None,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._cancel = cancel
        self._listeners = tuple(listeners)

    def backup(self, targets: Sequence[Target], subject: str) -> Outcome:
        """Back up the targets, each repository opened once. Never raises for a guest's own failure."""
        with self.run("backup", subject) as (context, outcome):
            self._clean_up(targets, context)
            by_repository = itertools.groupby(
                sorted(targets, key=lambda target: target.repository.name), lambda target: target.repository
            )
            for repository, group in by_repository:
                guests = list(group)
                try:
                    self._backup_into(repository, guests, context, outcome)
                except Cancelled:
                    raise
                except VmconsoleError as error:
                    self._fail(repository.name, error, context, outcome)
        return outcome

    def _clean_up(self, targets: Sequence[Target], context: Context) -> None:
        """Undo what dead runs left on the targets' hosts: their job, or a late freeze, is in our way."""
        hosts = {target.guest.host: target.hypervisor for target in targets}
        if not any(entry.host in hosts for entry in dead_entries(self._store)):
            return
        with step(context.events, context.run, "", "clean up"):
            for left in clean(self._store, hosts.__getitem__, hosts):
                if not left.done:
                    message = f"What run {left.entry.run} left could not be removed: {left.detail}"
                    hint = "The next backup tries again; or now: vmconsole doctor --clean"
                    context.events(Warned(context.run, left.entry.host, message, hint))

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

    def _backup_into(
        self, repository: Repository, targets: Sequence[Target], context: Context, outcome: Outcome
    ) -> None:
        with repository.writer(context) as writer:
            repository_id = repository.id()
            for target in targets:
                self._cancel.check()
                try:
                    outcome.points.append(self._backup_one(target, repository_id, writer, context))
                except Cancelled:
                    raise
                except VmconsoleError as error:
                    self._fail(target.guest.name, error, context, outcome)
            # Kept for lists that must not wait for the repository.
            with suppress(VmconsoleError):
                if self._ledger is None:
                    self._store.save_points(repository.name, writer.points())
                else:
                    memory = Memory(self._store, self._ledger)
                    warn(remember(repository.name, writer.points(), memory), repository.name, context)

    def _backup_one(
        self, target: Target, repository_id: str, writer: RepositoryWriter, context: Context
    ) -> RestorePoint:
        holder = self._store.claim(f"guest/{target.guest.uuid}", context.run)
        if holder != context.run:
            raise GuestBusy(
                f"{target.guest.name} is already being worked on by run {holder}.",
                hint=f"Follow it with: vmconsole runs {holder} --follow",
                subject=target.guest.name,
            )
        try:
            return self._back_up(target, target.options, repository_id, writer, context)
        except ParentUnusable as error:
            # Never the user's problem at night: what cannot be built upon is read in full.
            context.events(Warned(context.run, target.guest.name, f"{error.message} Everything is read."))
            options = replace(target.options, full_reason="the parent cannot be used")
            return self._back_up(target, options, repository_id, writer, context)

    def _back_up(
        self,
        target: Target,
        options: ExportOptions,
        repository_id: str,
        writer: RepositoryWriter,
        context: Context,
    ) -> RestorePoint:
        return back_up(
            target.guest,
            target.hypervisor,
            target.repository,
            repository_id,
            writer,
            options,
            target.full_every,
            context,
        )

    def _fail(self, name: str, error: VmconsoleError, context: Context, outcome: Outcome) -> None:
        outcome.errors.append((name, error))
        context.events(GuestFailed(context.run, name, error.code, error.message, error.hint))

    def _sink(self, run: str, outcome: Outcome) -> EventSink:
        listeners = self._listeners
        store = self._store

        def sink(event: Event) -> None:
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
