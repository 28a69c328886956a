"""Groups: which guests, when, how long."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar

from rich.text import Text

from vmconsole.front.group_words import keep_in_words, when_in_words
from vmconsole.model.history import BackupState
from vmconsole.model.words import age, visible
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.format import safe
from vmconsole.tui.group_rows import GroupRow, group_keeps, group_rows, keep_in_short
from vmconsole.tui.group_text import detail_text, guests_text, removal_text, why_text
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
            empty=_NO_GROUP,
        )

    def rows(self, picture: Picture) -> Sequence[GroupRow]:
        problem = picture.problem
        self.listing.empty = visible(problem.message) if problem else _NO_GROUP
        return group_rows(picture)

    def heading(self, picture: Picture) -> Text:
        text = Text("Groups", "title", end="")
        if self.console_app.loading:
            return text
        if picture.problem is not None:
            return text.append(" the configuration cannot be used: E opens it", "failed")
        if not picture.groups:
            return text.append(" none yet: n makes one", "late")
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

    # --- actions ---

    def why_not(self, action: str) -> str:
        row = self.current
        if self.picture.problem is not None and action in (*_OF_A_GROUP, "groups.new"):
            return "The configuration cannot be used: E opens it."
        if action in _OF_A_GROUP:
            if row is None:
                return "There is no group yet: n makes one."
            if row.group is None:
                return "These guests are in no group: n makes one, a on Guests puts them into one."
            if action == "groups.pause" and not row.group.schedules:
                return "It has no schedule that could be paused: e gives it one."
            if action == "groups.backup" and not row.members:
                return "It covers no guest that is known: e changes which."
        return super().why_not(action)

    @property
    def _chosen(self) -> str:
        return self.current.name if self.current else ""

    def action_groups_backup(self) -> None:
        from vmconsole.tui.dialogs.backup import open_backup

        name = self._chosen
        open_backup(self.console_app, [row for row in self.picture.guests if name in row.groups], name)

    def action_groups_timeline(self) -> None:
        from vmconsole.tui.screens.timeline import Timeline

        self.app.push_screen(Timeline())

    def action_groups_new(self) -> None:
        from vmconsole.tui.screens.group_form import form_for

        config = self.picture.config
        self.app.push_screen(form_for("", {}, list(config.repositories) if config else []))

    def action_groups_edit(self) -> None:
        from vmconsole.tui.screens.group_form import form_for

        config = self.picture.config
        table = self.console_app.services.editor.fields("groups", self._chosen)
        self.app.push_screen(form_for(self._chosen, table, list(config.repositories) if config else []))

    def action_groups_pause(self) -> None:
        row = self.current
        if row is None or row.group is None:
            return
        if row.paused:
            self._ask_resume(row.name)
            return
        from vmconsole.tui.dialogs.pause import PauseFor

        now = self.picture.now.astimezone(self.picture.zone)
        self.app.push_screen(
            PauseFor(row.name, len(row.members), now), lambda until: self._pause(row.name, until)
        )

    def _pause(self, name: str, until: str | None) -> None:
        if until is None:
            return
        for_good = until == "for good"
        said = f"Group {name} is paused {'until p goes on' if for_good else f'until {until}'}."
        self._change(Command(("group", "edit", name, "--pause", *([] if for_good else [until])), said))

    def _ask_resume(self, name: str) -> None:
        own = self.console_app.services.editor.fields("groups", name).get("schedules", {})
        if any(isinstance(table, dict) and table.get("paused") for table in own.values()):
            said = "A schedule is paused by itself: e, then enter on that schedule, ends it."
            self.notify(said, severity="warning")
            return
        text = Text("Its schedules go on: what was missed is caught up at the next chance.", end="")

        def answered(yes: bool | None) -> None:
            if yes:
                self._change(Command(("group", "edit", name, "--resume"), f"Group {name} goes on."))

        self.app.push_screen(Ask(f"Resume {name}?", text, "Resume"), answered)

    def action_groups_remove(self) -> None:
        row = self.current
        if row is None or row.group is None:
            return
        text = removal_text(row)

        def answered(yes: bool | None) -> None:
            if yes:
                self._change(Command(("group", "remove", row.name), f"Group {row.name} was removed."))

        self.app.push_screen(Ask(f"Remove group {row.name}?", text, "Remove", name=row.name), answered)

    def action_groups_editor(self) -> None:
        from vmconsole.tui.editing import edit_file

        edit_file(self.console_app)

    def _change(self, command: Command) -> None:
        self.console_app.carry_out(command, self._changed)

    def _changed(self, _: Ended) -> None:
        self.console_app.services.reread()
        self.console_app.feed.look_now()

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


_NO_GROUP = "No group yet: nothing is backed up by itself. n makes one."
_RESULTS = {
    BackupState.RUNNING: State.RUNNING,
    BackupState.DONE: State.OK,
    BackupState.WARNINGS: State.WARNING,
    BackupState.FAILED: State.FAILED,
    BackupState.DIED: State.FAILED,
    BackupState.CANCELLED: State.OFF,
    BackupState.POSTPONED: State.QUEUED,
}
_OF_A_GROUP = ("groups.backup", "groups.edit", "groups.pause", "groups.remove")
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
