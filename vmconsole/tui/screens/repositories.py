"""Repositories: where everything lies, how full that is, and whether it is sound."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.text import Text
from textual.message import Message

from vmconsole.errors import VmconsoleError
from vmconsole.model.words import age, duration, size
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import bindings
from vmconsole.tui.picture import Picture
from vmconsole.tui.remembered import Remembered
from vmconsole.tui.repositories import KINDS, Answer, Known, RepositoryRow, ask, read_known, row_of
from vmconsole.tui.repository_cells import SHOWN, compact_text, factor_cell, free_bytes, free_cell, points_are
from vmconsole.tui.repository_detail import recovery_text, repository_text, why_text
from vmconsole.tui.screens.place import Place
from vmconsole.tui.states import State
from vmconsole.tui.widgets.listing import Column, Listing

_READ_SECONDS = 30.0
"""Reading the history of months is worth it so often, while backups change it all the time."""
_SIDE = 64
"""Columns of the third pane, as in CSS."""
_FRAME = 7
"""Columns of a pane's border, padding, scroll bar, and a little air."""


class Repositories(Place[RepositoryRow]):
    PLACE: ClassVar = "repositories"
    CONTEXTS: ClassVar = ("all", "list", "repositories")
    BINDINGS: ClassVar = [
        *bindings("list", "repositories"),
        # Here R asks the repositories as well.
        *(item for item in bindings("all") if getattr(item, "id", "") == "reload"),
    ]
    CSS = """
    Repositories.-split #detail, Repositories.-wide #detail { height: 1fr; }
    Repositories.-wide #side { width: 64; }
    """

    class Read(Message):
        def __init__(self, known: Mapping[str, Known], problem: str = "") -> None:
            super().__init__()
            self.known, self.problem = known, problem

    class Answered(Message):
        def __init__(self, name: str, answer: Answer) -> None:
            super().__init__()
            self.name, self.answer = name, answer

    def __init__(self) -> None:
        super().__init__()
        self.known: Mapping[str, Known] | None = None
        self._read_at: Picture | None = None
        self._read_time: float | None = None
        self._reading = False
        self._runs_then: tuple[object, ...] = ()
        self._first = True

    @property
    def _memory(self) -> Remembered:
        return self.console_app.remembered

    def make_listing(self) -> Listing[RepositoryRow]:
        glyphs = self.console_app.glyphs
        columns: list[Column[RepositoryRow]] = [
            Column("state", 13, lambda row: glyphs.label(row.state, row.word), sort=lambda row: row.word),
            Column("repository", 12, lambda row: safe(row.name, "strong"), sort=lambda row: row.name),
            Column("where", 14, lambda row: safe(row.settings.location, "quiet"), grow=True, drop=4),
            Column(
                "points", 6, lambda row: safe(str(row.known.points)), right=True,
                sort=lambda row: row.known.points,
            ),
            Column(
                "original", 9, lambda row: safe(size(row.original)), right=True, drop=5,
                sort=lambda row: row.original,
            ),
            Column("stored", 9, lambda row: safe(size(row.stored)), right=True, sort=lambda row: row.stored),
            Column("dedup", 7, factor_cell, right=True, drop=3, sort=lambda row: row.factor or 0.0),
            Column("free", 16, free_cell, right=True, drop=1, sort=free_bytes),
            Column("last check", 12, self._checked, drop=2),
            Column("asked", 12, self._asked, wide=True, drop=6),
        ]  # fmt: skip
        return Listing(
            columns,
            lambda row: row.name,
            self._fields,
            lambda row: row.state in (State.FAILED, State.LATE, State.WARNING, State.NEVER),
            empty="No repository is configured yet: vmconsole repo init --help",
        )

    # --- reading and asking ---

    def show_picture(self) -> None:
        if self.is_mounted and not self.held_still and self.picture.config is not None:
            self._read_again()
            if self._first:
                self._first = False
                self._ask_all()
        super().show_picture()

    def _read_again(self, *, now: bool = False) -> None:
        """In a thread, one at a time. now: however long ago the last time was, as when a check has ended."""
        clock = self.console_app.services.clock.monotonic()
        runs = tuple((run.id, run.state) for run in self.picture.runs if run.kind in KINDS)
        if runs != self._runs_then and not self._reading:
            self._runs_then, now = runs, True
        lately = self._read_time is not None and clock - self._read_time < _READ_SECONDS
        if self._reading or (not now and (lately or self._read_at is self.picture)):
            return
        self._reading, self._read_at, self._read_time = True, self.picture, clock
        services, moment = self.console_app.services, self.picture.now

        def read() -> None:
            try:
                self.post_message(self.Read(read_known(services, moment)))
            except VmconsoleError as error:
                self.post_message(self.Read({}, error.message))

        threading.Thread(target=read, name="repositories", daemon=True).start()

    def on_repositories_read(self, message: Read) -> None:
        self._reading = False
        self.known = message.known
        if message.problem:
            self.notify(message.problem, severity="error", markup=False)
        super().show_picture()

    def _ask_all(self) -> None:
        """Each in a thread of its own: one that hangs holds up nobody."""
        services = self.console_app.services
        config = self.picture.config
        for name in config.repositories if config else ():
            if name in self._memory.asked:
                continue
            self._memory.asked[name] = services.clock.now()
            before = self._memory.answers.get(name)

            def put(name: str = name, before: Answer | None = before) -> None:
                self.post_message(self.Answered(name, ask(services, name, before)))

            threading.Thread(target=put, name=f"repository-{name}", daemon=True).start()

    def on_repositories_answered(self, message: Answered) -> None:
        self._memory.asked.pop(message.name, None)
        self._memory.answers[message.name] = message.answer
        self._read_again(now=True)
        super().show_picture()

    def action_reload(self) -> None:
        self._ask_all()
        self.console_app.action_reload()

    # --- what is shown ---

    def rows(self, picture: Picture) -> Sequence[RepositoryRow]:
        if picture.config is None or self.known is None:
            return []
        rows = [
            row_of(
                name,
                settings,
                self.known.get(name, Known()),
                picture,
                self._memory.answers.get(name),
                self._memory.asked.get(name),
            )
            for name, settings in picture.config.repositories.items()
        ]
        return sorted(rows, key=lambda row: (not row.state.needs_attention, row.name))

    def heading(self, picture: Picture) -> Text:
        rows = self.rows(picture)
        text = Text("Repositories ", "title", end="")
        if not rows:
            return text
        good = sum(row.state in (State.OK, State.RUNNING) for row in rows)
        text.append(f"{good} of {len(rows)} ok", "ok" if good == len(rows) else "late")
        text.append(
            f" · {sum(row.known.points for row in rows)} points · stored {size(sum(row.stored for row in rows))}",
            "quiet",
        )
        if self._memory.asked:
            text.append(f" · asking {', '.join(safe(name).plain for name in self._memory.asked)}", "quiet")
        return text

    def detail_title(self, row: RepositoryRow) -> Text:
        return Text.assemble(safe(row.name, "title"), safe(f" {row.settings.location}", "quiet"), end="")

    def detail(self, row: RepositoryRow) -> Text:
        # By the screen's width: the pane's own is the old one until it is laid out anew.
        beside = _SIDE if self.has_class("-wide") else 0
        width = self.size.width - beside - _FRAME
        curve = 20 if self.has_class("-wide") else 10
        text = repository_text(
            row, self.picture, self.console_app.glyphs, width, min(curve, self.size.height // 2)
        )
        if not self.has_class("-wide"):
            text.append("\n").append_text(recovery_text(row, self.picture))
        return text

    def show_row(self) -> None:
        # A few rows need little room; the rest is for the detail below them.
        few = len(self.listing.rows) + 4
        self.listing.styles.max_height = None if self.has_class("-narrow") else min(10, few)
        super().show_row()

    def note(self, row: RepositoryRow) -> Text:
        text = why_text(row, self.console_app.glyphs)
        return text if row.why else text.append_text(safe(row.settings.location, "quiet"))

    def side_title(self, row: RepositoryRow) -> Text:
        return Text("Recovery", "title", end="")

    def side(self, row: RepositoryRow) -> Text:
        return recovery_text(row, self.picture)

    def log_of(self, row: RepositoryRow) -> str:
        """Of its newest run that was about it alone: a check, a prune, a compact."""
        return row.known.last.id if row.known.last else ""

    @property
    def name_to_copy(self) -> str:
        return self.current.name if self.current else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("repo", "info", self.current.name) if self.current else ()

    # --- actions ---

    def action_repositories_check(self) -> None:
        from vmconsole.tui.dialogs.check import Check

        if (row := self.current) is None:
            return

        def begin(answer: str | None) -> None:
            if answer:
                verify = ("--verify-data",) if answer == "verify" else ()
                said = f"Checking {safe(row.name).plain} goes on in the background; l shows its log."
                self._carry_out(Command(("repo", "check", row.name, *verify), said, runs=True))

        self.app.push_screen(Check(row.name, size(row.stored) if row.stored else ""), begin)

    def action_repositories_prune(self) -> None:
        if (row := self.current) is None:
            return

        def show(ended: Ended) -> None:
            from vmconsole.tui.screens.prune import PruneScreen

            if ended.ok and self.app.screen is self:
                self.app.push_screen(PruneScreen(row.name, ended.document))

        self.notify("Judging the points by the rules …", timeout=2)
        self._carry_out(Command(("prune", "--dry-run", "--repository", row.name)), show)

    def action_repositories_undo(self) -> None:
        if (row := self.current) is None:
            return
        points = points_are(row.known.pruned)
        text = Text.assemble(
            f"{points} pruned in ", safe(row.name, "strong"), " and not deleted yet: back they come.\n\n",
            "The next prune takes them again, unless the rules change or they are pinned. "
            "For single points: P and u in 4 Points.", end="",
        )  # fmt: skip

        def go(yes: bool | None) -> None:
            if yes:
                words = ("undo-prune", "--all", "--repository", row.name)
                self._carry_out(Command(words, f"{points} back."))

        self.app.push_screen(Ask("Undo the prune?", text, "Have them back"), go)

    def action_repositories_compact(self) -> None:
        if (row := self.current) is None:
            return

        def show(ended: Ended) -> None:
            if ended.ok and self.app.screen is self:
                self.app.push_screen(
                    Ask(
                        "Delete for good?",
                        compact_text(row, ended.document),
                        "Delete and compact",
                        name=row.name,
                    ),
                    go,
                )

        def go(yes: bool | None) -> None:
            if yes:
                said = f"Compacting {safe(row.name).plain} goes on in the background; l shows its log."
                self._carry_out(Command(("repo", "compact", row.name), said, runs=True))

        self.notify("Looking what would be deleted …", timeout=2)
        self._carry_out(Command(("repo", "compact", row.name, "--dry-run")), show)

    def action_repositories_accept(self) -> None:
        if (row := self.current) is None:
            return
        text = Text(end="")
        for gone in row.known.vanished[:SHOWN]:
            text.append_text(
                safe(f"{gone.guest} of {gone.time.astimezone(self.picture.zone):%Y-%m-%d %H:%M}", "strong")
            ).append_text(safe(f"  {gone.archive}\n", "quiet"))
        if (more := len(row.known.vanished) - SHOWN) > 0:
            text.append(f"and {more} more\n", "quiet")
        text.append(
            "\nNobody here deleted them. If it was an attack, a rolled back repository may still have them: "
            "accept only what you know the reason of. After that, compact frees their space for good."
        )

        def go(yes: bool | None) -> None:
            if yes:
                said = f"{points_are(len(row.known.vanished))} accepted as gone."
                self._carry_out(Command(("repo", "accept", row.name), said))

        self.app.push_screen(Ask("Accept that they are gone?", text, "Accept"), go)

    def _carry_out(self, command: Command, then: object = None) -> None:
        def ended(how: Ended) -> None:
            self._read_again(now=True)
            if callable(then):
                then(how)

        self.console_app.carry_out(command, ended)

    def why_not(self, action: str) -> str:
        row = self.current
        if action.startswith("repositories.") and row is None:
            return "The list is empty."
        if row is not None:
            if action == "repositories.accept" and not row.known.vanished:
                return "Nothing has vanished from this repository."
            if action == "repositories.undo" and not row.known.pruned:
                return "Nothing is pruned in this repository."
            if action == "repositories.compact" and row.known.vanished:
                return "Points vanished: nothing is compacted until a accepts that."
            if action == "repositories.prune" and not row.known.points:
                return "There are no points to judge."
            if action == "log" and row.known.last is None:
                return "No check, prune or compact of it is remembered. 3 shows all runs."
        return super().why_not(action)

    # --- cells ---

    def _checked(self, row: RepositoryRow) -> Text:
        run = row.known.check
        if run is None:
            return safe("never", "quiet")
        if run.ended is None:
            return safe("now", "running")
        return safe(age(self.picture.now - run.started))

    def _asked(self, row: RepositoryRow) -> Text:
        if row.asking is not None:
            return safe(f"{duration((self.picture.now - row.asking).total_seconds())} …", "running")
        return safe(age(self.picture.now - row.answer.when) if row.answer else "–", "quiet")

    def _fields(self, row: RepositoryRow) -> dict[str, str | float | None]:
        return {
            "name": row.name, "where": row.settings.location, "state": row.word,
            "encryption": row.settings.encryption, "points": row.known.points, "size": row.original,
            "stored": row.stored, "free": free_bytes(row),
        }  # fmt: skip


def screen() -> Repositories:
    return Repositories()
