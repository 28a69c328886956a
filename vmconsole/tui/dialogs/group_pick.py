"""Put guests into a group: which one, what that means, and one question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Static

from vmconsole.front.group_words import keep_in_words, when_in_words
from vmconsole.model.group import Group
from vmconsole.tui.app import Console
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Ask, Dialog
from vmconsole.tui.format import safe
from vmconsole.tui.group_fields import group_command
from vmconsole.tui.group_rows import group_keeps
from vmconsole.tui.picture import GuestRow, Picture
from vmconsole.tui.widgets.listing import Column, Listing

NEW = "a new group …"
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Pick:
    """group: None for a new one. joining: who would be added; inside: who is in it already; left_out: by whom."""

    group: Group | None
    joining: tuple[GuestRow, ...] = ()
    inside: tuple[GuestRow, ...] = ()
    left_out: tuple[tuple[GuestRow, str], ...] = ()

    @property
    def name(self) -> str:
        return self.group.name if self.group else NEW


def picks_for(rows: Sequence[GuestRow], groups: Sequence[Group]) -> list[Pick]:
    """What each group would mean for the guests, and a new one."""
    return [*(_pick(group, rows) for group in groups), Pick(None, tuple(rows))]


def _pick(group: Group, rows: Sequence[GuestRow]) -> Pick:
    out = tuple((row, by) for row in rows if (by := group.selector.excluded_by(row.guest)))
    inside = tuple(row for row in rows if group.selector.why(row.guest) is not None)
    known = {row.key for row, _ in out} | {row.key for row in inside}
    return Pick(group, tuple(row for row in rows if row.key not in known), inside, out)


def effect(pick: Pick, picture: Picture) -> Text:
    """What becomes of the guests, in a few lines."""
    text = Text(end="")
    group = pick.group
    if group is None:
        return text.append("A form opens with these guests in it.", "quiet")
    if pick.joining:
        text.append_text(_names(pick.joining)).append(": ")
        whens = [when_in_words(item, picture.now, picture.zone) for item in group.schedules]
        text.append_text(safe(" and ".join(whens) or "only by hand"))
        text.append_text(safe(f", into {group.repository}, keeping "))
        text.append("; ".join(keep_in_words(item) for item in group_keeps(group))).append(".\n")
        others = list(dict.fromkeys(name for row in pick.joining for name in row.groups))
        if others:
            names = ", ".join(others)
            text.append_text(
                safe(f"Also in {names} already: each group backs up by itself.", "warning")
            ).append("\n")
    if pick.inside:
        verb = "is" if len(pick.inside) == 1 else "are"
        text.append_text(_names(pick.inside)).append(f" {verb} in it already.\n", "quiet")
    for row, by in pick.left_out[:_NAMED]:
        text.append_text(safe(f"{row.guest.name} is left out by {by}: e on the group changes that.", "late"))
        text.append("\n")
    return text


def _names(rows: Sequence[GuestRow]) -> Text:
    text = Text(end="")
    for number, row in enumerate(rows[:_NAMED]):
        text.append(", " if number else "").append_text(safe(row.guest.name, "strong"))
    return text.append(f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")


class GroupPick(Dialog[Pick]):
    """Answers the group; None when none was chosen."""

    BINDINGS: ClassVar = [Binding("enter", "pick", show=False)]
    CSS = """
    GroupPick #effect { height: auto; min-height: 3; margin-top: 1; }
    GroupPick.-split Listing, GroupPick.-split Listing:focus, GroupPick.-wide Listing, GroupPick.-wide Listing:focus {
        border: none;
    }
    """

    def __init__(self, rows: Sequence[GuestRow], picture: Picture) -> None:
        super().__init__()
        self._guests, self._picture = rows, picture
        self._picks = picks_for(rows, picture.groups)

    def heading(self) -> Text:
        count = len(self._guests)
        who = safe(self._guests[0].guest.name, "title") if count == 1 else Text(f"{count} guests", "title")
        return Text.assemble("Put ", who, " into a group", end="")

    def content(self) -> ComposeResult:
        columns: list[Column[Pick]] = [
            Column("group", 14, lambda pick: safe(pick.name, "strong" if pick.group else "key"), grow=True),
            Column("when", 20, self._when),
            Column("", 18, _so_far),
        ]
        yield Listing(columns, lambda pick: pick.name, lambda pick: {"name": pick.name})
        yield Static(id="effect", markup=False)
        yield self.text(Text("enter chooses, esc leaves everything as it is", "quiet", end=""))

    def on_mount(self) -> None:
        listing = self.query_one(Listing)
        listing.styles.height = min(10, len(self._picks) + 1)
        listing.show(self._picks)
        listing.focus()
        self.on_listing_moved()

    def _when(self, pick: Pick) -> Text:
        if pick.group is None:
            return safe("")
        return safe(" + ".join(item.text for item in pick.group.schedules) or "by hand", "quiet")

    def on_listing_moved(self) -> None:
        if (pick := self.query_one(Listing).current) is not None:
            text = effect(pick, self._picture)
            self.query_one("#effect", Static).update(console_of(self).colours.paint(text))

    def on_listing_opened(self) -> None:
        self.action_pick()

    def action_pick(self) -> None:
        pick: Pick | None = self.query_one(Listing).current
        if pick is None:
            return
        if not pick.joining:
            self.notify("That changes nothing: choose another group.", severity="warning")
            return
        self.dismiss(pick)


def _so_far(pick: Pick) -> Text:
    if pick.group is None:
        return safe("")
    if pick.left_out and not pick.joining:
        return safe("leaves it out", "late")
    if not pick.joining:
        return safe("covers it already", "quiet")
    return safe(f"adds {len(pick.joining)}", "ok")


def open_group_pick(console: Console, rows: Sequence[GuestRow]) -> None:
    """Ask which group, say what changes, and change it."""

    def picked(pick: Pick | None) -> None:
        if pick is not None:
            _new(console, pick) if pick.group is None else _confirm(console, pick)

    console.push_screen(GroupPick(list(rows), console.picture), picked)


def _new(console: Console, pick: Pick) -> None:
    from vmconsole.tui.screens.group_form import form_for

    config = console.picture.config
    table = {"guests": [row.argument for row in pick.joining]}
    console.push_screen(form_for("", table, list(config.repositories) if config else []))


def _confirm(console: Console, pick: Pick) -> None:
    table = console.services.editor.fields("groups", pick.name)
    before = table.get("guests", [])
    guests = [*([before] if isinstance(before, str) else before), *(row.argument for row in pick.joining)]
    argv = group_command(pick.name, {"guests": guests}, new=False)
    count = len(pick.joining)
    command = Command(argv, f"{count} guest{'s' * (count != 1)} put into group {pick.name}.")
    text = effect(pick, console.picture)
    text.append_text(safe(command.text, "quiet"))

    def answered(yes: bool | None) -> None:
        if yes:
            console.carry_out(command, changed)

    def changed(_: Ended) -> None:
        console.services.reread()
        console.feed.look_now()

    console.push_screen(Ask(f"Put into {pick.name}?", text, "Put in"), answered)
