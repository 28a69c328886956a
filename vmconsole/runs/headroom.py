"""How fast a host may be read so that it and its guests do not suffer. Pure: looks come in, rates go out.

Back off at once, from the rate that was really reached; come back step by step, fast as long as it
is below what was too much the last time, slowly above. Never below FLOOR: a backup has to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vmconsole.runs.symptoms import Sight, Symptom, Symptoms

MIB: Final = 1024 * 1024
FLOOR: Final = 2 * MIB
"""Bytes per second."""
BETTER: Final = 0.8
"""Severity below which it is going well. In between nothing changes."""
_LEAST_FACTOR, _MOST_FACTOR = 0.35, 0.8
_STRENGTH: Final = 0.7
_CALM: Final = 2
"""Looks in a row that must be good before each step up."""
_SPARE: Final = 3
"""Looks in a row in which the limit was not used up, before it is lifted."""
_USED: Final = 0.6
_FAST, _SLOW, _BEYOND = 1.5, 1.1, 1.25
"""Steps up: below what was too much, near it, and when that has turned out to be well."""
_KNEE: Final = 0.75
_FORGET: Final = 6
"""Slow steps after which what was too much is so no more."""
_NOTHING: Final = 64 * 1024
"""Bytes per second below which we are not what it suffers from."""
_LASTING: Final = 10.0
"""Seconds that a lasting symptom is given to go away before more is done about it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """rate: bytes per second, 0 for no limit."""

    rate: int
    reason: str


class Headroom:
    """The judge of one host. Not thread-safe. verdict: what holds now."""

    def __init__(self, floor: int = FLOOR) -> None:
        self._floor = floor
        self._symptoms = Symptoms()
        self._calm = self._spare = self._steps = 0
        self._too_much = 0.0
        self._settling = False
        self._backed_off: float | None = None
        self.verdict = Verdict(0, "")

    def observe(self, sight: Sight) -> Verdict:
        symptoms = self._symptoms.look(sight)
        settling, self._settling = self._settling, False
        worst = symptoms[0] if symptoms else None
        if worst is not None and worst.severity >= 1:
            self._calm = self._spare = 0
            serious = next(
                (item for item in symptoms if item.severity >= 1 and self._counts(item, sight)), None
            )
            # What was under way when the limit was set still shows in the look after it.
            if serious is not None and not settling and sight.rate >= _NOTHING:
                self._back_off(serious, sight)
        elif worst is not None and worst.severity >= BETTER:
            self._calm = 0
        elif self.verdict.rate and sight.rate >= _NOTHING:
            self._recover(sight)
        return self.verdict

    def _counts(self, symptom: Symptom, sight: Sight) -> bool:
        recent = self._backed_off is not None and sight.now - self._backed_off < _LASTING
        return not (symptom.lasting and recent)

    def _back_off(self, symptom: Symptom, sight: Sight) -> None:
        reached = min(sight.rate, self.verdict.rate) if self.verdict.rate else sight.rate
        factor = min(_MOST_FACTOR, max(_LEAST_FACTOR, symptom.severity**-_STRENGTH))
        self._too_much, self._steps = reached, 0
        self._settling, self._backed_off = True, sight.now
        rate = max(self._floor, int(reached * factor))
        if self.verdict.rate:
            rate = min(rate, self.verdict.rate)
        self.verdict = Verdict(rate, symptom.reason)

    def _recover(self, sight: Sight) -> None:
        rate = self.verdict.rate
        self._spare = self._spare + 1 if sight.rate < rate * _USED else 0
        if self._spare >= _SPARE:
            self._too_much, self._calm = 0.0, 0
            self.verdict = Verdict(0, "back to full speed")
            return
        self._calm += 1
        if self._calm < _CALM or self._spare:
            return
        self._calm = 0
        factor = _FAST
        if self._too_much and rate * _FAST > self._too_much * _KNEE:
            factor = _SLOW
            self._steps += 1
            if self._steps > _FORGET:
                factor = _BEYOND
        self.verdict = Verdict(int(rate * factor), "it is better, faster again")
