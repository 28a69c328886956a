"""Groups as the console lists them: how well their guests are, what was done last, what comes next. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vmconsole.model.group import Group
from vmconsole.model.history import BackupRecord
from vmconsole.model.schedule import Retention
from vmconsole.runs.alerts import unprotected
from vmconsole.tui.picture import GuestRow, Picture, is_paused, next_of
from vmconsole.tui.states import State

UNPROTECTED = "(no group)"
"""The row of the guests that are in no group; no group can be called so."""
_WORST_FIRST = (State.FAILED, State.LATE, State.NEVER, State.WARNING, State.RUNNING, State.QUEUED)
_SHORT = {"last": "", "hourly": "h", "daily": "d", "weekly": "w", "monthly": "m", "yearly": "y"}


@dataclass(frozen=True, slots=True)
class GroupRow:
    """group: None for the guests that no group covers. word: instead of the state's own.

    members: the guests it covers, as far as hosts were seen. last: the newest attempt for the group.
    """

    name: str
    group: Group | None
    state: State
    members: tuple[GuestRow, ...] = ()
    last: BackupRecord | None = None
    next_seconds: float | None = None
    """When its next work may begin, as a timestamp."""
    paused: bool = False
    word: str = ""

    @property
    def safe(self) -> int:
        """How many of its guests are."""
        return sum(not row.needs_attention for row in self.members)

    @property
    def needs_attention(self) -> bool:
        return self.state.needs_attention


def group_rows(picture: Picture) -> tuple[GroupRow, ...]:
    """In the order of the file; at the end the guests that are in no group, when there are any."""
    rows = [_row(group, picture) for group in picture.groups]
    lost = tuple(row for row in picture.guests if not row.groups and unprotected(row.guest, picture.groups))
    if lost:
        rows.append(GroupRow(UNPROTECTED, None, State.NEVER, lost))
    return tuple(rows)


def _row(group: Group, picture: Picture) -> GroupRow:
    members = tuple(row for row in picture.guests if group.name in row.groups)
    coming = next_of(group, picture.now, picture.zone)
    paused = is_paused(group, picture.now)
    tried = [row.last for row in members if row.last and row.last.group == group.name]
    last = max(tried, key=lambda record: record.started, default=None)
    state = worst(members)
    word = ""
    if not members:
        state, word = State.WARNING, "empty"
    elif paused and not state.needs_attention and state is not State.RUNNING:
        state = State.PAUSED
    when = coming.timestamp() if coming else None
    return GroupRow(group.name, group, state, members, last, when, paused, word)


def worst(members: tuple[GuestRow, ...]) -> State:
    """The state of the guest that is worst off."""
    found = {row.state for row in members}
    return next((state for state in _WORST_FIRST if state in found), State.OK)


def keep_in_short(retention: Retention) -> str:
    """`14d 8w 12m`, `last 3 24h`, `all`."""
    if retention.keeps_all:
        return "all"
    counts = [(item.name, getattr(retention, item.name)) for item in fields(retention)]
    return " ".join(
        f"last {count}" if name == "last" else f"{count}{_SHORT[name]}"
        for name, count in counts
        if count and name in _SHORT
    )


def group_keeps(group: Group) -> list[Retention]:
    """What is kept of the points of each schedule, each rule once; the group's own when it has no schedule."""
    return list(dict.fromkeys(schedule.retention for schedule in group.schedules)) or [group.retention]
