"""What is told to people who are not looking, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Tone(Enum):
    INFO = "info"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Message:
    """Plain text: a title of one line, a body of several."""

    title: str
    body: str
    tone: Tone = Tone.INFO


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message, a ping or a metrics file. problem: a sentence without secrets; empty when it worked.

    channel: a channel's name, `ping GROUP`, or `metrics`.
    """

    channel: str
    problem: str = ""
    hint: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem
