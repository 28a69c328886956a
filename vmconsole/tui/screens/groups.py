"""Groups: which guests, when, how long."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar

from rich.text import Text

from vmconsole.front.group_words import keep_in_words, when_in_words
from vmconsole.model.history import BackupState
from vmconsole.model.words import age
from vmconsole.tui.format import safe
from vmconsole.tui.group_rows import GroupRow, group_keeps, group_rows, keep_in_short
from vmconsole.tui.group_text import detail_text, guests_text, why_text
from vmconsole.tui.keymap import bindings
from vmconsole.tui.picture import Picture
from vmconsole.tui.screens.place import Place
from vmconsole.tui.states import State
from vmconsole.tui.widgets.listing import Column, Listing


class Groups(Place[GroupRow]):
    PLACE: ClassVar = "groups"
    CONTEXTS: ClassVar = ("all", "list", "groups")
    BINDINGS: ClassVar = bindings("list", "groups")
    CSS = """
    Groups.-split #detail, Groups.-wide #detail { height: 60%; }
    """

    def make_listing(self) -> Listing[GroupRow]:
        glyphs = self.console_app.glyphs
        columns: list[Column[GroupRow]] = [
            Column(
                "state",
                9,
                lambda row: glyphs.label(row.state, row.word),
                sort=lambda row: _SEVERITY[row.state],
            ),
            Column("group", 10, _name, grow=True, sort=lambda row: row.name),
            Column("safe", 8, _safe, right=True, sort=lambda row: row.safe - len(row.members)),
            Column("when", 18, self._when, grow=True),
            Column("next", 9, self._next, sort=lambda row: row.next_seconds or 1e12),
            Column("last result", 12, self._last, drop=1),
            Column("keeps", 16, _keeps, drop=2),
            Column(
                "repository",
                12,
                _repository,
                drop=3,
                sort=lambda row: row.group.repository if row.group else "",
            ),
            Column("covers", 24, _covers, drop=4, wide=True),
        ]
        return Listing(
            columns,
            lambda row: row.name,
            self._fields,
            lambda row: row.needs_attention,
            empty="No group yet. n makes one.",
        )

    def rows(self, picture: Picture) -> Sequence[GroupRow]:
        return group_rows(picture)

    def heading(self, picture: Picture) -> Text:
        text = Text("Groups", "title", end="")
        if self.console_app.loading:
            return text
        if picture.problem is not None:
            return text.append(" the configuration cannot be used: E opens it", "failed")
        rows = group_rows(picture)
        groups = [row for row in rows if row.group is not None]
        well = sum(not row.needs_attention for row in groups)
        text.append(f" {well} of {len(groups)} well", "ok" if well == len(groups) else "late")
        if paused := sum(row.paused for row in groups):
            text.append(f" · {paused} paused", "paused")
        if lost := [row for row in rows if row.group is None]:
            count = len(lost[0].members)
            text.append(f" · {count} guest{'s' * (count != 1)} in no group", "never")
        return text

    def detail_title(self, row: GroupRow) -> Text:
        count = len(row.members)
        return Text.assemble(
            safe(row.name, "title"), (f" {count} guest{'s' * (count != 1)}, {row.safe} safe", "quiet"), end=""
        )

    def detail(self, row: GroupRow) -> Text:
        return detail_text(row, self.picture, self.console_app.glyphs)

    def note(self, row: GroupRow) -> Text:
        text = why_text(row, self.picture, self.console_app.glyphs)
        if row.group is not None and not row.needs_attention:
            keeps = "; ".join(keep_in_words(item) for item in group_keeps(row.group))
            text.append_text(safe(f"Keeps {keeps}, in {row.group.repository}", "quiet"))
        return text

    def side_title(self, row: GroupRow) -> Text:
        return Text.assemble("Guests of ", safe(row.name, "title"), end="")

    def side(self, row: GroupRow) -> Text:
        return guests_text(row, self.picture, self.console_app.glyphs)

    def log_of(self, row: GroupRow) -> str:
        return row.last.run if row.last else ""

    @property
    def name_to_copy(self) -> str:
        return self.current.name if self.current and self.current.group else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        row = self.current
        if row is None:
            return ()
        return ("group", "show", row.name) if row.group else ("inventory",)

    # --- cells ---

    def _when(self, row: GroupRow) -> Text:
        if row.group is None:
            return safe("never", "never")
        if not row.group.schedules:
            return safe("by hand", "quiet")
        words = [when_in_words(item, self.picture.now, self.picture.zone) for item in row.group.schedules]
        return safe(" + ".join(words), "paused" if row.paused else "")

    def _next(self, row: GroupRow) -> Text:
        if row.state is State.RUNNING:
            return safe("now", "running")
        if row.next_seconds is None:
            return safe("–", "quiet")
        local = datetime.fromtimestamp(row.next_seconds, UTC).astimezone(self.picture.zone)
        days = (local.date() - self.picture.now.astimezone(self.picture.zone).date()).days
        return safe(f"{local:%H:%M}" if days == 0 else f"{local:%a %H:%M}" if days < 7 else f"{local:%d %b}")

    def _last(self, row: GroupRow) -> Text:
        if row.last is None:
            return safe("–", "quiet")
        state = _RESULTS[row.last.state]
        glyph = self.console_app.glyphs.of(state)
        return safe(f"{glyph} {age(self.picture.now - row.last.started)}", state.value)

    def _fields(self, row: GroupRow) -> dict[str, str | float | None]:
        return {
            "name": row.name,
            "state": row.state.value,
            "repository": row.group.repository if row.group else "",
            "guest": " ".join(member.guest.name for member in row.members),
            "when": " ".join(item.text for item in row.group.schedules) if row.group else "",
            "guests": float(len(row.members)),
        }


_RESULTS = {
    BackupState.RUNNING: State.RUNNING,
    BackupState.DONE: State.OK,
    BackupState.WARNINGS: State.WARNING,
    BackupState.FAILED: State.FAILED,
    BackupState.DIED: State.FAILED,
    BackupState.CANCELLED: State.OFF,
    BackupState.POSTPONED: State.QUEUED,
}
_SEVERITY = {state: number for number, state in enumerate(
    (State.FAILED, State.LATE, State.NEVER, State.WARNING, State.RUNNING, State.QUEUED, State.PAUSED, State.OK,
     State.OFF)
)}  # fmt: skip


def _name(row: GroupRow) -> Text:
    return safe(row.name, "strong" if row.group else "late")


def _safe(row: GroupRow) -> Text:
    if not row.members:
        return safe("none", "late")
    if row.group is None:
        return safe(f"0 of {len(row.members)}", "late")
    return safe(f"{row.safe} of {len(row.members)}", "" if row.safe == len(row.members) else "late")


def _keeps(row: GroupRow) -> Text:
    if row.group is None:
        return safe("–", "quiet")
    return safe(" / ".join(keep_in_short(item) for item in group_keeps(row.group)))


def _repository(row: GroupRow) -> Text:
    return safe(row.group.repository if row.group else "–", "quiet")


def _covers(row: GroupRow) -> Text:
    if row.group is None:
        return safe("")
    chosen = row.group.selector
    words = [*chosen.guests, *(f"#{tag}" for tag in chosen.tags), *chosen.hosts, *chosen.pools, *chosen.kinds]
    return safe(", ".join(words), "quiet")


def screen() -> Groups:
    return Groups()
