"""Step 3: what will be written, what the host says of it, and the command that does it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo
from typing import Any, ClassVar

from rich.cells import cell_len, chop_cells
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Button

from vmconsole.model.words import size
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe
from vmconsole.tui.restoring.choice import Choice, chosen_size, command
from vmconsole.tui.restoring.what import disks_of
from vmconsole.tui.widgets.pane import Pane

_INDENT = 11


class Review(Vertical):
    """Shows what a dry run of the real command says. The buttons are the screen's business."""

    DEFAULT_CSS: ClassVar = """
    Review { height: 1fr; }
    Review Pane { height: 1fr; }
    Review #buttons { height: 1; padding: 0 2; margin: 0 0 1 0; }
    """

    def compose(self) -> ComposeResult:
        yield Pane(id="review")
        with Horizontal(id="buttons"):
            yield Button(Content("Back"), id="back")
            yield Button(Content("Restore"), id="go", variant="warning", disabled=True)

    def show(self, choice: Choice, checked: Ended | None, why_not: str) -> None:
        """checked: the dry run; None while it goes on. why_not: why it cannot be started."""
        console = console_of(self)
        marks = ("OK", "FAIL", "!") if console.glyphs.ascii else ("✓", "✗", "!")
        # Of the whole console: before it is shown for the first time, this step has no width of its own.
        width = console.size.width - 4
        self.query_one(Pane).show(review_text(choice, checked, console.picture.zone, marks, width))
        go = self.query_one("#go", Button)
        if go.disabled is not bool(why_not):
            go.disabled = bool(why_not)


def review_text(
    choice: Choice, checked: Ended | None, zone: tzinfo, marks: Sequence[str], width: int
) -> Text:
    """marks: for well, for failed, for a note. width: columns, for lines that are folded."""
    rows = _Rows(width)
    point = choice.point
    when = f"{point.time.astimezone(zone):%Y-%m-%d %H:%M}"
    rows.add("what", f"{point.guest} of {when}, {point.mode.value}, {point.consistency.value}", "strong")
    named = f"disk{'s' if len(choice.disks) > 1 else ''} {', '.join(choice.disks)}"
    rows.add(
        "", f"{named if choice.disks else disks_of(point)}, {size(chosen_size(choice))}; zeros stay holes"
    )
    if choice.what.to_files:
        rows.add("where", f"{choice.to} on this machine", "strong")
    else:
        rows.add("where", f"a new guest {choice.name} on {choice.host}", "strong")
        storage = f"storage {choice.storage}" if choice.storage else "the host chooses the storage"
        rows.add("", f"{storage}; {'started when it is whole' if choice.start else 'not started'}")
    rows.gap()
    _checked(rows, choice, checked, marks)
    rows.gap()
    rows.add("safe", untouched(choice))
    rows.add("command", Command(command(choice)).text, "key")
    rows.add("", "Y copies it.", "quiet")
    return rows.text


def untouched(choice: Choice) -> str:
    """What stays as it is."""
    if choice.what.to_files:
        return "Nothing that exists is overwritten: the files are new, and a failed or stopped restore leaves none."
    return (
        f"Nothing that exists is overwritten: {choice.name} gets a number, an identity and disks of its own. A failed "
        "or stopped restore removes what it made."
    )


def _checked(rows: _Rows, choice: Choice, checked: Ended | None, marks: Sequence[str]) -> None:
    good, bad, note = marks
    if checked is None:
        asked = "this machine" if choice.what.to_files else choice.host
        rows.add("dry run", f"… asking {asked} and the repository", "running")
        return
    if not checked.ok:
        rows.add("dry run", f"{bad} {checked.error}", "failed")
        if checked.hint:
            rows.add("", f"→ {checked.hint}")
        rows.add("", "esc goes back and keeps what was chosen; c checks again.", "quiet")
        return
    document: dict[str, Any] = checked.document if isinstance(checked.document, dict) else {}
    if choice.what.to_files:
        rows.add("dry run", f"{good} the repository has it, and the place is free", "ok")
        for file in document.get("files", ()):
            rows.add("", f"{file['disk']} → {file['path']}  {size(int(file['size']))}", "quiet")
        return
    notes = [str(item) for item in document.get("notes", ())]
    rows.add("dry run", f"{good} {choice.host} would take it; nothing was changed yet", "ok")
    if notes:
        rows.add("but", "this is not carried over as it was:", "late")
    for item in notes:
        rows.add("", f"{note} {item}", "late")


class _Rows:
    """Titles on the left, and beside them text that is folded there."""

    def __init__(self, width: int) -> None:
        self.text = Text(end="")
        self._room = max(20, width - _INDENT)

    def gap(self) -> None:
        self.text.append("\n")

    def add(self, title: str, content: str, style: str = "") -> None:
        for line in folded(safe(content).plain, self._room):
            self.text.append(f"{title:{_INDENT}}", "quiet").append(line, style).append("\n")
            title = ""


def folded(text: str, width: int) -> list[str]:
    """Lines of at most width columns, broken between words where that is possible."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, width) or [""]
        lines += whole
    return [*lines, line]
