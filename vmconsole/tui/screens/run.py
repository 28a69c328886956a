"""One run and its guests on the whole screen, for terminals where they do not fit beside the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from vmconsole.model.run import Run
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.stopping import ask_to_stop, why_not_stop
from vmconsole.tui.follower import Follower
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import bindings
from vmconsole.tui.rundetail import label_of, run_detail
from vmconsole.tui.runrows import RunRow, Watched, run_row
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.pane import Pane


class RunScreen(Screen[None]):
    """Follows the run while it goes on."""

    CONTEXTS: ClassVar = ("all", "run", "runs")
    BINDINGS: ClassVar = bindings("run", "runs")
    AUTO_FOCUS = "Pane"
    CSS = """
    RunScreen #heading { height: auto; max-height: 3; background: $surface; }
    """

    class Followed(Message):
        def __init__(self, watched: Watched) -> None:
            super().__init__()
            self.watched = watched

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, RunScreen.Followed)

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._watched: Watched | None = None
        self._follower: Follower | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="heading", markup=False)
        yield Pane(id="whole")
        yield KeyBar()

    def on_mount(self) -> None:
        self._show()

    def on_screen_resume(self) -> None:
        if self._follower is None:
            self._follower = Follower(console_of(self).services, self._found)
        self._follower.want([self._run])
        self._follower.start()

    def on_screen_suspend(self) -> None:
        if self._follower is not None:
            self._follower.stop()

    def on_unmount(self) -> None:
        self.on_screen_suspend()

    def _found(self, found: Mapping[str, Watched], _: object) -> None:
        if self._run.id in found:
            self.post_message(self.Followed(found[self._run.id]))

    def on_run_screen_followed(self, message: Followed) -> None:
        self._watched = message.watched
        self._run = message.watched.run
        self._show()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    @property
    def _row(self) -> RunRow:
        console = console_of(self)
        known = self._watched or Watched(self._run)
        now = console.services.clock.now()
        return run_row(self._run, known.records, known.following, console.picture.guests, now)

    def _show(self) -> None:
        console, row = console_of(self), self._row
        when = self._run.started.astimezone(console.picture.zone)
        title = Text.assemble(label_of(row.state, row.word, console.glyphs), "  ", end="")
        title.append_text(safe(row.what, "title"))
        title.append(f"\n{when:%Y-%m-%d %H:%M} · {row.took}", "quiet")
        if row.left:
            title.append(f" · {row.left}", "running")
        if row.of:
            title.append(f" · {row.done} of {row.of} guests", "quiet")
        title.append_text(safe(f" · {self._run.id}", "quiet"))
        self.query_one("#heading", Static).update(console.colours.paint(title))
        now = console.services.clock.now()
        detail = run_detail(row, self._watched, console.glyphs, now, self.size.width - 3)
        self.query_one(Pane).show(detail)
        self.query_one(KeyBar).refresh()

    def action_run_log(self) -> None:
        from vmconsole.tui.screens.log import LogScreen

        self.app.push_screen(LogScreen(self._run.id))

    def action_runs_stop(self) -> None:
        known = self._watched or Watched(self._run)
        ask_to_stop(console_of(self), [(self._row, known.following)])

    def why_not(self, action: str) -> str:
        return why_not_stop([self._row]) if action == "runs.stop" else ""

    @property
    def name_to_copy(self) -> str:
        return self._run.id

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("runs", self._run.id)
