"""Carries out a queue: several guests at a time, each in a thread of its own, into repositories opened once."""

from __future__ import annotations

import queue as queues
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace

from vmconsole.errors import Cancelled, GuestBusy, GuestNotFound, NotTogether, ParentUnusable, VmconsoleError
from vmconsole.events import CutTogether, EventSink, GuestFailed, GuestPostponed, Warned, about
from vmconsole.interfaces import Context, History, Ledger, RepositoryWriter, RunStore
from vmconsole.model.point import RestorePoint, iso
from vmconsole.runs.backup import back_up
from vmconsole.runs.cleanup import Broom
from vmconsole.runs.outcome import Outcome
from vmconsole.runs.paces import Limiting, Paces
from vmconsole.runs.recording import Recorder
from vmconsole.runs.together import Part, Rendezvous
from vmconsole.runs.work import Queue, Target, Work
from vmconsole.runs.writers import Writers

_LOOK_SECONDS = 0.5
_PASSING = (GuestBusy, GuestNotFound)
"""What may be over in a while: in migration, locked, held by another job; moved to another host just now."""


@dataclass(frozen=True, slots=True)
class _Failure:
    target: Target
    recorder: Recorder
    error: VmconsoleError


def _unique(target: Target, others: Sequence[Target]) -> str:
    name = target.guest.name
    same = [other for other in others if other.guest.name == name]
    return name if len(same) == 1 else f"{name} ({target.guest.uuid[:8]})"


class Shift:
    """One queue, carried out once. Ends when the queue has nothing left."""

    def __init__(
        self,
        queue: Queue,
        store: RunStore,
        history: History | None,
        ledger: Ledger | None,
        limiting: Limiting | None,
        context: Context,
        outcome: Outcome,
    ) -> None:
        self._queue = queue
        self._store = store
        self._history = history
        self._context = context
        self._outcome = outcome
        self._writers = Writers(context, store, ledger)
        self._ended: queues.Queue[tuple[Work, Sequence[_Failure] | BaseException]] = queues.Queue()
        self._running: dict[str, threading.Thread] = {}
        self._told: set[str] = set()
        self._broom = Broom(store, context)
        self._paces = Paces(limiting, store, context)

    def carry_out(self) -> None:
        """Raises Cancelled when the run was stopped, after all that was under way has been undone."""
        with ExitStack() as stack:
            stack.callback(self._leave)
            stack.callback(self._stop)
            self._loop()
            self._context.cancel.check()

    def _loop(self) -> None:
        cancel = self._context.cancel
        while True:
            begun = () if cancel.is_set() else self._queue.start()
            for work in begun:
                self._begin(work)
            for work, error in self._queue.expired():
                self._settle(work, [self._not_begun(target, error) for target in work.targets], final=True)
            if self._running:
                self._reap()
                # What has ended makes place for what waits.
                continue
            if begun:
                continue
            pause = None if cancel.is_set() else self._queue.pause()
            if pause is None:
                return
            if pause > 0:
                # Whoever else wants to write has hours in which to do it.
                self._paces.close()
                self._writers.close()
                cancel.wait(pause)

    def _begin(self, work: Work) -> None:
        if self._queue.one_by_one:
            # In this thread, so that an interrupt ends it where it is.
            try:
                self._settle(work, self._carry(work))
            finally:
                self._queue.done(work)
            return
        thread = threading.Thread(target=self._in_thread, args=(work,), name=f"backup-{work.key}")
        self._running[work.key] = thread
        thread.start()

    def _in_thread(self, work: Work) -> None:
        try:
            self._ended.put((work, self._carry(work)))
        except BaseException as caught:  # noqa: BLE001 - it is raised again in the run's thread
            self._ended.put((work, caught))

    def _reap(self) -> None:
        """Take in what has ended, waiting for a while when nothing has. The queue is this thread's alone."""
        try:
            work, end = self._ended.get(timeout=_LOOK_SECONDS)
        except queues.Empty:
            return
        self._running.pop(work.key).join()
        try:
            if not isinstance(end, BaseException):
                self._settle(work, end)
            elif not isinstance(end, Cancelled):
                raise end
        finally:
            self._queue.done(work)

    def _stop(self) -> None:
        """Nothing of this run goes on behind its end; what is still under way undoes itself."""
        if self._running:
            self._context.cancel.set("The run has ended.")
        for thread in self._running.values():
            thread.join()
        while not self._ended.empty():
            work, end = self._ended.get()
            if not isinstance(end, BaseException):
                self._settle(work, end, final=True)

    def _leave(self) -> None:
        self._paces.close()
        self._writers.close()

    def _carry(self, work: Work) -> list[_Failure]:
        """What of it failed. Raises Cancelled, and what is not a VmconsoleError."""
        alone = len(work.targets) == 1
        failures = [self._attempt(work.targets[0])] if alone else self._attempt_together(work)
        return [failure for failure in failures if failure is not None]

    def _attempt_together(self, work: Work) -> list[_Failure | None]:
        """All at the same moment, else none of them; or each by itself, when the group says so."""
        budget = min(target.options.freeze_budget for target in work.targets)
        names = [_unique(target, work.targets) for target in work.targets]
        meeting = Rendezvous(names, self._context.clock.monotonic, budget, self._context.cancel)
        parts = [meeting.member(name) for name in names]
        failures = self._all_at_once(work.targets, parts)
        if meeting.failure is None:
            skew = float(parts[0].result()["skew_ms"])
            self._context.events(CutTogether(self._context.run, tuple(names), skew))
            failures = [self._in_full(failure) for failure in failures]
        elif work.apart and all(failure is not None for failure in failures):
            self._context.cancel.check()
            who, why = meeting.failure
            message = f"The guests were not cut together: {who} {why}. Each is backed up by itself."
            self._context.events(Warned(self._context.run, who, message))
            for failure in failures:
                if failure is not None:
                    failure.recorder.failed(failure.error, postponed=True)
            failures = [self._attempt(target) for target in work.targets]
        return failures

    def _all_at_once(self, targets: Sequence[Target], parts: Sequence[Part]) -> list[_Failure | None]:
        """Each in a thread of its own. Raises what one of them raised, when all have ended."""
        with ThreadPoolExecutor(len(parts), thread_name_prefix="together") as threads:
            try:
                tasks = [
                    threads.submit(self._take_part, target, part)
                    for target, part in zip(targets, parts, strict=True)
                ]
                wait(tasks)
            except BaseException:
                # An interrupt, or no thread to be had: whoever has begun must not wait for the rest.
                self._context.cancel.set("The run has ended.")
                raise
        raised = [error for task in tasks if (error := task.exception()) is not None]
        if raised:
            for task in tasks:
                if task.exception() is None and (failure := task.result()) is not None:
                    failure.recorder.failed(failure.error)
            raise next((error for error in raised if not isinstance(error, Cancelled)), raised[0])
        return [task.result() for task in tasks]

    def _take_part(self, target: Target, part: Part) -> _Failure | None:
        """However it ends, those that wait for it hear of it."""
        try:
            failure = self._attempt(target, part)
        except BaseException as error:
            part.gave_up(error)
            raise
        if failure is not None:
            part.gave_up(failure.error)
        return failure

    def _in_full(self, failure: _Failure | None) -> _Failure | None:
        """All were cut, and one of them cannot be built upon its parent: it alone is read once more."""
        if failure is None or not isinstance(failure.error, ParentUnusable):
            return failure
        failure.recorder.failed(failure.error, postponed=True)
        return self._attempt(self._whole(failure.target, failure.error, self._context))

    def _whole(self, target: Target, error: ParentUnusable, context: Context) -> Target:
        """Never the user's problem at night: what cannot be built upon is read in full."""
        message = f"{error.message} Everything is read."
        context.events(Warned(context.run, target.guest.name, message))
        options = replace(target.options, full_reason="the parent cannot be used")
        return replace(target, options=options)

    def _not_begun(self, target: Target, error: VmconsoleError) -> _Failure:
        recorder = Recorder(self._history, self._context.clock, target, self._context.run)
        return _Failure(target, recorder, error)

    def _settle(self, work: Work, failures: Sequence[_Failure], *, final: bool = False) -> None:
        """What could not be done now is tried again later, or told. final: told in any case."""
        passing = [failure.error for failure in failures if isinstance(failure.error, _PASSING) and not final]
        until = self._queue.again(work, passing[0]) if passing else None
        for failure in failures:
            failure.recorder.failed(failure.error, postponed=until is not None)
            if until is None:
                self._fail(failure.target, failure.error)
            elif not isinstance(failure.error, NotTogether):
                name = failure.target.guest.name
                message = failure.error.message
                self._about(failure.target)(GuestPostponed(self._context.run, name, message, iso(until)))

    def _attempt(self, target: Target, part: Part | None = None) -> _Failure | None:
        """Back up one guest. Raises Cancelled, and what is not a VmconsoleError."""
        context = replace(self._context, events=self._about(target), together=part)
        recorder = Recorder(self._history, context.clock, target, context.run)
        began = context.clock.monotonic()
        try:
            context = replace(context, pace=self._paces.of(target))
            self._broom.sweep(target.guest.host, target.hypervisor)
            writer, repository_id = self._writers.get(target.repository)
            point = self._claimed(target, repository_id, writer, recorder.listening(context))
        except BaseException as error:
            if isinstance(error, VmconsoleError) and not isinstance(error, Cancelled):
                return _Failure(target, recorder, error)
            recorder.failed(error)
            raise
        recorder.made(point, context.clock.monotonic() - began)
        with self._outcome.lock:
            self._outcome.points.append(point)
        return None

    def _about(self, target: Target) -> EventSink:
        return about(self._context.events, target.guest.name, target.guest.uuid)

    def _claimed(
        self, target: Target, repository_id: str, writer: RepositoryWriter, context: Context
    ) -> RestorePoint:
        context.cancel.check()
        key = f"guest/{target.guest.uuid}"
        holder = self._store.claim(key, context.run)
        if holder != context.run:
            raise GuestBusy(
                f"{target.guest.name} is already being worked on by run {holder}.",
                hint=f"Follow it with: vmconsole runs {holder} --follow",
                subject=target.guest.name,
            )
        try:
            return back_up(target, repository_id, writer, context)
        except ParentUnusable as error:
            if context.together is not None:
                raise
            return back_up(self._whole(target, error, context), repository_id, writer, context)
        finally:
            self._store.release_claim(key, context.run)

    def _fail(self, target: Target, error: VmconsoleError) -> None:
        """Told once for a repository that cannot be opened, however many guests it is for."""
        name = target.guest.name
        if self._writers.broken(target.repository.name) is error:
            name = target.repository.name
            with self._outcome.lock:
                if name in self._told:
                    return
                self._told.add(name)
        with self._outcome.lock:
            self._outcome.errors.append((name, error))
        self._about(target)(GuestFailed(self._context.run, name, error.code, error.message, error.hint))
