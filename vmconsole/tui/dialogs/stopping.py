"""Stopping runs: what is lost by it is said first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from vmconsole.model.words import size
from vmconsole.tui.app import Console
from vmconsole.tui.commands import Command
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.following import Following
from vmconsole.tui.format import safe_lines
from vmconsole.tui.runrows import RunRow


def why_not_stop(rows: Sequence[RunRow]) -> str:
    """rows: the chosen ones."""
    if not rows:
        return "The list is empty."
    if any(row.running for row in rows):
        return ""
    if len(rows) > 1:
        return "None of the marked runs is running."
    return f"Run {rows[0].run.id} is not running: {rows[0].word}."


def ask_to_stop(console: Console, rows: Sequence[tuple[RunRow, Following]]) -> None:
    """rows: with what is known of how far they are."""
    if not rows:
        return
    text = Text(end="")
    for row, following in rows:
        text.append_text(what_is_lost(row, following))

    def answered(yes: bool | None) -> None:
        if not yes:
            return
        for row, _ in rows:
            run = row.run.id
            console.carry_out(Command(("stop", run), done=f"Run {run} has stopped."))
        console.notify("Asked to stop; guests are released first.", markup=False)

    title = "Stop this run?" if len(rows) == 1 else f"Stop {len(rows)} runs?"
    console.push_screen(Ask(title, text, "Stop", "Let it go on"), answered)


def what_is_lost(row: RunRow, following: Following) -> Text:
    run = row.run
    text = safe_lines(f"{row.what}, for {row.took}", "strong").append("\n")
    working = [guest for guest in following.working if guest.name]
    if run.kind in ("backup", "schedule"):
        for guest in working:
            read = f"{size(guest.done)} of {size(guest.total)}" if guest.disks else "nothing"
            text.append_text(
                safe_lines(f"  {guest.name}: {read} was read so far; it has to be read again.", "late")
            )
            text.append("\n")
        if row.waits:
            text.append(f"  {_guests(len(row.waits))} to come {_is(len(row.waits))} not begun.\n")
        made = following.made
        text.append(
            f"  {_points(made)} of this run {'stays' if made == 1 else 'stay'}.\n" if made else "", "ok"
        )
        text.append("The guests themselves go on running; nothing half-written stays.\n", "quiet")
    elif run.kind == "restore":
        text.append("  What was restored so far is removed again.\n", "late")
    else:
        text.append("  It stops at the next safe point, and can be begun again.\n", "quiet")
    return text


def _guests(count: int) -> str:
    return "1 guest" if count == 1 else f"{count} guests"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _points(count: int) -> str:
    return "1 restore point" if count == 1 else f"{count} restore points"
