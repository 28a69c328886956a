"""The keys that work here, then what the words mean."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult

from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.keymap import Key, key_names
from vmconsole.tui.states import MEANINGS
from vmconsole.tui.widgets.pane import Pane

_WORDS = (
    ("host", "a hypervisor that is reached over SSH"),
    ("guest", "a virtual machine or container"),
    ("group", "which guests, when, how long to keep, into which repository"),
    ("run", "one execution; it goes on when the console is closed"),
    ("restore point", "one backup of one guest: one Borg archive, whole by itself"),
    ("last good", "when the newest restore point was made"),
    ("14 nights", "how much had changed, night by night; ✗ where the backup failed"),
    ("application", "frozen through the guest agent at the cut: files were whole"),
    ("crash", "cut while running, as after a power failure"),
)


class Help(Dialog[None]):
    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__()
        self._keys = keys

    def heading(self) -> Text:
        return Text("Keys and words", "title", end="")

    def content(self) -> ComposeResult:
        yield Pane(id="help")

    def on_mount(self) -> None:
        pane = self.query_one(Pane)
        pane.show(help_text(self._keys, console_of(self)))
        pane.focus()


def help_text(keys: Sequence[Key], console: object) -> Text:
    from vmconsole.tui.app import Console

    assert isinstance(console, Console)
    text = Text(end="")
    own = [key for key in keys if key.context not in ("all", "list")]
    for title, part in (
        ("Here", own),
        ("In lists", [key for key in keys if key.context == "list"]),
        ("Everywhere", [key for key in keys if key.context == "all"]),
    ):
        if not part:
            continue
        text.append(f"{title}\n", "title")
        for key in part:
            names = " ".join(key_names(console.settings.keys.get(key.id, key.keys)))
            text.append(f"  {names:<12}", "key").append(f"{key.help}  ").append(f"{key.id}\n", "off")
            if reason := console.why_not(key):
                text.append(f"  {'':12}not now: {reason}\n", "off")
    text.append("  ↑ ↓ j k      move   g G   first and last   tab   next pane\n", "quiet")
    text.append("\nStates\n", "title")
    for state, meaning in MEANINGS.items():
        label = console.glyphs.label(state)
        text.append("  ").append_text(label).append(" " * max(1, 12 - len(label.plain))).append(
            f"{meaning}\n"
        )
    text.append("\nWords\n", "title")
    for word, meaning in _WORDS:
        text.append(f"  {word:<15}", "strong").append(f"{meaning}\n")
    text.append("\nThe mouse works too; with shift it selects text. esc closes this.\n", "quiet")
    return text
