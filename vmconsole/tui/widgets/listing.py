"""A list of rows that draws only what is seen: thousands of rows, one line repainted for a key press."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from vmconsole.tui.context import console_of
from vmconsole.tui.filtering import Fields, Filter, parse_filter
from vmconsole.tui.format import fit

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """cell: what a row shows, with style names of ours. width: in columns of the terminal.

    grow: gets what is left over. drop: goes first when there is no room, the highest of all first; 0 stays.
    wide: only shown when more columns are asked for. sort: how rows compare; None cannot be sorted by.
    """

    title: str
    width: int
    cell: Callable[[R], Text]
    right: bool = False
    grow: bool = False
    drop: int = 0
    wide: bool = False
    sort: Callable[[R], object] | None = None


def _no_attention(row: object) -> bool:  # noqa: ARG001 - there is none for any row
    return False


class Listing(ScrollView, Generic[R], can_focus=True):
    """Rows with a key each. The cursor and the marks stay on their rows whatever becomes of the list.

    key: identity of a row. fields: what the filter looks at. attention: whether `!` shows the row.
    """

    DEFAULT_CSS = "Listing { height: 1fr; scrollbar-size-horizontal: 0; overflow-x: hidden; }"
    BINDINGS: ClassVar = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "edge(-1)", show=False),
        Binding("end,G", "edge(1)", show=False),
    ]

    class Moved(Message):
        """The cursor is on another row, or its row has changed."""

    class Opened(Message):
        """A row was clicked a second time."""

    def __init__(
        self,
        columns: Sequence[Column[R]],
        key: Callable[[R], str],
        fields: Callable[[R], Fields],
        attention: Callable[[R], bool] | None = None,
        *,
        empty: str = "Nothing here yet.",
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._key, self._fields = key, fields
        self._attention = attention or _no_attention
        self._rows: Sequence[R] = ()
        self.shown: list[R] = []
        self.marks: set[str] = set()
        self.filter = Filter("")
        self.problems = False
        self.wide = False
        self.sorted_by: Column[R] | None = None
        self.reverse = False
        self.empty = empty
        self._cursor = 0
        self._cursor_key = ""

    # --- rows ---

    @property
    def rows(self) -> Sequence[R]:
        """All, whatever the filter says."""
        return self._rows

    @property
    def current(self) -> R | None:
        """The row under the cursor."""
        return self.shown[self._cursor] if self.shown else None

    @property
    def chosen(self) -> list[R]:
        """The marked rows, or the one under the cursor."""
        marked = [row for row in self._rows if self._key(row) in self.marks]
        return marked or ([] if self.current is None else [self.current])

    def show(self, rows: Sequence[R]) -> None:
        """Replace the rows."""
        self._rows = rows
        self.marks &= {self._key(row) for row in rows}
        self._arrange()

    def move_to(self, key: str) -> bool:
        """Put the cursor on a row; False when it is not shown."""
        for index, row in enumerate(self.shown):
            if self._key(row) == key:
                self._go(index)
                return True
        self._cursor_key = key
        return False

    def set_filter(self, text: str) -> None:
        self.filter = parse_filter(text)
        self._arrange()

    def toggle_problems(self) -> None:
        self.problems = not self.problems
        self._arrange()

    def toggle_wide(self) -> None:
        self.wide = not self.wide
        self.refresh()

    def next_sort(self) -> None:
        """The next column of those that are shown; after the last the rows' own order."""
        able = [column for column in self._fitting() if column.sort]
        at = able.index(self.sorted_by) + 1 if self.sorted_by in able else 0
        self.sorted_by = able[at] if at < len(able) else None
        self._arrange()

    def reverse_sort(self) -> None:
        self.reverse = not self.reverse
        self._arrange()

    def toggle_mark(self) -> None:
        if self.current is not None:
            self.marks ^= {self._key(self.current)}
            self._repaint(self._cursor)
            self.action_move(1)

    def toggle_all_marks(self) -> None:
        keys = {self._key(row) for row in self.shown}
        self.marks = self.marks - keys if keys <= self.marks else self.marks | keys
        self.refresh()
        self.post_message(self.Moved())

    def _arrange(self) -> None:
        before, at = self._cursor_key, self._cursor
        chosen = [
            row
            for row in self._rows
            if (not self.problems or self._attention(row)) and self.filter.matches(self._fields(row))
        ]
        if self.sorted_by is not None and (order := self.sorted_by.sort) is not None:
            chosen.sort(key=order, reverse=self.reverse)  # type: ignore[arg-type]
        elif self.reverse:
            chosen.reverse()
        self.shown = chosen
        self._cursor = next(
            (index for index, row in enumerate(chosen) if self._key(row) == before),
            max(0, min(at, len(chosen) - 1)),
        )
        self._cursor_key = self._key(chosen[self._cursor]) if chosen else before
        self.virtual_size = Size(self.size.width, len(chosen) + 1)
        self._keep_in_sight()
        self.refresh()
        self.post_message(self.Moved())

    # --- the cursor ---

    def action_move(self, by: int) -> None:
        self._go(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._go(self._cursor + by * max(1, self._page - 1))

    def action_edge(self, side: int) -> None:
        self._go(0 if side < 0 else len(self.shown) - 1)

    def _go(self, index: int) -> None:
        index = max(0, min(index, len(self.shown) - 1))
        if not self.shown or index == self._cursor:
            return
        before, self._cursor = self._cursor, index
        self._cursor_key = self._key(self.shown[index])
        if not self._keep_in_sight():
            self._repaint(before)
            self._repaint(index)
        self.post_message(self.Moved())

    @property
    def _page(self) -> int:
        """Rows that are seen at once."""
        return max(1, self.size.height - 1)

    def _keep_in_sight(self) -> bool:
        """Whether that moved the list, which repaints all of it."""
        top = round(self.scroll_y)
        wanted = min(max(top, self._cursor - self._page + 1), self._cursor)
        if wanted == top:
            return False
        self.scroll_to(y=wanted, animate=False, force=True)
        return True

    def _repaint(self, index: int) -> None:
        self.refresh(Region(0, 1 + index - round(self.scroll_y), self.size.width, 1))

    def on_resize(self, event: events.Resize) -> None:
        self.virtual_size = Size(event.size.width, len(self.shown) + 1)
        self._keep_in_sight()

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1 + round(self.scroll_y)
        if event.y < 1 or not 0 <= index < len(self.shown):
            return
        if index == self._cursor and event.chain > 1:
            self.post_message(self.Opened())
        self._go(index)

    # --- drawing ---

    @property
    def _room(self) -> int:
        """Columns of the terminal beside the scroll bar."""
        return self.scrollable_content_region.width

    def _fitting(self) -> list[Column[R]]:
        """The columns there is room for."""
        columns = [column for column in self._columns if self.wide or not column.wide]
        room = self._room - 2
        while sum(column.width + 2 for column in columns) > room + 2:
            droppable = [column for column in columns if column.drop]
            if not droppable:
                break
            columns.remove(max(droppable, key=lambda column: column.drop))
        return columns

    def _widths(self, columns: Sequence[Column[R]]) -> list[int]:
        widths = [column.width for column in columns]
        spare = self._room - 2 - sum(widths) - 2 * (len(columns) - 1)
        growing = [index for index, column in enumerate(columns) if column.grow]
        if growing and spare:
            share, rest = divmod(spare, len(growing))
            for number, index in enumerate(growing):
                widths[index] = max(4, widths[index] + share + (rest if number == 0 else 0))
        return widths

    def render_line(self, y: int) -> Strip:
        columns = self._fitting()
        widths = self._widths(columns)
        if y == 0:
            return self._strip(self._head(columns, widths), "")
        index = y - 1 + round(self.scroll_y)
        if not self.shown:
            text = (self.filtered_out if self._rows else self.empty) if y == 2 else ""
            return self._strip(Text(f"  {text}", "quiet", end=""), "")
        if index >= len(self.shown):
            return self._strip(Text("", end=""), "")
        row = self.shown[index]
        at_cursor, marked = index == self._cursor, self._key(row) in self.marks
        lead = Text(self._lead(at_cursor=at_cursor, marked=marked), "marked" if marked else "key", end="")
        cells = [
            fit(column.cell(row), width, right=column.right)
            for column, width in zip(columns, widths, strict=True)
        ]
        line = Text.assemble(lead, Text("  ", end="").join(cells), end="")
        return self._strip(line, "cursor" if at_cursor and (self.has_focus or not self._rivals) else "")

    @property
    def filtered_out(self) -> str:
        """What is said when rows are there, and none is shown."""
        return (
            "Nothing needs attention here."
            if self.problems and not self.filter.text
            else "Nothing matches the filter."
        )

    @property
    def _rivals(self) -> bool:
        return self.screen.focused is not None and self.screen.focused is not self

    def _lead(self, *, at_cursor: bool, marked: bool) -> str:
        glyphs = console_of(self).glyphs
        return f"{glyphs.mark if marked else glyphs.cursor if at_cursor else ' '} "

    def _head(self, columns: Sequence[Column[R]], widths: Sequence[int]) -> Text:
        def title(column: Column[R]) -> str:
            arrow = "v" if console_of(self).glyphs.ascii else "↓"
            if self.reverse:
                arrow = "^" if console_of(self).glyphs.ascii else "↑"
            return f"{column.title}{arrow}" if column is self.sorted_by else column.title

        cells = [
            fit(Text(title(column), "head", end=""), width, right=column.right)
            for column, width in zip(columns, widths, strict=True)
        ]
        return Text.assemble("  ", Text("  ", end="").join(cells), end="")

    def _strip(self, text: Text, over: str) -> Strip:
        theme = console_of(self).colours
        painted = theme.paint(text)
        width = self._room
        if (short := width - cell_len(painted.plain)) > 0:
            painted.append(" " * short)
        base = self.rich_style + theme.style(over) if over else self.rich_style
        segments = painted.render(self.app.console)
        return Strip(segments).apply_style(base).crop(0, width)

    def watch_has_focus(self, focused: bool) -> None:
        super().watch_has_focus(focused)
        self._repaint(self._cursor)
