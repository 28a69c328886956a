"""Step 2 for disks: which ones, and where on this machine."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Input, Static

from vmconsole.model.point import DiskPoint
from vmconsole.model.words import size
from vmconsole.tui.context import console_of
from vmconsole.tui.format import clip, safe
from vmconsole.tui.restoring.choice import Choice, What, chosen_size, default_place
from vmconsole.tui.restoring.place import Looked, absolute, common_start, look_at
from vmconsole.tui.widgets.choices import Choices, Option


class PathInput(Input):
    """tab completes as a shell does, and goes on where there is nothing to complete."""

    BINDINGS: ClassVar = [Binding("tab", "complete", show=False)]
    folders: tuple[str, ...] = ()

    def action_complete(self) -> None:
        completed = common_start(self.folders, self.value)
        if completed == self.value:
            self.screen.focus_next()
            return
        self.value = completed
        self.cursor_position = len(completed)


class WhereFiles(VerticalScroll, can_focus=False):
    """Asks the file system in a thread of its own, once for each text that is typed and looked at."""

    DEFAULT_CSS: ClassVar = """
    WhereFiles { height: 1fr; padding: 0 1; }
    WhereFiles #disks { margin: 0 0 1 0; }
    WhereFiles #folders, WhereFiles #verdict { padding: 0 2; height: auto; }
    """

    class Decided(Message):
        """Other disks or another place, or more is known of it."""

    class Seen(Message):
        def __init__(self, looked: Looked, disks: tuple[str, ...]) -> None:
            super().__init__()
            self.looked, self.disks = looked, disks

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._choice: Choice | None = None
        self._suggested = ""
        self._looking = False
        self.looked: Looked | None = None
        """What is known of the text in the line; None while it is looked at."""

    def compose(self) -> ComposeResult:
        yield Static(id="disks-title", markup=False)
        yield Choices(id="disks")
        yield Static(id="to-title", markup=False)
        yield PathInput(id="to")
        yield Static(id="verdict", markup=False)
        yield Static(id="folders", markup=False)

    @property
    def _line(self) -> PathInput:
        return self.query_one(PathInput)

    @property
    def _disks(self) -> Choices:
        return self.query_one("#disks", Choices)

    def show(self, choice: Choice) -> None:
        """What was typed before stays, unless it was only our own suggestion for another point."""
        before, self._choice = self._choice, choice
        disks = self._disks
        one = choice.what is What.DISK
        stored = choice.point.stored_disks
        kept = before is not None and before.point == choice.point and before.what is choice.what
        disks.several = not one
        disks.display = len(stored) > 1
        self.query_one("#disks-title").display = disks.display
        disks.show(
            [Option(disk.id, disk.id, f"{size(disk.size)}  {disk.format}") for disk in stored],
            ticked=disks.ticked if kept else frozenset(disk.id for disk in stored),
        )
        console = console_of(self)
        paint = console.colours.paint
        self.query_one("#disks-title", Static).update(
            paint(Text("Which disk" if one else "Which disks (space ticks)", "title", end=""))
        )
        self.query_one("#to-title", Static).update(
            paint(
                Text("To which file of this machine" if one else "To which folder of this machine", "title")
            )
        )
        self._suggest()
        self.look()

    def _suggest(self) -> None:
        choice = self._choice
        if choice is None or self._line.value != self._suggested:
            return
        zone = console_of(self).picture.zone
        self._suggested = default_place(choice.point, choice.what, self.wanted, Path.home(), zone)
        self._line.value = self._suggested
        self._line.cursor_position = len(self._suggested)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The ids of the disks, in the point's order."""
        if self._choice is None:
            return ()
        ids = [disk.id for disk in self._choice.point.stored_disks]
        if len(ids) <= 1:
            return tuple(ids)
        current = self._disks.current
        if not self._disks.several:
            return (current.id,) if current else ()
        return tuple(name for name in ids if name in self._disks.ticked)

    def decided(self, choice: Choice) -> Choice:
        """The choice with what this step says."""
        every = len(self.wanted) == len(choice.point.stored_disks)
        disks = () if every else self.wanted
        return replace(choice, to=absolute(self._line.value), disks=disks)

    def why_not(self) -> str:
        if not self.wanted:
            return "Tick at least one disk."
        if self.looked is None:
            return "This place is still being looked at."
        return self.looked.refusal

    # --- looking ---

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.look()

    def on_choices_changed(self, event: Choices.Changed) -> None:
        event.stop()
        self._suggest()
        self.look()

    def look(self) -> None:
        self.looked = None
        self._show_verdict()
        choice = self._choice
        if choice is None or self._looking:
            return
        self._looking = True
        text, wanted, point = self._line.value, self.wanted, choice.point
        disks: list[DiskPoint] = [disk for disk in point.stored_disks if disk.id in wanted]
        # A daemon: a network file system that hangs holds up neither the screen nor the end.
        threading.Thread(
            target=lambda: self.post_message(self.Seen(look_at(text, point, disks), wanted)),
            name="look at a folder",
            daemon=True,
        ).start()

    def on_where_files_seen(self, message: Seen) -> None:
        message.stop()
        self._looking = False
        if message.looked.text != self._line.value or message.disks != self.wanted:
            self.look()
            return
        self.looked = message.looked
        self._line.folders = message.looked.folders
        self._show_verdict()
        self.post_message(self.Decided())

    def _show_verdict(self) -> None:
        paint = console_of(self).colours.paint
        self.query_one("#verdict", Static).update(paint(self._verdict()))
        self.query_one("#folders", Static).update(paint(self._folders()))

    def _verdict(self) -> Text:
        looked, choice = self.looked, self._choice
        if looked is None or choice is None:
            return Text("looking …", "quiet", end="")
        glyphs = console_of(self).glyphs
        if reason := self.why_not():
            mark = "FAIL " if glyphs.ascii else "✗ "
            return Text.assemble((mark, "failed"), safe_wrapped(reason), end="")
        text = Text("OK " if glyphs.ascii else "✓ ", "ok", end="")
        needed = chosen_size(replace(choice, disks=self.wanted))
        made = "A new folder is made. " if looked.new_folder else ""
        text.append(f"{made}{looked.note(needed)}", "late" if 0 <= looked.free < needed else "")
        for disk, path in looked.files:
            text.append("\n  ").append_text(safe_wrapped(f"{disk} → {path}", "quiet"))
        return text

    def _folders(self) -> Text:
        folders = self.looked.folders if self.looked else ()
        if not folders or not self._line.has_focus:
            return Text("", end="")
        shown = "  ".join(Path(folder).name + "/" for folder in folders[:12])
        more = f"  and {len(folders) - 12} more" if len(folders) > 12 else ""
        return Text.assemble(
            ("\ntab  ", "key"),
            safe(clip(shown, max(20, self.size.width - 20)), "quiet"),
            (more, "quiet"),
            end="",
        )


def safe_wrapped(text: str, style: str = "") -> Text:
    """As safe(), but wrapped instead of cut."""
    return Text(safe(text).plain, style, end="")
