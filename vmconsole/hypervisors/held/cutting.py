"""What a guard tells while it freezes a guest, cuts, and thaws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmconsole.errors import VmconsoleError
from vmconsole.hypervisors.held.line import GuardLine
from vmconsole.interfaces import Together

Phase = Callable[[str, float | None], None]
"""Hears `freeze`, `cut` and `thaw` with None when each begins, and with its seconds when it has succeeded."""


@dataclass(frozen=True, slots=True)
class CutReport:
    """frozen: the guest was frozen from before the cut until after it. freeze_ms: how long.

    early: the timer on the host thawed it before the cut was made. pending: a freeze may still be
    in force, or be carried out later by an agent that hangs now. reason: why it was not frozen.
    """

    frozen: bool = False
    freeze_ms: int | None = None
    early: bool = False
    pending: bool = False
    reason: str = ""


class Cutting:
    """Hears what a guard answers to `cut`. together: the guests that are cut at the same moment."""

    def __init__(self, phase: Phase, together: Together | None = None) -> None:
        self.report = CutReport()
        self._phase = phase
        self._together = together
        self._froze = 0.0

    def follow(
        self,
        line: GuardLine,
        seconds: float,
        refused: Callable[[str], VmconsoleError],
        other: Callable[[str, str], None] | None = None,
    ) -> CutReport:
        """To the end. seconds: between two answers. refused: what `failed` and its text mean. other: hears the
        words that are not about freeze, cut, and thaw. Raises NotTogether, what refused returns, HostUnreachable.
        """
        apart: VmconsoleError | None = None
        while True:
            word, rest = line.answer(seconds)
            if word == "ready":
                return self.report
            if word == "failed":
                raise apart or refused(rest)
            if word == "waiting" and self._together is not None:
                apart = self._meet(line.send, self._together)
                continue
            if other is not None:
                other(word, rest)
            self._hear(word, rest)
            if word == "cut" and self._together is not None:
                self._together.cut()

    def _meet(self, send: Callable[[str], None], together: Together) -> VmconsoleError | None:
        """The guard waits, with the guest frozen or not, for the others to be as far; tell it to go on.

        Returns why not: the guard then thaws and answers `failed`.
        """
        try:
            together.frozen(round(self._froze * 1000) if self.report.frozen else None)
        except VmconsoleError as error:
            send("apart")
            return error
        except BaseException:
            # Else the guard would take what is sent to undo it for the answer it waits for.
            send("apart")
            raise
        send("go")
        return None

    def _hear(self, word: str, rest: str) -> None:
        if word == "freezing":
            self._phase("freeze", None)
        elif word == "froze":
            self._froze = _seconds(rest)
            self._phase("freeze", self._froze)
            self.report = CutReport(frozen=True)
        elif word == "unfrozen":
            pending, _, reason = rest.partition(" ")
            self.report = CutReport(
                pending=pending == "yes", reason=reason.strip().removeprefix("error:").strip()
            )
        elif word == "cutting":
            self._phase("cut", None)
        elif word == "cut":
            self._phase("cut", _seconds(rest))
            if self.report.frozen:
                self._phase("thaw", None)
        elif word in ("thawed", "unthawed"):
            self.report = _thawed(word, rest)
            if not self.report.pending:
                self._phase("thaw", max(0.0, _seconds(rest) - self._froze))


def _thawed(word: str, rest: str) -> CutReport:
    milliseconds, _, more = rest.partition(" ")
    total = int(milliseconds) if milliseconds.isdigit() else None
    if word == "unthawed":
        return CutReport(frozen=True, freeze_ms=total, pending=True, reason=more)
    early = more == "yes"
    return CutReport(frozen=not early, freeze_ms=total, early=early)


def _seconds(text: str) -> float:
    digits = text.partition(" ")[0]
    return int(digits) / 1000 if digits.isdigit() else 0.0
