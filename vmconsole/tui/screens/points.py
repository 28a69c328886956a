"""Points: what can be gone back to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.message import Message

from vmconsole.errors import VmconsoleError
from vmconsole.model.history import BackupRecord
from vmconsole.model.words import age, duration, size
from vmconsole.tui.commands import Command
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import bindings
from vmconsole.tui.month import HEIGHT, before, legend, month_text
from vmconsole.tui.picture import Picture
from vmconsole.tui.point_detail import guest_summary, point_text
from vmconsole.tui.points import RECORDS, PointRow, Shelf, compare, days_of, read_shelf
from vmconsole.tui.screens.place import Place
from vmconsole.tui.states import State
from vmconsole.tui.widgets.listing import Column, Listing

_VERIFY = (
    "Single points cannot be verified yet. `v` in 5 Repositories checks a whole repository "
    "(repo check --verify-data)."
)


_MONTHS = 3
_BESIDE_MONTHS = 13
"""Lines of the third pane and of its surroundings that are not months."""


class Points(Place[PointRow]):
    """only: the uuid of the one guest whose points are shown; empty for all."""

    PLACE: ClassVar = "points"
    CONTEXTS: ClassVar = ("all", "list", "points")
    BINDINGS: ClassVar = bindings("list", "points")
    CSS = """
    Points.-split #side { display: block; width: 40; }
    Points.-wide #side { width: 44; }
    Points.-split #side { border: round $border-blurred; border-title-color: $foreground; }
    Points.-split #side:focus { border: round $border; }
    Points #detail { height: 13; }
    """

    class Read(Message):
        def __init__(self, shelf: Shelf | None, problem: str = "") -> None:
            super().__init__()
            self.shelf, self.problem = shelf, problem

    class NightsRead(Message):
        def __init__(self, uuid: str, stamp: object, records: tuple[BackupRecord, ...]) -> None:
            super().__init__()
            self.uuid, self.stamp, self.records = uuid, stamp, records

    def __init__(self) -> None:
        super().__init__()
        self.only = ""
        self.pruned_too = False
        self.shelf = Shelf()
        self.problem = ""
        self._read_at: Picture | None = None
        self._reading = False
        self._nights: dict[str, tuple[object, tuple[BackupRecord, ...]]] = {}
        self._asked_nights: set[str] = set()

    def make_listing(self) -> Listing[PointRow]:
        columns: list[Column[PointRow]] = [
            Column("state", 9, self._state, sort=lambda row: row.word),
            Column("time", 16, self._time, sort=lambda row: row.point.time),
            Column("guest", 10, self._guest, grow=True, sort=lambda row: row.point.guest),
            Column("host", 8, lambda row: self._cell(row, row.point.host), drop=8),
            Column("group", 9, lambda row: self._cell(row, row.point.group or "by hand"), drop=9),
            Column("mode", 11, lambda row: self._cell(row, row.point.mode.value), drop=2),
            Column("consistency", 11, self._consistency, drop=4),
            Column("size", 9, lambda row: self._in_bytes(row, row.point.size), right=True, drop=6,
                   sort=lambda row: row.point.size),
            Column("read", 9, lambda row: self._in_bytes(row, row.point.total("bytes_read")), right=True, drop=3,
                   sort=lambda row: row.point.total("bytes_read")),
            Column("stored", 9, lambda row: self._in_bytes(row, row.point.total("bytes_stored")), right=True, drop=1,
                   sort=lambda row: row.point.total("bytes_stored")),
            Column("took", 9, lambda row: self._cell(row, duration(row.point.seconds)), right=True, drop=5,
                   sort=lambda row: row.point.seconds),
            Column("repository", 12, lambda row: self._cell(row, row.repository), wide=True, drop=10),
        ]  # fmt: skip
        return Listing(
            columns,
            lambda row: row.key,
            self._fields,
            lambda row: row.state is State.WARNING,
            empty="Reading the points …",
        )

    # --- reading ---

    def show_picture(self) -> None:
        if self.is_mounted and not self.held_still:
            self._read_again()
        super().show_picture()

    def _read_again(self) -> None:
        """One thread at a time; a picture that comes meanwhile is caught up with when it ends."""
        if self._reading or self._read_at is self.picture or self.picture.config is None:
            return
        self._reading, self._read_at = True, self.picture
        services, known = self.console_app.services, self.shelf

        def read() -> None:
            try:
                self.post_message(self.Read(read_shelf(services, known)))
            except VmconsoleError as error:
                self.post_message(self.Read(None, error.message))

        threading.Thread(target=read, name="points", daemon=True).start()

    def on_points_read(self, message: Read) -> None:
        self._reading = False
        self.problem = message.problem
        if message.shelf is not None:
            self.shelf = message.shelf
        self.listing.empty = self._nothing()
        self.show_picture()

    def _nothing(self) -> str:
        if self.problem:
            return safe(self.problem).plain
        if self.only and self.shelf.rows:
            return "This guest has no restore point yet. 1 goes to Guests, b there makes the first one."
        return "No restore points yet. 1 goes to Guests, b there makes the first one."

    def _nights_of(self, uuid: str) -> tuple[BackupRecord, ...]:
        """What is known of them now; asked for when that is older than the points."""
        stamp, records = self._nights.get(uuid, (None, ()))
        if stamp != self.shelf.stamp and uuid not in self._asked_nights:
            self._asked_nights.add(uuid)
            services, now = self.console_app.services, self.shelf.stamp

            def read() -> None:
                try:
                    found = tuple(services.history.of_guest(uuid, RECORDS))
                except VmconsoleError:
                    found = records
                self.post_message(self.NightsRead(uuid, now, found))

            threading.Thread(target=read, name="nights", daemon=True).start()
        return records

    def on_points_nights_read(self, message: NightsRead) -> None:
        self._asked_nights.discard(message.uuid)
        self._nights[message.uuid] = (message.stamp, message.records)
        self.show_row()

    def show_only(self, uuid: str) -> None:
        """The points of one guest; of all, when empty."""
        self.only = uuid
        if self.is_mounted:
            self.listing.empty = self._nothing()
            super().show_picture()
            self.listing.action_edge(-1)

    # --- what is shown ---

    def rows(self, picture: Picture) -> Sequence[PointRow]:
        if self.only:
            own = self.shelf.by_guest.get(self.only, ())
            return [row for row in own if self.pruned_too or row.mark is None]
        return self.shelf.rows if self.pruned_too else self.shelf.kept

    def heading(self, picture: Picture) -> Text:
        mine = self.shelf.by_guest.get(self.only, ()) if self.only else self.shelf.rows
        kept = [row for row in mine if row.mark is None]
        if self.only:
            text = Text.assemble(
                ("Points of ", "title"), safe(self._name_of(self.only), "title"), " ", end=""
            )
            text.append(f"{len(kept)}", "strong")
        else:
            text = Text("Points ", "title", end="")
            text.append(f"{len(kept)}", "strong").append(
                f" of {len({row.point.uuid for row in kept})} guests", "quiet"
            )
        if pinned := sum(row.point.pinned for row in kept):
            text.append(f" · {pinned} pinned", "quiet")
        if pruned := len(mine) - len(kept):
            text.append(f" · {pruned} pruned" + ("" if self.pruned_too else ", P shows"), "quiet")
        if self.only:
            text.append(" · t shows all guests", "quiet")
        return text

    def _name_of(self, uuid: str) -> str:
        row = self.picture.guest(uuid)
        if row is not None:
            return row.guest.name
        return next((row.point.guest for row in self.shelf.by_guest.get(uuid, ())), uuid)

    def detail_title(self, row: PointRow) -> Text:
        when = row.point.time.astimezone(self.picture.zone)
        return Text.assemble(
            safe(row.point.guest, "title"),
            Text(f" {when:%A %Y-%m-%d %H:%M:%S} · {age(self.picture.now - row.point.time)}", "quiet"),
            end="",
        )

    def detail(self, row: PointRow) -> Text:
        return point_text(row, self.picture, self._undo(row))

    def _undo(self, row: PointRow) -> float | None:
        config = self.picture.config
        settings = config.repositories.get(row.repository) if config else None
        return settings.undo if settings else None

    def note(self, row: PointRow) -> Text:
        return self.detail(row)

    def side_title(self, row: PointRow) -> Text:
        return safe(row.point.guest, "title")

    def side(self, row: PointRow) -> Text:
        # By the screen's height: the pane's own is the old one until it is laid out anew.
        return self._calendar(row, max(1, min(_MONTHS, (self.size.height - _BESIDE_MONTHS) // (HEIGHT + 1))))

    def _calendar(self, row: PointRow, months: int) -> Text:
        glyphs, zone = self.console_app.glyphs, self.picture.zone
        own = self.shelf.by_guest.get(row.point.uuid, ())
        records = self._nights_of(row.point.uuid)
        days = days_of(own, records, zone)
        at, today = row.point.time.astimezone(zone).date(), self.picture.now.astimezone(zone).date()
        oldest = min(days, default=at)
        text = Text(end="")
        year, month = at.year, at.month
        for number in range(months):
            if number and (year, month) < (oldest.year, oldest.month):
                break
            text.append_text(month_text(days, year, month, at, today, ascii_only=glyphs.ascii)).append("\n")
            year, month = before(year, month)
        text.append_text(legend(ascii_only=glyphs.ascii)).append("\n")
        return text.append_text(guest_summary(own, days, zone, ascii_only=glyphs.ascii))

    def log_of(self, row: PointRow) -> str:
        return row.point.run

    @property
    def name_to_copy(self) -> str:
        return self.current.point.archive if self.current else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("points", self.current.point.guest) if self.current else ()

    # --- actions ---

    def action_open(self) -> None:
        from vmconsole.tui.screens.detail import DetailScreen

        if (row := self.current) is not None:
            text = self.detail(row).append("\n").append_text(self._calendar(row, 1))
            self.app.push_screen(DetailScreen(self.detail_title(row), text))

    def action_points_only(self) -> None:
        if self.only:
            self.show_only("")
        elif (row := self.current) is not None:
            self.only = row.point.uuid
            super().show_picture()

    def action_points_pruned(self) -> None:
        self.pruned_too = not self.pruned_too
        super().show_picture()

    def step_back(self) -> bool:
        if super().step_back():
            return True
        if not self.only:
            return False
        self.show_only("")
        return True

    def action_points_pin(self) -> None:
        rows = self.listing.chosen
        remove = all(row.point.pinned for row in rows)
        for repository in dict.fromkeys(row.repository for row in rows):
            these = [row for row in rows if row.repository == repository]
            words = ("pin", *(("--remove",) if remove else ()), *self._where(repository))
            said = f"{_named(these)} pinned{' no longer' if remove else ''}."
            self.console_app.carry_out(Command((*words, *(row.point.archive for row in these)), said))

    def action_points_undo(self) -> None:
        rows = [row for row in self.listing.chosen if row.mark is not None]
        for repository in dict.fromkeys(row.repository for row in rows):
            these = [row for row in rows if row.repository == repository]
            words = ("undo-prune", *self._where(repository), *(row.point.archive for row in these))
            said = f"{_named(these)} back. The next prune takes it again unless it is pinned (o)."
            self.console_app.carry_out(Command(words, said))

    def _where(self, repository: str) -> tuple[str, ...]:
        config = self.picture.config
        several = config is not None and len(config.repositories) > 1
        return ("--repository", repository) if several else ()

    def action_points_compare(self) -> None:
        from vmconsole.tui.dialogs.compare import Compare

        one, other = self._two()
        self.app.push_screen(Compare(compare(one, other, self.shelf.rows)))

    def _two(self) -> list[PointRow]:
        """The two marked rows, or the marked one and the one under the cursor."""
        marked = [row for row in self.listing.rows if row.key in self.listing.marks]
        if len(marked) == 1 and self.current is not None and self.current is not marked[0]:
            return [*marked, self.current]
        return marked

    def action_points_restore(self) -> None:
        from vmconsole.tui.screens.restore import open_restore

        if (row := self.current) is not None:
            open_restore(self.console_app, row.point, row.repository)

    def action_points_files(self) -> None:
        from vmconsole.tui.screens.browse import open_browse

        if (row := self.current) is not None:
            open_browse(self.console_app, row.point, row.repository)

    def action_points_verify(self) -> None:
        self.notify(_VERIFY, markup=False)

    def why_not(self, action: str) -> str:
        if action == "points.verify":
            return _VERIFY
        if action == "points.compare":
            return "" if len(self._two()) == 2 else "Mark two points with space, then c compares them."
        if action == "points.pruned" and not self.shelf.pruned:
            return "No point is pruned."
        if action.startswith("points.") and action != "points.pruned" and not self.only and not self.current:
            return "The list is empty."
        if action in ("points.pin", "points.restore", "points.files") and self.current is None:
            return "The list is empty."
        if action == "points.undo" and not any(row.mark for row in self.listing.chosen):
            return "This point is not pruned. P shows those that are."
        return super().why_not(action)

    # --- cells ---

    def _cell(self, row: PointRow, text: str, style: str = "") -> Text:
        return safe(text, "off" if row.mark else style)

    def _state(self, row: PointRow) -> Text:
        glyphs = self.console_app.glyphs
        if row.word == "pinned":
            return Text("PINNED" if glyphs.ascii else "◆ pinned", "key", end="")
        if row.mark is not None:
            return Text("PRUNED" if glyphs.ascii else "∘ pruned", "off", end="")
        return glyphs.label(row.state)

    def _time(self, row: PointRow) -> Text:
        return self._cell(row, f"{row.point.time.astimezone(self.picture.zone):%Y-%m-%d %H:%M}")

    def _guest(self, row: PointRow) -> Text:
        return self._cell(row, row.point.guest, "strong")

    def _consistency(self, row: PointRow) -> Text:
        value = row.point.consistency.value
        return self._cell(row, value, "quiet" if value == "application" else "")

    def _in_bytes(self, row: PointRow, count: int) -> Text:
        return self._cell(row, size(count))

    def _fields(self, row: PointRow) -> dict[str, str | float | None]:
        point = row.point
        return {
            "guest": point.guest, "name": point.archive, "uuid": point.uuid, "host": point.host,
            "group": point.group or "none", "repository": row.repository, "mode": point.mode.value,
            "consistency": point.consistency.value, "state": row.word,
            "pinned": "yes" if point.pinned else "no",
            "time": f"{point.time.astimezone(self.picture.zone):%Y-%m-%d %H:%M}",
            "age": row.age(self.picture.now), "size": point.size, "read": point.total("bytes_read"),
            "stored": point.total("bytes_stored"), "took": point.seconds,
        }  # fmt: skip


def _named(rows: Sequence[PointRow]) -> str:
    return f"{safe(rows[0].point.archive).plain} is" if len(rows) == 1 else f"{len(rows)} points are"


def screen() -> Points:
    return Points()
