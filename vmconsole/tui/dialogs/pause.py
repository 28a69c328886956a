"""For how long a group's schedules are paused."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Button

from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import safe

FOR_GOOD = "for good"
_DAYS = {"day": 1, "week": 7}


class PauseFor(Dialog[str]):
    """Answers until when, as a command takes it; FOR_GOOD; None to leave it as it is."""

    BINDINGS: ClassVar = [
        Binding("d", "choose('day')", show=False),
        Binding("w", "choose('week')", show=False),
        Binding("u", "choose('good')", show=False),
        Binding("n", "close", show=False),
        Binding("right", "app.focus_next", show=False),
        Binding("left", "app.focus_previous", show=False),
    ]

    def __init__(self, group: str, guests: int, now: datetime) -> None:
        """now: in the zone of the configuration. guests: how many it covers."""
        super().__init__()
        self._group, self._guests, self._now = group, guests, now

    def heading(self) -> Text:
        return Text.assemble("Pause ", safe(self._group, "title"), end="")

    def content(self) -> ComposeResult:
        count = self._guests
        text = Text(
            f"Nothing of it is backed up by itself meanwhile: {count} guest{'s' * (count != 1)}. "
            "They turn late when the pause is longer than the group allows. b backs up all the same.",
            end="",
        )
        yield self.text(text)
        with Horizontal(classes="buttons"):
            yield Button(Content("Cancel"), id="no")
            yield Button(Content("1 day (d)"), id="day")
            yield Button(Content("1 week (w)"), id="week")
            yield Button(Content("Until I resume (u)"), id="good")

    def on_mount(self) -> None:
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "no":
            self.dismiss(None)
        else:
            self.action_choose(event.button.id or "")

    def action_choose(self, what: str) -> None:
        if what not in _DAYS:
            self.dismiss(FOR_GOOD)
            return
        self.dismiss(f"{self._now + timedelta(days=_DAYS[what]):%Y-%m-%d %H:%M}")
