"""What was found out from this console, for as long as it runs: the same in every place that shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from vmconsole.tui.host_rows import Checked
from vmconsole.tui.repositories import Answer


@dataclass(slots=True)
class Remembered:
    """checked: what `host check` found, and when, by host. checking: hosts that are being checked.

    answers: what repositories said when they were asked last, and when. asked: since when those that have not
    answered yet are being asked.
    """

    checked: dict[str, Checked] = field(default_factory=dict)
    checking: set[str] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: dict[str, datetime] = field(default_factory=dict)
