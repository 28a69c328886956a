"""What the six places have in common: a list, the detail of the row under the cursor, filter, marks, layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Input, Static

from vmconsole.tui.app import Console, Pictured
from vmconsole.tui.context import console_of
from vmconsole.tui.picture import Picture
from vmconsole.tui.widgets.bars import KeyBar, TopBar
from vmconsole.tui.widgets.listing import Listing
from vmconsole.tui.widgets.pane import Pane

R = TypeVar("R")


class Place(Screen[None], Pictured, Generic[R]):
    """A place: subclasses say what the rows are, and have the actions.

    Below 100 columns the list alone, with a note on the row under it; from 100 list and detail; from 140 a third
    pane. A subclass sets PLACE and CONTEXTS, and BINDINGS = bindings(*CONTEXTS[1:]).
    """

    PLACE: ClassVar[str] = ""
    CONTEXTS: ClassVar[tuple[str, ...]] = ("all", "list")
    AUTO_FOCUS = "Listing"

    def __init__(self) -> None:
        super().__init__()
        self.held_still = False

    # --- what a subclass gives ---

    def make_listing(self) -> Listing[R]:
        raise NotImplementedError

    def rows(self, picture: Picture) -> Sequence[R]:
        raise NotImplementedError

    def heading(self, picture: Picture) -> Text:
        """One line over the list: what matters of all of it."""
        raise NotImplementedError

    def detail(self, row: R) -> Text:
        """All about a row."""
        raise NotImplementedError

    def detail_title(self, row: R) -> Text:
        raise NotImplementedError

    def note(self, row: R) -> Text:
        """Two lines on a row, for narrow terminals: why it is as it is, and which key helps."""
        return Text(end="")

    def side(self, row: R) -> Text:
        """The third pane."""
        return Text(end="")

    def side_title(self, row: R) -> Text:
        return Text("Log", end="")

    def log_of(self, row: R) -> str:
        """The id of the run whose log explains the row; empty when there is none."""
        return ""

    # --- parts ---

    @property
    def console_app(self) -> Console:
        return console_of(self)

    @property
    def picture(self) -> Picture:
        return self.console_app.picture

    @property
    def listing(self) -> Listing[R]:
        return self.query_one(Listing)

    @property
    def current(self) -> R | None:
        return self.listing.current

    def compose(self) -> ComposeResult:
        yield TopBar(self.PLACE)
        yield Static(id="heading", classes="in-border", markup=False)
        with Horizontal(id="body"):
            with Vertical(id="main"):
                yield self.make_listing()
                yield Static(id="note", markup=False)
                yield Pane(id="detail")
            yield Pane(id="side")
        yield Input(placeholder="filter: web  state:failed  age>2d  !test", id="filter")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.show_picture()

    def on_screen_resume(self) -> None:
        self.held_still = False
        self.show_picture()

    def show_picture(self) -> None:
        if not self.is_mounted or self.held_still:
            return
        self.query_one(TopBar).show_picture()
        heading = self.console_app.colours.paint(self.heading(self.picture))
        self.query_one("#heading", Static).update(heading, layout=False)
        self.listing.border_title = Content.from_rich_text(heading)
        self.listing.show(self.rows(self.picture))
        self.show_row()

    def show_row(self) -> None:
        """The panes, for the row under the cursor."""
        row = self.current
        paint = self.console_app.colours.paint
        detail, side = self.query_one("#detail", Pane), self.query_one("#side", Pane)
        nothing = Text(end="")
        if detail.display:
            detail.border_title = Content.from_rich_text(
                paint(nothing if row is None else self.detail_title(row))
            )
            detail.show(nothing if row is None else self.detail(row))
        if (note := self.query_one("#note", Static)).display:
            note.update(paint(nothing if row is None else self.note(row)), layout=False)
        if side.display:
            side.border_title = Content.from_rich_text(
                paint(nothing if row is None else self.side_title(row))
            )
            side.show(nothing if row is None else self.side(row))
        self.query_one(KeyBar).refresh()

    def on_listing_moved(self) -> None:
        self.show_row()

    def on_listing_opened(self) -> None:
        self.action_open()

    def on_resize(self) -> None:
        self.call_after_refresh(self.show_row)

    # --- actions of lists ---

    def action_open(self) -> None:
        from vmconsole.tui.screens.detail import DetailScreen

        if (row := self.current) is not None:
            self.app.push_screen(DetailScreen(self.detail_title(row), self.detail(row)))

    def action_mark(self) -> None:
        self.listing.toggle_mark()

    def action_mark_shown(self) -> None:
        self.listing.toggle_all_marks()

    def action_sort(self) -> None:
        self.listing.next_sort()

    def action_sort_reverse(self) -> None:
        self.listing.reverse_sort()

    def action_wide(self) -> None:
        self.listing.toggle_wide()

    def action_problems(self) -> None:
        self.listing.toggle_problems()
        self._say_filter()

    def action_freeze(self) -> None:
        self.held_still = not self.held_still
        self.notify("Held still until z is pressed again." if self.held_still else "Live again.")
        self.show_picture()

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter":
            self.listing.set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            event.input.display = bool(event.value)
            self.listing.focus()

    def step_back(self) -> bool:
        """Filter, marks, problems: one step each; False when there is none left."""
        line = self.query_one("#filter", Input)
        if line.display:
            line.value = ""
            line.display = False
            self.listing.set_filter("")
            self.listing.focus()
        elif self.listing.marks:
            self.listing.marks = set()
            self.listing.refresh()
        elif self.listing.problems:
            self.listing.toggle_problems()
        else:
            return False
        return True

    def action_log(self) -> None:
        row = self.current
        if row is not None and (run := self.log_of(row)):
            from vmconsole.tui.screens.log import LogScreen

            self.app.push_screen(LogScreen(run))

    def _say_filter(self) -> None:
        if self.listing.problems and not self.listing.shown:
            self.notify("Nothing needs attention here. Press ! again for everything.")

    def why_not(self, action: str) -> str:
        """Why an action cannot be done now; a subclass asks super() for those it does not know."""
        if self.current is None and action in ("open", "mark", "mark-shown", "log"):
            return "The list is empty."
        if action == "log" and self.current is not None and not self.log_of(self.current):
            return "There is no run of this row yet."
        return ""
