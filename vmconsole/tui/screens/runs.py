"""Runs: what goes on, how long it still takes, and how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual.message import Message

from vmconsole.model.run import RunState
from vmconsole.model.words import size
from vmconsole.tui.dialogs.stopping import ask_to_stop, why_not_stop
from vmconsole.tui.follower import Follower
from vmconsole.tui.following import Following
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.keymap import bindings
from vmconsole.tui.logtext import tail_text
from vmconsole.tui.picture import Picture
from vmconsole.tui.rundetail import label_of, run_detail, working_lines
from vmconsole.tui.runrows import RunRow, Watched, run_rows, started
from vmconsole.tui.screens.place import Place
from vmconsole.tui.states import State
from vmconsole.tui.widgets.listing import Column, Listing
from vmconsole.tui.widgets.pane import Pane

_TAIL = 200
_SIDE_PERCENT = 38
_FRAME = 6
"""Columns that border, padding and scrollbar of a pane take."""


class Runs(Place[RunRow]):
    PLACE: ClassVar = "runs"
    CONTEXTS: ClassVar = ("all", "list", "runs")
    BINDINGS: ClassVar = bindings("list", "runs")
    CSS = f"""
    Runs #detail {{ height: 45%; min-height: 7; }}
    Runs #note {{ height: auto; min-height: 2; max-height: 6; }}
    Runs #side {{ width: {_SIDE_PERCENT}%; }}
    """

    class Followed(Message):
        """By run id: what is known of the runs that go on and of the one under the cursor, and rows of the others."""

        def __init__(self, watched: Mapping[str, Watched], ended: Mapping[str, RunRow]) -> None:
            super().__init__()
            self.watched, self.ended = watched, ended

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, Runs.Followed)

    def __init__(self) -> None:
        super().__init__()
        self.watched: Mapping[str, Watched] = {}
        self._ended: Mapping[str, RunRow] = {}
        self._follower: Follower | None = None
        self._left: datetime | None = None

    # --- following ---

    def on_screen_resume(self) -> None:
        if self._follower is None:
            self._follower = Follower(
                self.console_app.services, lambda found, ended: self.post_message(self.Followed(found, ended))
            )
        self._want()
        self._follower.start()
        self.call_after_refresh(self._go_to_new)

    def _go_to_new(self) -> None:
        """Whoever comes back after something was begun wants to see that."""
        running = self.picture.running
        if self._left is not None and running and running[0].started > self._left:
            self.listing.move_to(running[0].id)

    def on_screen_suspend(self) -> None:
        self._left = self._now
        if self._follower is not None:
            self._follower.stop()

    def on_unmount(self) -> None:
        self.on_screen_suspend()

    def on_runs_followed(self, message: Followed) -> None:
        self.watched, self._ended = message.watched, message.ended
        if self.held_still:
            return
        self.listing.change(self.rows(self.picture))
        self.show_row()

    def show_row(self) -> None:
        self._want()
        super().show_row()
        side = self.query_one("#side", Pane)
        if side.display and not side.has_focus:
            self.call_after_refresh(side.scroll_end, animate=False)

    def _want(self) -> None:
        if self._follower is not None:
            current = [self.current.run] if self.current else []
            running = self.picture.running
            wanted = [*running, *(run for run in current if run not in running)]
            self._follower.want(wanted, self.picture.runs)

    @property
    def _now(self) -> datetime:
        return self.console_app.services.clock.now()

    # --- the place ---

    def make_listing(self) -> Listing[RunRow]:
        glyphs = self.console_app.glyphs
        columns: list[Column[RunRow]] = [
            Column("state", 10, lambda row: label_of(row.state, row.word, glyphs), sort=lambda row: row.word),
            Column("run", 16, lambda row: safe(row.what), grow=True, sort=lambda row: row.what),
            Column("started", 11, self._started, sort=lambda row: row.run.started.timestamp()),
            Column("took", 11, _took, right=True, drop=1),
            Column("guests", 7, _guests, right=True, drop=2, sort=lambda row: row.of),
            Column("read", 8, _read, right=True, drop=3, sort=lambda row: row.read),
            Column("how it goes", 34, self._told, grow=True, drop=4),
            Column("id", 20, lambda row: safe(row.run.id, "quiet"), wide=True, drop=5),
        ]
        return Listing(
            columns,
            lambda row: row.key,
            self._fields,
            lambda row: row.needs_attention,
            empty="Nothing has run yet. b on a guest backs it up now.",
        )

    def rows(self, picture: Picture) -> Sequence[RunRow]:
        return run_rows(picture, self.watched, self._ended, self._now)

    def heading(self, picture: Picture) -> Text:
        text = Text("Runs ", "title", end="")
        if self.console_app.loading:
            return text
        running = len(picture.running)
        text.append(f"{running} running" if running else "none running", "running" if running else "quiet")
        ended = [run for run in picture.runs if run.state is not RunState.RUNNING]
        bad = sum(run.state in (RunState.FAILED, RunState.DIED) for run in ended)
        if ended:
            text.append(f" · of the last {len(ended)} ", "quiet")
            text.append(f"{bad} failed" if bad else "none failed", "failed" if bad else "ok")
        return text

    def detail_title(self, row: RunRow) -> Text:
        when = row.run.started.astimezone(self.picture.zone)
        text = Text.assemble(safe(row.what, "title"), end="")
        text.append(f" {when:%Y-%m-%d %H:%M} · ", "quiet").append_text(safe(row.word, row.state.value))
        text.append(f" · {row.took}", "quiet")
        if row.left:
            text.append(f" · {row.left}", "running")
        if row.of:
            text.append(f" · {row.done} of {row.of} guests", "quiet")
        if row.read:
            text.append(f" · read {size(row.read)}", "quiet")
        return text

    def detail(self, row: RunRow) -> Text:
        return run_detail(
            row, self.watched.get(row.key), self.console_app.glyphs, self._now, self._detail_width
        )

    @property
    def _detail_width(self) -> int:
        """Columns. From the screen's: the pane itself does not know its own before it was drawn."""
        width = self.size.width
        return width * (100 - _SIDE_PERCENT) // 100 - _FRAME if self.has_class("-wide") else width - _FRAME

    def note(self, row: RunRow) -> Text:
        if not row.running:
            return safe_lines(row.told or row.what, "" if row.needs_attention else "quiet")
        glyphs = self.console_app.glyphs
        text = working_lines(row, self._following(row), glyphs, self._now, self.size.width - 3)
        if row.waits:
            text.append_text(glyphs.label(State.QUEUED, f"{len(row.waits)} to come"))
        text.rstrip()
        return text

    def side(self, row: RunRow) -> Text:
        watched = self.watched.get(row.key)
        if watched is None:
            return Text(end="")
        ascii_only = self.console_app.glyphs.ascii
        return tail_text(watched.tail, self.picture.zone, _TAIL, ascii_only=ascii_only)

    def side_title(self, row: RunRow) -> Text:
        return Text.assemble(("Log ", "title"), safe(row.run.id, "quiet"), end="")

    def log_of(self, row: RunRow) -> str:
        return row.run.id

    # --- actions ---

    def action_open(self) -> None:
        """What is not seen beside the list: the detail on a narrow terminal, else the log."""
        row = self.current
        if row is None:
            return
        if not self.query_one("#detail").display:
            from vmconsole.tui.screens.run import RunScreen

            self.app.push_screen(RunScreen(row.run))
        else:
            self.action_log()

    def action_runs_stop(self) -> None:
        rows = [row for row in self.listing.chosen if row.running]
        ask_to_stop(self.console_app, [(row, self._following(row)) for row in rows])

    def why_not(self, action: str) -> str:
        if action == "runs.stop":
            return why_not_stop(self.listing.chosen)
        return super().why_not(action)

    @property
    def name_to_copy(self) -> str:
        return self.current.run.id if self.current else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        if self.current is None:
            return ()
        return ("runs", self.current.run.id, *(["--follow"] if self.current.running else []))

    # --- cells ---

    def _following(self, row: RunRow) -> Following:
        known = self.watched.get(row.key)
        return known.following if known else Following()

    def _started(self, row: RunRow) -> Text:
        return safe(started(row.run.started, self.picture.now, self.picture.zone))

    def _told(self, row: RunRow) -> Text:
        if row.running:
            return safe(row.told, "running")
        return safe(" ".join(row.told.split()), "" if row.needs_attention else "quiet")

    def _fields(self, row: RunRow) -> dict[str, str | float | None]:
        run = row.run
        return {
            "name": run.subject, "kind": run.kind, "state": row.word, "id": run.id, "guest": row.names,
            "error": run.error, "age": (self.picture.now - run.started).total_seconds(), "read": row.read,
        }  # fmt: skip


def _took(row: RunRow) -> Text:
    return safe(row.left, "running") if row.left else safe(row.took, "" if row.running else "quiet")


def _guests(row: RunRow) -> Text:
    if not row.of:
        return safe("–", "quiet")
    return safe(f"{row.done}/{row.of}" if row.running or row.done != row.of else str(row.of))


def _read(row: RunRow) -> Text:
    return safe(size(row.read) if row.read else "–", "" if row.read else "quiet")


def screen() -> Runs:
    return Runs()
