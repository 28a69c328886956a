"""Guests: is everything safe, and why not?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import ClassVar

from rich.text import Text

from vmconsole.model.history import GOOD_STATES, BackupState
from vmconsole.model.words import age, duration, size
from vmconsole.tui.format import safe, safe_lines, spark
from vmconsole.tui.keymap import bindings
from vmconsole.tui.picture import GuestRow, Picture
from vmconsole.tui.screens.place import Place
from vmconsole.tui.states import State
from vmconsole.tui.widgets.listing import Column, Listing


class Guests(Place[GuestRow]):
    PLACE: ClassVar = "guests"
    CONTEXTS: ClassVar = ("all", "list", "guests")
    BINDINGS: ClassVar = bindings("list", "guests")

    def make_listing(self) -> Listing[GuestRow]:
        glyphs = self.console_app.glyphs
        columns: list[Column[GuestRow]] = [
            Column("state", 9, lambda row: glyphs.label(row.state), sort=lambda row: _SEVERITY[row.state]),
            Column("guest", 16, _name, grow=True, sort=lambda row: row.guest.name),
            Column("host", 8, _host, drop=4, sort=lambda row: row.guest.host),
            Column("node", 8, lambda row: safe(row.guest.node, "quiet"), wide=True, drop=8),
            Column("group", 8, _groups, drop=5, sort=lambda row: row.groups),
            Column("last good", 12, self._last_good, sort=lambda row: row.age(self.picture.now) or 1e12),
            Column(
                "next", 8, self._next, drop=3, sort=lambda row: row.next.timestamp() if row.next else 1e12
            ),
            Column("disk", 9, _disk, right=True, drop=6, sort=lambda row: row.guest.size),
            Column("14 nights", 14, self._nights, drop=2),
            Column("stored", 9, _stored, right=True, drop=7, sort=lambda row: row.stored),
            Column("tags", 16, lambda row: safe(", ".join(row.guest.tags), "quiet"), wide=True, drop=9),
        ]
        return Listing(
            columns,
            lambda row: row.key,
            self._fields,
            lambda row: row.needs_attention,
            empty="No guest is known yet. R asks the hosts; 6 shows them.",
        )

    def rows(self, picture: Picture) -> Sequence[GuestRow]:
        return picture.guests

    def heading(self, picture: Picture) -> Text:
        if self.console_app.loading:
            return Text("Guests", "title", end="")
        considered = [row for row in picture.guests if row.state is not State.OFF]
        safe_ones = sum(not row.needs_attention for row in considered)
        text = Text("Guests ", "title", end="")
        style = "ok" if safe_ones == len(considered) else "late"
        text.append(f"{safe_ones} of {len(considered)} safe", style)
        if night := _last_night(picture):
            text.append(f" · {night}", "quiet")
        return text

    def detail_title(self, row: GuestRow) -> Text:
        guest = row.guest
        agent = "agent ok" if guest.agent else "no agent"
        disks = f"{len(guest.disks)} disk{'s' if len(guest.disks) != 1 else ''}"
        return Text.assemble(
            safe(guest.name, "title"),
            Text(f" {guest.host} · {disks} · {agent} · {guest.state.value}", "quiet"),
            end="",
        )

    def detail(self, row: GuestRow) -> Text:
        text = self._why(row)
        guest, good = row.guest, row.good
        if good is not None:
            when = good.started.astimezone(self.picture.zone)
            text.append("last good   ", "quiet")
            text.append(
                f"{when:%Y-%m-%d %H:%M}, {good.mode}, {good.consistency}, read {size(good.bytes_read)}, "
            )
            text.append(f"stored {size(good.bytes_stored)} in {duration(good.seconds)}\n")
            if good.reason:
                text.append("mode        ", "quiet")
                text.append_text(safe(good.reason)).append("\n")
        text.append("groups      ", "quiet")
        text.append_text(safe(", ".join(row.groups) or "none", "" if row.groups else "late")).append("\n")
        text.append("next        ", "quiet")
        text.append(
            f"{row.next.astimezone(self.picture.zone):%Y-%m-%d %H:%M}\n"
            if row.next
            else "nothing is scheduled\n"
        )
        for disk in guest.disks:
            text.append(f"{'disk' if disk is guest.disks[0] else '':12}", "quiet")
            text.append_text(safe(f"{disk.id}  {size(disk.size)}  {disk.format}  {disk.source}"))
            if disk.reason:
                text.append_text(safe(f"  {disk.reason}", "quiet" if disk.included else "late"))
            text.append("\n")
        for warning in guest.warnings:
            text.append("! ", "warning").append_text(safe(warning)).append("\n")
        return text

    def note(self, row: GuestRow) -> Text:
        return self._why(row)

    def side_title(self, row: GuestRow) -> Text:
        return Text.assemble("Backups of ", safe(row.guest.name, "title"), end="")

    def side(self, row: GuestRow) -> Text:
        """The newest attempts, good and bad."""
        text = Text(end="")
        for record in self.console_app.services.history.of_guest(row.key, _SHOWN):
            state = _RECORD_STATES[record.state]
            text.append_text(self.console_app.glyphs.label(state, record.state.value)).append(" ")
            text.append(f"{record.started.astimezone(self.picture.zone):%a %d %b %H:%M}", "quiet")
            if record.good:
                took = duration(record.seconds)
                text.append(
                    f"\n  {record.mode}, read {size(record.bytes_read)}, stored {size(record.bytes_stored)}, {took}"
                )
            if record.error:
                text.append("\n  ").append_text(safe_lines(record.error, "" if not record.good else "quiet"))
            text.append("\n")
        if not text.plain:
            text.append("No backup of this guest has been tried from here yet.", "quiet")
        return text

    def log_of(self, row: GuestRow) -> str:
        return row.last.run if row.last else ""

    def action_guests_backup(self) -> None:
        from vmconsole.tui.dialogs.backup import open_backup

        listing = self.listing
        if listing.chosen:
            open_backup(self.console_app, listing.chosen, begun=listing.clear_marks)

    def action_guests_points(self) -> None:
        from vmconsole.tui.screens.points import Points

        row = self.current
        self.console_app.go("points")
        if row is not None and isinstance(self.app.screen, Points):
            self.app.screen.show_only(row.key)

    @property
    def name_to_copy(self) -> str:
        return self.current.guest.name if self.current else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        return ("points", self.current.argument) if self.current else ()

    # --- restore ---

    def action_guests_restore(self) -> None:
        from vmconsole.tui.screens.restore import open_restore

        if (row := self.current) is not None:
            open_restore(self.console_app, None, "", row.key)

    def action_guests_files(self) -> None:
        from vmconsole.tui.screens.browse import browse_newest

        if (row := self.current) is not None and row.good is not None:
            browse_newest(self.console_app, row.key, row.good.repository)

    def why_not(self, action: str) -> str:
        if action in ("guests.restore", "guests.files"):
            if self.current is None:
                return "The list is empty."
            if self.current.good is None:
                return "No restore point yet: back up this guest first (b)."
        return super().why_not(action)

    def action_guests_group(self) -> None:
        from vmconsole.tui.dialogs.group_pick import open_group_pick

        if chosen := self.listing.chosen:
            open_group_pick(self.console_app, chosen)

    # --- cells ---

    def _why(self, row: GuestRow) -> Text:
        glyphs = self.console_app.glyphs
        if not row.why:
            return Text.assemble(glyphs.label(row.state), "\n", end="")
        text = Text.assemble(glyphs.label(row.state), ": ", safe_lines(row.why), end="")
        if row.fix:
            text.append(" ").append_text(safe(f"{row.fix}.", "key"))
        return text.append("\n")

    def _last_good(self, row: GuestRow) -> Text:
        if row.good is None:
            return safe("never", "quiet")
        return safe(age(self.picture.now - row.good.started), "late" if row.overdue else "")

    def _next(self, row: GuestRow) -> Text:
        if row.state is State.RUNNING:
            return safe("now", "running")
        if row.next is None:
            return safe("–", "quiet")
        if row.overdue:
            return safe("overdue", "late")
        return safe(_clock(row.next, self.picture))

    def _nights(self, row: GuestRow) -> Text:
        """Neighbours of one colour are one piece: each piece costs a slow line two dozen bytes."""
        plain = self.console_app.glyphs.ascii
        bars = spark(row.nights, ascii_only=plain)
        marked = zip(bars, row.failures, strict=False)
        text = Text(end="")
        for failed, group in groupby(marked, key=lambda pair: pair[1]):
            piece = "".join(("x" if plain else "✗") if failed else bar for bar, _ in group)
            text.append(piece, "failed" if failed else "running")
        return text

    def _fields(self, row: GuestRow) -> dict[str, str | float | None]:
        guest = row.guest
        return {
            "name": guest.name, "id": guest.id, "uuid": guest.uuid, "host": guest.host, "node": guest.node,
            "group": " ".join(row.groups) or "none", "tag": " ".join(guest.tags), "pool": guest.pool,
            "state": row.state.value, "kind": guest.kind.value, "power": guest.state.value,
            "age": row.age(self.picture.now), "size": guest.size, "stored": row.stored,
        }  # fmt: skip


_SHOWN = 30
_RECORD_STATES = {
    BackupState.RUNNING: State.RUNNING,
    BackupState.DONE: State.OK,
    BackupState.WARNINGS: State.WARNING,
    BackupState.FAILED: State.FAILED,
    BackupState.DIED: State.FAILED,
    BackupState.CANCELLED: State.OFF,
    BackupState.POSTPONED: State.QUEUED,
}
_SEVERITY = {
    state: number
    for number, state in enumerate(
        (
            State.FAILED, State.LATE, State.NEVER, State.WARNING, State.RUNNING, State.QUEUED, State.PAUSED, State.OK,
            State.OFF,
        )
    )
}  # fmt: skip


def _name(row: GuestRow) -> Text:
    return safe(row.guest.name, "strong")


def _host(row: GuestRow) -> Text:
    return safe(row.guest.host, "quiet")


def _disk(row: GuestRow) -> Text:
    return safe(size(row.guest.size))


def _stored(row: GuestRow) -> Text:
    return safe(size(row.stored) if row.good else "–")


def _groups(row: GuestRow) -> Text:
    return (
        safe(", ".join(row.groups), "")
        if row.groups
        else safe("(none)", "late" if row.needs_attention else "quiet")
    )


def _clock(moment: datetime, picture: Picture) -> str:
    """`02:00` within a day, else `Sat 02:00`."""
    local = moment.astimezone(picture.zone)
    days = (local.date() - picture.now.astimezone(picture.zone).date()).days
    if days == 0 or (days == 1 and local.hour < 12):
        return f"{local:%H:%M}"
    return f"{local:%a %H}h" if days < 7 else f"{local:%d %b}"


def _last_night(picture: Picture) -> str:
    """What the backups of the last 24 hours came to."""
    records = [record for record in picture.recent if record.state in GOOD_STATES]
    if not records:
        return ""
    begun = min(record.started for record in records).astimezone(picture.zone)
    ended = max(record.ended or record.started for record in records).astimezone(picture.zone)
    total = sum(row.guest.size for row in picture.guests)
    read = sum(record.bytes_read for record in records)
    stored = sum(record.bytes_stored for record in records)
    return (
        f"last night {begun:%H:%M}–{ended:%H:%M} · read {size(read)} of {size(total)} · stored {size(stored)}"
    )


def screen() -> Guests:
    return Guests()
