"""Guests that are cut at the same moment: who is ready, who is frozen, and when each was cut.

Nobody is frozen before all are ready to be, nobody is cut before all are frozen, and as soon as one
cannot go on, or the run is cancelled, those that wait hear of it and thaw. Once all are cut the meeting
is over: what becomes of one guest afterwards is its own affair.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from vmconsole.errors import NotTogether, VmconsoleError
from vmconsole.model.cancel import Cancel

READY_SECONDS = 600.0
"""For connecting, planning, and fleecing space of all of them; nobody is frozen meanwhile."""
CUT_SECONDS = 150.0
_LOOK_SECONDS = 0.25
"""How often those that wait look whether the run has been cancelled."""


class _Stage(IntEnum):
    COMING = 0
    READY = 1
    FROZEN = 2
    CUT = 3


@dataclass(slots=True)
class _Member:
    stage: _Stage = _Stage.COMING
    off: bool = False
    at: float = 0.0
    """When it was cut."""


class Rendezvous:
    """names: of the guests, each once. monotonic: seconds. budget: how long a guest may be frozen, waiting
    for the others included. cancel: of the run.
    """

    def __init__(
        self, names: Sequence[str], monotonic: Callable[[], float], budget: float, cancel: Cancel
    ) -> None:
        self._members = {name: _Member() for name in names}
        self._now = monotonic
        self.budget = budget
        self._cancel = cancel
        self._failure: tuple[str, str] | None = None
        self._changed = threading.Condition()

    def member(self, name: str) -> Part:
        return Part(self, name)

    def reach(self, name: str, stage: _Stage, seconds: float, spent: float = 0.0) -> None:
        """Get there, and wait until all others are, or it has failed. spent: of the seconds already."""
        with self._changed:
            member = self._members[name]
            member.stage = max(member.stage, stage)
            self._changed.notify_all()
            deadline = time.monotonic() + seconds - spent
            while not self._over and self._failure is None and not self._all(stage):
                self._check_cancel(name)
                left = deadline - time.monotonic()
                if left <= 0:
                    late = ", ".join(self._behind(stage))
                    word = {_Stage.READY: "ready", _Stage.FROZEN: "frozen"}.get(stage, "cut")
                    self._fail(late, f"was not {word} within {seconds:g} s")
                else:
                    self._changed.wait(min(left, _LOOK_SECONDS))
            if not self._over:
                self._check_cancel(name)
            self._check(name)

    def cut(self, name: str) -> None:
        with self._changed:
            member = self._members[name]
            member.stage, member.at = _Stage.CUT, self._now()
            self._changed.notify_all()

    def off(self, name: str) -> None:
        with self._changed:
            self._members[name].stage, self._members[name].off = _Stage.CUT, True
            self._changed.notify_all()

    def fail(self, name: str, why: str) -> None:
        with self._changed:
            self._fail(name, why)

    def result(self, name: str) -> dict[str, Any]:
        with self._changed:
            if self._members[name].stage < _Stage.CUT:
                self._fail(name, "was read without a cut at that moment")
        self.reach(name, _Stage.CUT, CUT_SECONDS)
        moments = [member.at for member in self._members.values() if not member.off]
        skew = max(moments) - min(moments) if moments else 0.0
        return {"guests": list(self._members), "skew_ms": round(skew * 1000, 1)}

    @property
    def _over(self) -> bool:
        """All were cut at the same moment; that cannot fail any more."""
        return self._failure is None and self._all(_Stage.CUT)

    @property
    def failure(self) -> tuple[str, str] | None:
        """(who could not go on, why)."""
        return self._failure

    def _all(self, stage: _Stage) -> bool:
        return all(member.stage >= stage for member in self._members.values())

    def _behind(self, stage: _Stage) -> list[str]:
        return [name for name, member in self._members.items() if member.stage < stage]

    def _check_cancel(self, name: str) -> None:
        if self._cancel.is_set():
            self._fail(name, "was cancelled")
            self._cancel.check()

    def _fail(self, name: str, why: str) -> None:
        if self._failure is None and not self._over:
            self._failure = (name, why)
        self._changed.notify_all()

    def _check(self, name: str) -> None:
        if self._failure is None:
            return
        who, why = self._failure
        raise NotTogether(
            f"{name} was not backed up together with the others: {who} {why}.",
            hint='Set when_not_together = "apart" for the group, or look at that guest\'s agent.',
            subject=name,
        )


class Part:
    """One guest's part. Implements interfaces.Together."""

    def __init__(self, whole: Rendezvous, name: str) -> None:
        self._whole = whole
        self._name = name

    def ready(self) -> None:
        self._whole.reach(self._name, _Stage.READY, READY_SECONDS)

    def frozen(self, freeze_ms: int | None) -> None:
        if freeze_ms is None:
            self._whole.fail(self._name, "could not be frozen")
        spent = (freeze_ms or 0) / 1000
        self._whole.reach(self._name, _Stage.FROZEN, self._whole.budget, spent)

    def cut(self) -> None:
        self._whole.cut(self._name)

    def off(self) -> None:
        """It does not run, so that it need not be frozen and any moment will do."""
        self._whole.off(self._name)

    def result(self) -> dict[str, Any]:
        """Wait until all are cut: `guests`, `skew_ms`. Raises NotTogether."""
        return self._whole.result(self._name)

    def gave_up(self, error: BaseException) -> None:
        """It ended. Those that wait for it need not, unless all were cut before."""
        message = error.message if isinstance(error, VmconsoleError) else repr(error)
        self._whole.fail(self._name, f"failed: {message.rstrip('.')}")
