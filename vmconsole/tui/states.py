"""States as people see them: glyph, word and colour, each enough by itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rich.text import Text


class State(Enum):
    OK = "ok"
    LATE = "late"
    FAILED = "failed"
    RUNNING = "running"
    QUEUED = "queued"
    NEVER = "never"
    PAUSED = "paused"
    WARNING = "warning"
    OFF = "off"
    """Left out on purpose, not there, cancelled: nothing to be done."""

    @property
    def needs_attention(self) -> bool:
        return self in (State.LATE, State.FAILED, State.NEVER, State.WARNING)


_GLYPHS = {
    State.OK: "✓",
    State.LATE: "!",
    State.FAILED: "✗",
    State.RUNNING: "▶",
    State.QUEUED: "…",
    State.NEVER: "–",
    State.PAUSED: "‖",
    State.WARNING: "!",
    State.OFF: "·",
}
_ASCII = {
    State.OK: "OK",
    State.LATE: "LATE",
    State.FAILED: "FAIL",
    State.RUNNING: "RUN",
    State.QUEUED: "WAIT",
    State.NEVER: "NONE",
    State.PAUSED: "PAUSE",
    State.WARNING: "WARN",
    State.OFF: "-",
}
MEANINGS = {
    State.OK: "there is a good restore point, younger than the group allows",
    State.LATE: "the newest good restore point is older than the group allows",
    State.FAILED: "the newest backup failed",
    State.RUNNING: "it is happening now",
    State.QUEUED: "it waits for its turn",
    State.NEVER: "there is no restore point, or no group covers the guest",
    State.PAUSED: "the schedule is paused",
    State.WARNING: "it was done, with a warning",
    State.OFF: "left out on purpose: a template, an exception, something that was stopped",
}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """unicode, or plain ASCII for terminals and fonts without more."""

    ascii: bool = False

    def of(self, state: State) -> str:
        return _ASCII[state] if self.ascii else _GLYPHS[state]

    def label(self, state: State, word: str = "") -> Text:
        """`✓ ok`; in ASCII `OK`. The style's name is the state's."""
        if self.ascii:
            return Text(_ASCII[state] + (f" {word}" if word else ""), state.value, end="")
        return Text(f"{_GLYPHS[state]} {word or state.value}", state.value, end="")

    @property
    def cursor(self) -> str:
        return ">" if self.ascii else "›"

    @property
    def mark(self) -> str:
        return "*" if self.ascii else "●"
