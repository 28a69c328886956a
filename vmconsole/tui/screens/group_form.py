"""A group in a form, with what would come of it beside."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import DescendantFocus
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Label, Static

from vmconsole.model.words import visible
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.format import safe
from vmconsole.tui.group_fields import FIELDS, SCHEDULE_FIELDS, Field, Kind, schedule_in_short, texts_of
from vmconsole.tui.group_preview import Preview, Wish, preview_of, preview_text
from vmconsole.tui.keymap import bindings
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.choice import Choice
from vmconsole.tui.widgets.opener import Opener
from vmconsole.tui.widgets.pane import Pane

_QUIET_SECONDS = 0.25
_NAME = Field("name", "name", Kind.TEXT, "letters, digits, - and _; it cannot be changed later", "daily")


class GroupForm(Screen[bool]):
    """name: of the group to be changed; empty for a new one, whose fields then begin with `texts`.

    Answers True when it was saved.
    """

    CONTEXTS: ClassVar = ("all", "group-form")
    BINDINGS: ClassVar = [
        *bindings("group-form"),
        Binding("down", "field(1)", show=False),
        Binding("up", "field(-1)", show=False),
    ]
    CSS = """
    GroupForm #heading { background: $surface; }
    GroupForm #form { height: 1fr; }
    GroupForm #left { width: 56; }
    GroupForm #fields { height: 1fr; overflow-y: auto; scrollbar-size-vertical: 1; padding: 0 1; }
    GroupForm .field { height: 1; }
    GroupForm .field Label { width: 14; color: $text-muted; }
    GroupForm .field Input { height: 1; border: none; padding: 0; width: 1fr; background: $surface; }
    GroupForm .field Input:focus { background: $panel; }
    GroupForm .field Choice { background: $surface; }
    GroupForm #hint { height: 2; padding: 0 1; }
    GroupForm #preview { width: 1fr; border-left: solid $border-blurred; }
    GroupForm.-narrow #form { layout: vertical; }
    GroupForm.-narrow #left { width: 1fr; height: 1fr; }
    GroupForm.-narrow #hint { height: 1; }
    GroupForm.-narrow #preview { height: 38%; border-left: none; border-top: solid $border-blurred; }
    GroupForm.-wide #left { width: 76; }
    """

    class Previewed(Message):
        def __init__(self, preview: Preview) -> None:
            super().__init__()
            self.preview = preview

    def __init__(
        self,
        name: str,
        table: Mapping[str, object],
        repositories: Sequence[str],
        schedule: str = "",
    ) -> None:
        """table: the group as it stands in the file, or what a new one begins with.

        schedule: the one of several that the form is about; table is then its own.
        """
        super().__init__()
        self._group, self._schedule = name, schedule
        self._items = SCHEDULE_FIELDS if schedule else FIELDS
        self._given = texts_of(table, self._items)
        self._before = self._given if name else texts_of({}, self._items)
        self._repositories = repositories
        self._schedules = _own_schedules(table)
        self._timer: Timer | None = None
        self._thinking = False
        self.preview: Preview | None = None
        """Of what stands in the fields; None while that is being found out."""

    # --- parts ---

    def compose(self) -> ComposeResult:
        yield Static(id="heading", markup=False)
        with Horizontal(id="form"):
            with Vertical(id="left"):
                # Not one of the scrolling kinds: those would take the arrows for themselves.
                with Vertical(id="fields"):
                    if not self._group:
                        yield self._line(_NAME, Input(id="name", select_on_focus=False))
                    for item in self._items:
                        if item.key == "when" and self._schedules:
                            yield from self._schedule_lines()
                        else:
                            yield self._line(item, self._widget(item))
                yield Static(id="hint", markup=False)
            yield Pane(id="preview")
        yield KeyBar()

    def _line(self, item: Field, widget: Widget) -> Horizontal:
        return Horizontal(Label(item.label, markup=False), widget, classes="field")

    def _schedule_lines(self) -> Iterator[Horizontal]:
        for number, (name, table) in enumerate(self._schedules.items()):
            label = Label("" if number else "schedules", markup=False)
            opener = Opener(name, f"{name}: {schedule_in_short(table)}")
            yield Horizontal(label, opener, classes="field")

    def _widget(self, item: Field) -> Widget:
        text = self._given[item.key]
        if item.kind is Kind.REPOSITORY:
            names = [(name, name) for name in dict.fromkeys((*self._repositories, *([text] if text else [])))]
            return Choice([("", "the default"), *names], text, id=item.key)
        if item.kind is Kind.FLAG:
            return Choice([("no", "no"), ("yes", "yes")], text, id=item.key)
        if item.kind is Kind.WORD:
            return Choice(item.words, text, id=item.key)
        if item.kind is Kind.THREE:
            return Choice([("default", "as in [defaults]"), ("yes", "yes"), ("no", "no")], text, id=item.key)
        return Input(visible(text), id=item.key, select_on_focus=False)

    def on_mount(self) -> None:
        title = Text.assemble("Group ", safe(self._group or "new", "title"), end="")
        if self._schedule:
            title.append(", schedule ").append_text(safe(self._schedule, "title"))
        self.query_one("#heading", Static).update(console_of(self).colours.paint(title))
        self.query_one("#preview", Pane).border_title = Content("what would come of it")
        first = self.query("#fields Input").first()
        first.focus()
        self._think()

    # --- what stands in the fields ---

    def wish(self) -> Wish:
        after = dict(self._given)
        for item in self._items:
            for widget in self.query(f"#{item.key}"):
                if isinstance(widget, Input | Choice):
                    after[item.key] = widget.value
        # A name with invisible letters is shown escaped; untouched it is what it was.
        after = {
            key: self._given[key] if text == visible(self._given[key]) else text
            for key, text in after.items()
        }
        name = self._group or self.query_one("#name", Input).value.strip()
        return Wish(name, not self._group, self._before, after, self._schedule)

    @property
    def touched(self) -> bool:
        wish = self.wish()
        return dict(wish.after) != self._given or (wish.new and bool(wish.name))

    def on_input_changed(self) -> None:
        self._later()

    def on_choice_changed(self) -> None:
        self._later()

    def on_input_submitted(self) -> None:
        self.focus_next()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        key = event.widget.id or ""
        item = next((item for item in (_NAME, *self._items) if item.key == key), None)
        if isinstance(event.widget, Opener):
            told = "enter changes this one; another one is made in the file, with E in the list of groups"
        else:
            told = item.hint if item else "the arrows scroll; tab goes back to the fields"
        hint = safe(told, "quiet")
        hint.no_wrap = False
        if item and item.example:
            hint.append("; as in ").append(item.example, "strong")
        self.query_one("#hint", Static).update(console_of(self).colours.paint(hint))

    def _later(self) -> None:
        """When nothing has been typed for a moment."""
        self.preview = None
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_QUIET_SECONDS, self._think)

    def _think(self) -> None:
        """One thread at a time; what was typed meanwhile is looked at when it is done."""
        if self._thinking:
            return
        self._thinking = True
        wish, console = self.wish(), console_of(self)
        picture, services = console.picture, console.services

        def think() -> None:
            self.post_message(self.Previewed(preview_of(wish, services, picture)))

        threading.Thread(target=think, name="preview", daemon=True).start()

    def on_group_form_previewed(self, message: Previewed) -> None:
        self._thinking = False
        if message.preview.wish != self.wish():
            self._think()
            return
        self.preview = message.preview
        self.query_one("#preview", Pane).show(
            preview_text(message.preview, console_of(self).picture, console_of(self).glyphs)
        )
        self.query_one(KeyBar).refresh()

    # --- actions ---

    def why_not(self, action: str) -> str:
        if action not in ("group-form.save", "group-form.copy"):
            return ""
        if self.preview is None:
            return "It is still being checked: press again in a moment."
        if self.preview.error is not None:
            return f"It cannot be saved yet: {self.preview.error.message}"
        return "" if self.preview.command else "Nothing is changed yet."

    def action_group_form_save(self) -> None:
        preview = self.preview
        if preview is None or not preview.ready:
            return
        if preview.unprotected:
            names = ", ".join(guest.name for guest in preview.unprotected[:5])
            more = len(preview.unprotected) - 5
            text = safe(f"In no group any more: {names}{f' and {more} more' if more > 0 else ''}.", "late")
            text.no_wrap = False
            text.append("\nNothing will back them up by itself. Their restore points stay.")
            self.app.push_screen(Ask("Save all the same?", text, "Save"), self._answered)
        else:
            self._save()

    def _answered(self, yes: bool | None) -> None:
        if yes:
            self._save()

    def _save(self) -> None:
        if self.preview is None:
            return
        wish = self.preview.wish
        what = f"Schedule {wish.schedule} of group {wish.name}" if wish.schedule else f"Group {wish.name}"
        said = f"{what} was {'made' if wish.new else 'changed'}."
        console_of(self).carry_out(Command(self.preview.command, said), self._saved)

    def _saved(self, ended: Ended) -> None:
        console = console_of(self)
        console.services.reread()
        console.feed.look_now()
        if ended.ok and self.is_attached:
            self.dismiss(True)

    def on_opener_opened(self, message: Opener.Opened) -> None:
        """What was typed here stays; the schedule is a table, and a command, of its own."""
        name = message.name
        form = GroupForm(self._group, self._schedules[name], (), name)
        self.app.push_screen(form, self._schedule_left)

    def _schedule_left(self, saved: bool | None) -> None:
        if not saved:
            return
        self._schedules = _own_schedules(console_of(self).services.editor.fields("groups", self._group))
        for opener in self.query(Opener):
            if (table := self._schedules.get(opener.name or "")) is not None:
                opener.show(f"{opener.name}: {schedule_in_short(table)}")
        self._later()

    def action_field(self, by: int) -> None:
        """The field below or above; round at the ends."""
        kinds = "#fields Input, #fields Choice, #fields Opener"
        fields = [widget for widget in self.query(kinds) if isinstance(widget, Widget)]
        at = fields.index(self.focused) if self.focused in fields else -by
        fields[(at + by) % len(fields)].focus()

    def action_group_form_copy(self) -> None:
        console_of(self).action_copy_command()

    @property
    def command_to_copy(self) -> Sequence[str]:
        return self.preview.command if self.preview else ()

    def step_back(self) -> bool:
        """What was typed is not thrown away without asking."""
        if not self.touched:
            return False
        text = Text("What was typed is lost.", end="")
        self.app.push_screen(Ask("Leave without saving?", text, "Leave", "Go on typing"), self._left)
        return True

    def _left(self, yes: bool | None) -> None:
        if yes:
            self.dismiss(False)


def form_for(name: str, table: Mapping[str, object], repositories: Sequence[str]) -> GroupForm:
    """For the group of that name. table: as it stands in the file."""
    return GroupForm(name, table, repositories)


def _own_schedules(table: Mapping[str, object]) -> Mapping[str, Mapping[str, object]]:
    """Those that have tables of their own within the group's."""
    own = table.get("schedules")
    return own if isinstance(own, Mapping) else {}
