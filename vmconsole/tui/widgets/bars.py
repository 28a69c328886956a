"""The line at the top, and the keys at the bottom."""

from __future__ import annotations

from textwrap import wrap

from rich.cells import cell_len
from rich.text import Text
from textual.widget import Widget

from vmconsole.model.words import visible
from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import PLACES, key_names
from vmconsole.tui.states import State

_MOST_TROUBLE = 6
"""Lines."""


class TopBar(Widget):
    """The places with their digits, the current one marked, and on the right what matters now.

    Below it, while the memory cannot be read, why, and what to do about it.
    """

    DEFAULT_CSS = "TopBar { height: 1; dock: top; }"

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def on_mount(self) -> None:
        self.show_picture()

    def on_resize(self) -> None:
        self.show_picture()

    def show_picture(self) -> None:
        self.styles.height = 1 + len(self._trouble())
        self.refresh()

    def render(self) -> Text:
        text = self._places_and_now()
        for line in self._trouble():
            text.append("\n").append_text(line)
        return console_of(self).colours.paint(text)

    def _trouble(self) -> list[Text]:
        console = console_of(self)
        trouble, width = console.picture.trouble, max(20, self.app.size.width - 4)
        if trouble is None:
            return []
        told = f"{visible(trouble.message)} What is shown was known before; this is tried again by itself."
        lines = [safe(line, "failed") for line in _wrapped(told, width)]
        lines += [safe(line) for line in _wrapped(visible(trouble.hint), width)]
        first_hint = len(_wrapped(told, width))
        marks = {0: (f"{console.glyphs.of(State.FAILED)} ", "failed"), first_hint: ("→ ", "key")}
        return [
            Text.assemble(" ", marks.get(number, "  "), line, end="")
            for number, line in enumerate(lines[:_MOST_TROUBLE])
        ]

    def _places_and_now(self) -> Text:
        width = self.size.width
        right = self._now()
        for names in (True, False):
            left = self._places(names=names)
            if cell_len(left.plain) + cell_len(right.plain) + 2 <= width:
                break
        else:
            right = Text("", end="")
        gap = max(1, width - cell_len(left.plain) - cell_len(right.plain) - 1)
        return Text.assemble(left, " " * gap, right, " ", end="")

    def _places(self, *, names: bool) -> Text:
        text = Text(" ", end="")
        if names and self.size.width >= 100:
            text.append("vmconsole  ", "title")
        for number, place in enumerate(PLACES, 1):
            here = place == self._place
            text.append(f" {number} ", "key reverse" if here else "key")
            if names or here:
                label = place.capitalize() if self.size.width >= 92 or here else place.capitalize()[:6]
                text.append(f"{label} ", "title" if here else "quiet")
        return text

    def _now(self) -> Text:
        console = console_of(self)
        picture = console.picture
        text = Text(end="")
        parts: list[tuple[str, str]] = []
        if console.settings.read_only:
            parts.append(("read-only", "warning"))
        if console.asking:
            parts.append(
                (f"asking {len(console.asking)} host{'s' if len(console.asking) > 1 else ''}", "quiet")
            )
        if picture.running:
            parts.append((f"{len(picture.running)} running", "running"))
        bad = sum(row.state is State.FAILED for row in picture.guests)
        late = sum(row.state in (State.LATE, State.NEVER) for row in picture.guests)
        if bad:
            parts.append((f"{bad} failed", "failed"))
        if late:
            parts.append((f"{late} late", "late"))
        for number, (part, style) in enumerate(parts):
            text.append(" · " if number else "", "quiet")
            text.append(part, style)
        return text


class KeyBar(Widget):
    """The keys that matter here; those that cannot be used now are dim, and say why when pressed."""

    DEFAULT_CSS = "KeyBar { height: 1; dock: bottom; }"

    def render(self) -> Text:
        console = console_of(self)
        text = Text(" ", end="")
        shown = [key for key in console.keys_here() if key.shown]
        # What belongs to this screen is named first, and help is never cut off.
        shown.sort(key=lambda key: (key.context == "all", key.context == "list"))
        last = [key for key in shown if key.id == "help"]
        room = self.size.width - sum(len(key.label) + 5 for key in last)
        for key in [key for key in shown if key.id != "help"]:
            name = key_names(console.settings.keys.get(key.id, key.keys))[0]
            if cell_len(text.plain) + len(name) + len(key.label) + 3 > room:
                break
            self._add(text, name, key.label, dim=bool(console.why_not(key)))
        for key in last:
            self._add(text, key_names(console.settings.keys.get(key.id, key.keys))[0], key.label, dim=False)
        return console.colours.paint(text)

    def _add(self, text: Text, name: str, label: str, *, dim: bool) -> None:
        text.append(name, "off" if dim else "key bold")
        text.append(f" {label}  ", "off" if dim else "quiet")


def _wrapped(text: str, width: int) -> list[str]:
    """A path with hyphens in it stays in one piece."""
    return wrap(text, width, break_on_hyphens=False)
