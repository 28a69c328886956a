"""Writes down what becomes of each guest of a run."""

from __future__ import annotations

from dataclasses import replace

from vmconsole.errors import Cancelled, VmconsoleError
from vmconsole.events import Event, GuestPlanned, PointMade, Warned
from vmconsole.interfaces import Clock, Context, History
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.point import RestorePoint
from vmconsole.runs.work import Target


class Recorder:
    """The record of one attempt at one guest. Call exactly one of made() and failed()."""

    def __init__(self, history: History | None, clock: Clock, target: Target, run: str) -> None:
        self._history = history
        self._clock = clock
        self._warnings: list[Warned] = []
        guest = target.guest
        self._record = BackupRecord(
            0,
            run,
            guest.uuid,
            guest.name,
            guest.host,
            target.repository.name,
            clock.now(),
            group=target.group,
            schedule=target.schedule,
            slot=target.slot,
        )
        if history is not None:
            self._record = replace(self._record, id=history.begin(self._record))

    def listening(self, context: Context) -> Context:
        """The context, with events that go through here."""
        sink = context.events

        def hear(event: Event) -> None:
            if isinstance(event, GuestPlanned):
                self._record = replace(
                    self._record,
                    host=event.host,
                    mode=event.mode,
                    method=event.method,
                    reason=event.reason,
                    bytes_expected=event.bytes_expected,
                )
            elif isinstance(event, Warned):
                self._warnings.append(event)
            elif isinstance(event, PointMade):
                # Before anybody hears of it: whoever dies right after it is not asked to do it again.
                self._end(self._state, archive=event.archive, mode=event.mode, seconds=event.seconds)
            sink(event)

        return replace(context, events=hear)

    def made(self, point: RestorePoint, seconds: float) -> None:
        self._end(
            self._state,
            mode=point.mode.value,
            reason=point.reason,
            consistency=point.consistency.value,
            archive=point.archive,
            bytes_dirty=point.total("bytes_dirty"),
            bytes_read=point.total("bytes_read"),
            bytes_stored=point.total("bytes_stored"),
            seconds=seconds,
            **self._first_warning(),
        )

    def _first_warning(self) -> dict[str, str]:
        if not self._warnings:
            return {}
        first, *others = self._warnings
        more = f" (and {len(others)} more)" if others else ""
        return {"error": first.message + more, "hint": first.hint}

    @property
    def _state(self) -> BackupState:
        return BackupState.WARNINGS if self._warnings else BackupState.DONE

    def failed(self, error: BaseException, *, postponed: bool = False) -> None:
        state = (
            BackupState.CANCELLED if isinstance(error, Cancelled | KeyboardInterrupt) else BackupState.FAILED
        )
        known = error if isinstance(error, VmconsoleError) else VmconsoleError(f"Internal error: {error!r}")
        self._end(
            BackupState.POSTPONED if postponed else state,
            code=known.code,
            error=known.message,
            hint=known.hint,
        )

    def _end(self, state: BackupState, **values: object) -> None:
        self._record = replace(self._record, state=state, ended=self._clock.now(), **values)  # type: ignore[arg-type]
        if self._history is not None:
            self._history.end(self._record)
