"""What a prune would do: every point, kept or not, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Input, Static

from vmconsole.model.words import duration
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import bindings
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.listing import Column, Listing


@dataclass(frozen=True, slots=True)
class Judged:
    """One point. again: it was pruned before, and the rules keep it now."""

    archive: str
    guest: str
    host: str
    when: datetime
    keep: bool
    again: bool
    why: str
    rules: str


def judged_from(document: Any) -> list[Judged]:
    """From what `prune --dry-run --json` says, by guest, those with something to go first."""
    found = document.get("guests", ()) if isinstance(document, dict) else ()
    guests = [[_judged(guest, point) for point in guest["points"]] for guest in found]
    guests.sort(key=lambda own: all(point.keep for point in own))
    return [point for own in guests for point in own]


def _judged(guest: Any, point: Any) -> Judged:
    return Judged(
        str(point["archive"]),
        str(guest["guest"]),
        str(guest["host"]),
        datetime.fromisoformat(point["time"]),
        bool(point["keep"]),
        bool(point.get("again")),
        str(point["why"]),
        str(point.get("rules_of") or ""),
    )


class PruneScreen(Screen[None]):
    CONTEXTS: ClassVar = ("all", "list", "prune")
    BINDINGS: ClassVar = bindings("list", "prune")
    AUTO_FOCUS = "Listing"
    CSS = "PruneScreen #totals { height: 1; padding: 0 1; background: $surface; }"

    def __init__(self, repository: str, document: object) -> None:
        super().__init__()
        self._repository = repository
        self._judged = judged_from(document)

    @property
    def lost(self) -> list[Judged]:
        return [point for point in self._judged if not point.keep]

    def compose(self) -> ComposeResult:
        zone = console_of(self).picture.zone
        columns: list[Column[Judged]] = [
            Column("verdict", 12, self._verdict, sort=lambda point: point.keep),
            Column("guest", 12, lambda point: safe(point.guest, "strong"), grow=True, sort=lambda point: point.guest),
            Column("host", 8, lambda point: safe(point.host, "quiet"), drop=3),
            Column("time", 16, lambda point: safe(f"{point.when.astimezone(zone):%Y-%m-%d %H:%M}"),
                   sort=lambda point: point.when),
            Column("why", 28, lambda point: safe(point.why, "" if point.keep else "late")),
            Column("rules of", 10, lambda point: safe(point.rules or "–", "quiet"), drop=2),
            Column("archive", 40, lambda point: safe(point.archive, "quiet"), drop=4),
        ]  # fmt: skip
        yield Static(id="heading", classes="in-border", markup=False)
        yield Listing(
            columns,
            lambda point: point.archive,
            lambda point: {
                "guest": point.guest, "host": point.host, "why": point.why, "group": point.rules,
                "verdict": "keep" if point.keep else "prune", "archive": point.archive,
            },
            lambda point: not point.keep,
            empty="There are no restore points to judge.",
        )  # fmt: skip
        yield Static(id="totals", markup=False)
        yield Input(placeholder="filter: web  verdict:prune  why:daily", id="filter")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        paint = console_of(self).colours.paint
        heading = Text.assemble(("Prune ", "title"), safe(self._repository, "title"), end="")
        kept, lost = len(self._judged) - len(self.lost), len(self.lost)
        heading.append(f"  {kept} kept, {lost} to go", "late" if lost else "quiet")
        heading.append(" · nothing is changed yet", "quiet")
        self.query_one("#heading", Static).update(paint(heading))
        self.query_one(Listing).border_title = Content.from_rich_text(paint(heading))
        self.query_one("#totals", Static).update(paint(self._totals()))
        self.query_one(Listing).show(self._judged)

    def _totals(self) -> Text:
        if not self.lost:
            return Text(
                "Every point is kept by a rule. ! shows only what goes; esc goes back.", "quiet", end=""
            )
        guests = len({(point.guest, point.host) for point in self.lost})
        text = Text("p prunes", "key", end="")
        text.append(
            f": {_count(len(self.lost))} hidden, of {guests} guest{'' if guests == 1 else 's'}, ", "quiet"
        )
        text.append(f"undo for {self._undo}. ", "quiet")
        return text.append("! only these", "key").append(", esc goes back", "quiet")

    @property
    def _undo(self) -> str:
        config = console_of(self).picture.config
        return duration(config.repository(self._repository).undo) if config else "a while"

    def _verdict(self, point: Judged) -> Text:
        ascii_only = console_of(self).glyphs.ascii
        if not point.keep:
            return Text("PRUNE" if ascii_only else "– to go", "late", end="")
        word = "kept again" if point.again else "kept"
        return Text(word if ascii_only else f"✓ {word}", "ok", end="")

    def action_prune_go(self) -> None:
        lost = self.lost
        text = Text.assemble(
            f"{_count(len(lost))} hidden in ", safe(self._repository, "strong"),
            f"; {len(self._judged) - len(lost)} are kept. Nothing is deleted yet: u in 5 Repositories has them back, "
            f"for {self._undo} at least, until a compact.", end="",
        )  # fmt: skip

        def go(yes: bool | None) -> None:
            if yes:
                words = ("prune", "--repository", self._repository)
                said = "Pruned. u in 5 Repositories has them back until the next compact."
                console_of(self).carry_out(Command(words, said), self._ended)

        self.app.push_screen(Ask("Prune?", text, "Prune"), go)

    def _ended(self, ended: Ended) -> None:
        if ended.ok and self.app.screen is self:
            self.app.pop_screen()

    def why_not(self, action: str) -> str:
        if action == "prune.go" and not self.lost:
            return "Every point is kept by a rule: there is nothing to prune."
        if action == "log":
            return "This is only a preview: it has no log."
        if action in ("mark", "mark-shown"):
            return "A prune takes all that no rule keeps; keep one with o (pin) in 4 Points."
        return ""

    # --- the list ---

    def action_problems(self) -> None:
        self.query_one(Listing).toggle_problems()

    def action_sort(self) -> None:
        self.query_one(Listing).next_sort()

    def action_sort_reverse(self) -> None:
        self.query_one(Listing).reverse_sort()

    def action_wide(self) -> None:
        self.query_one(Listing).toggle_wide()

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(Listing).set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.input.display = bool(event.value)
        self.query_one(Listing).focus()

    def step_back(self) -> bool:
        line, listing = self.query_one("#filter", Input), self.query_one(Listing)
        if line.display:
            line.value, line.display = "", False
            listing.set_filter("")
            listing.focus()
        elif listing.problems:
            listing.toggle_problems()
        else:
            return False
        return True

    @property
    def name_to_copy(self) -> str:
        point: Judged | None = self.query_one(Listing).current
        return point.archive if point else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("prune", "--dry-run", "--repository", self._repository)


def _count(count: int) -> str:
    return "1 point is" if count == 1 else f"{count} points are"
