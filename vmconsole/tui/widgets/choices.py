"""A few things to choose from: one of them, or any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.geometry import Region
from textual.message import Message
from textual.widget import Widget

from vmconsole.tui.context import console_of
from vmconsole.tui.format import fit, safe


@dataclass(frozen=True, slots=True)
class Option:
    """id: what is chosen. note: what it means, beside it. why_not: why it cannot be chosen now; it is then dim."""

    id: str
    label: str
    note: str = ""
    why_not: str = ""


class Choices(Widget, can_focus=True):
    """The option under the cursor is the chosen one; with several, space ticks. Arrows leave it at its ends."""

    DEFAULT_CSS = "Choices { height: auto; width: 1fr; }"
    BINDINGS: ClassVar = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("home,g", "edge(-1)", show=False),
        Binding("end,G", "edge(1)", show=False),
        Binding("space", "tick", show=False),
    ]

    class Changed(Message):
        """Another option is under the cursor, or another set is ticked."""

        def __init__(self, choices: Choices) -> None:
            super().__init__()
            self.choices = choices

        @property
        def control(self) -> Choices:
            return self.choices

    def __init__(self, *, several: bool = False, label: int = 0, id: str | None = None) -> None:
        """label: columns for the labels; 0 for as many as the longest takes."""
        super().__init__(id=id)
        self.several = several
        self.options: tuple[Option, ...] = ()
        self.ticked: frozenset[str] = frozenset()
        self._label = label
        self._cursor = 0

    @property
    def current(self) -> Option | None:
        return self.options[self._cursor] if self.options else None

    def show(
        self, options: Sequence[Option], chosen: str = "", *, ticked: frozenset[str] | None = None
    ) -> None:
        """Replace the options. chosen: the one for the cursor; otherwise it stays where it was."""
        wanted = chosen or (self.current.id if self.current else "")
        self.options = tuple(options)
        ids = [option.id for option in options]
        self._cursor = ids.index(wanted) if wanted in ids else self._first()
        if ticked is not None:
            self.ticked = ticked
        self.refresh(layout=True)

    def _first(self) -> int:
        return next((index for index, option in enumerate(self.options) if not option.why_not), 0)

    # --- moving ---

    def action_move(self, by: int) -> None:
        wanted = self._cursor + by
        if 0 <= wanted < len(self.options):
            self._go(wanted)
        elif by > 0:
            self.screen.focus_next()
        else:
            self.screen.focus_previous()

    def action_edge(self, side: int) -> None:
        if self.options:
            self._go(0 if side < 0 else len(self.options) - 1)

    def action_tick(self) -> None:
        if self.several and self.current is not None:
            self.ticked ^= {self.current.id}
            self.refresh()
            self.post_message(self.Changed(self))

    def _go(self, index: int) -> None:
        if index == self._cursor:
            return
        self._cursor = index
        self.refresh()
        self._keep_in_sight()
        self.post_message(self.Changed(self))

    def _keep_in_sight(self) -> None:
        around = next((node for node in self.ancestors if isinstance(node, VerticalScroll)), None)
        if around is not None:
            line = Region(0, self.virtual_region.y + self._cursor, 1, 1)
            around.scroll_to_region(line, animate=False, force=True)

    def on_click(self, event: events.Click) -> None:
        if 0 <= event.y < len(self.options):
            self._go(event.y)
            self.action_tick()

    # --- drawing ---

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        return max(1, len(self.options))

    def render(self) -> Text:
        console = console_of(self)
        widest = max((cell_len(safe(option.label).plain) for option in self.options), default=0)
        width = min(self._label or widest, max(8, self.size.width - 6))
        text = Text(end="")
        for index, option in enumerate(self.options):
            line = self._line(option, width, here=index == self._cursor)
            over = "cursor" if index == self._cursor and self.has_focus else ""
            text.append_text(Text.assemble(fit(line, self.size.width), style=over, end=""))
            text.append("\n" if index < len(self.options) - 1 else "")
        return console.colours.paint(text)

    def _line(self, option: Option, width: int, *, here: bool) -> Text:
        dim = bool(option.why_not)
        on = option.id in self.ticked if self.several else here
        ascii_only = console_of(self).glyphs.ascii
        if self.several:
            mark = "[x]" if on else "[ ]"
        elif ascii_only:
            mark = "(*)" if on else "( )"
        else:
            mark = "◉" if on else "○"
        lead = console_of(self).glyphs.cursor if here and self.has_focus else " "
        return Text.assemble(
            (f"{lead} ", "key"),
            (f"{mark} ", "off" if dim else "key" if on else "quiet"),
            fit(safe(option.label, "off" if dim else "strong" if on else ""), width),
            "  ",
            safe(option.note, "off" if dim else "quiet"),
            end="",
        )

    def on_focus(self) -> None:
        self.refresh()
        self._keep_in_sight()

    def on_blur(self) -> None:
        self.refresh()
