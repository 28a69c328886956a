"""All keys, once: bindings, the key bar, the help, the palette and the README's table are made from this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from textual.binding import Binding


class Risk(Enum):
    """What an action may cost; more than NONE vanishes in read-only mode."""

    NONE = "none"
    CHANGES = "changes"
    """Can be undone: asks once, or shows what will happen."""
    STOPS = "stops"
    """Stops work: the question says what is lost."""
    DESTROYS = "destroys"
    """Cannot be undone: the name must be typed."""


@dataclass(frozen=True, slots=True)
class Key:
    """One action. id is stable, for [console.keys]; keys: as Textual names them, with commas between.

    context: `all`, `list`, or the one screen it belongs to. shown: in the key bar, of which few fit.
    """

    id: str
    keys: str
    label: str
    help: str
    context: str = "all"
    shown: bool = False
    risk: Risk = Risk.NONE

    @property
    def action(self) -> str:
        """The method is `action_` and this."""
        return self.id.replace(".", "_").replace("-", "_")


PLACES = ("guests", "groups", "runs", "points", "repositories", "hosts")
"""In the order of their digits."""

KEYS = (
    *(
        Key(f"go.{place}", str(number), place.capitalize(), f"go to {place}")
        for number, place in enumerate(PLACES, 1)
    ),
    Key("help", "question_mark,f1", "help", "the keys that work here, and what the words mean", shown=True),
    Key("palette", "colon,ctrl+p", "palette", "any action, place or guest by name"),
    Key("back", "escape", "back", "filter, marks, screen: one step back each"),
    Key("quit-or-back", "q", "quit", "back; at a place, leave"),
    Key("commands", "at", "commands", "the commands that were run from here"),
    Key("copy", "y", "copy name", "copy the name or id under the cursor"),
    Key("copy-command", "Y", "copy command", "copy the command that shows the same"),
    Key("reload", "R,f5", "reload", "ask the hosts and read the repositories now"),
    Key("theme", "T", "theme", "the next theme: dark, light, colour-blind, the terminal's own"),
    Key("quit", "ctrl+q", "quit", "leave from anywhere; runs go on"),
    # --- lists ---
    Key("filter", "slash", "filter", "narrow the list as you type: web state:failed age>2d !test", "list"),
    Key("problems", "exclamation_mark", "problems", "only what needs attention", "list", shown=True),
    Key("open", "enter", "open", "the whole detail", "list"),
    Key("mark", "space", "mark", "mark the row and go on; actions then take all marked rows", "list"),
    Key("mark-shown", "asterisk", "mark all", "mark all rows that are shown, or none", "list"),
    Key("sort", "s", "sort", "sort by the next column", "list"),
    Key("sort-reverse", "S", "reverse", "turn the order round", "list"),
    Key("wide", "w", "wide", "more columns", "list"),
    Key("freeze", "z", "hold still", "stop live changes until pressed again", "list"),
    Key("log", "l", "log", "the log of the newest run of this row", "list", shown=True),
    # --- guests ---
    Key("guests.backup", "b", "back up", "back up now", "guests", shown=True, risk=Risk.CHANGES),
    Key("guests.restore", "r", "restore", "restore: what, where, review", "guests", shown=True),
    Key("guests.files", "f", "files", "files in the newest restore point", "guests", shown=True),
    Key("guests.points", "p", "points", "this guest's restore points", "guests"),
    Key("guests.group", "a", "add to group", "put the guest into a group", "guests", risk=Risk.CHANGES),
    # --- groups ---
    Key(
        "groups.backup",
        "b",
        "back up",
        "back up all guests of the group now",
        "groups",
        shown=True,
        risk=Risk.CHANGES,
    ),
    Key(
        "groups.edit",
        "e",
        "edit",
        "change which guests, when, how long",
        "groups",
        shown=True,
        risk=Risk.CHANGES,
    ),
    Key(
        "groups.pause", "p", "pause", "pause its schedules, or go on", "groups", shown=True, risk=Risk.CHANGES
    ),
    Key("groups.new", "n", "new", "make a new group", "groups", risk=Risk.CHANGES),
    Key("groups.timeline", "t", "timeline", "what is due when, of all groups", "groups"),
    Key(
        "groups.editor",
        "E",
        "edit the file",
        "open the configuration file in your editor",
        "groups",
        risk=Risk.CHANGES,
    ),
    Key(
        "groups.remove",
        "D",
        "remove",
        "remove the group; its restore points stay",
        "groups",
        risk=Risk.DESTROYS,
    ),
    Key(
        "group-form.save", "ctrl+s,f2", "save", "save the group", "group-form", shown=True, risk=Risk.CHANGES
    ),
    Key(
        "group-form.copy",
        "ctrl+y",
        "copy command",
        "copy the command that does the same",
        "group-form",
        shown=True,
    ),
    Key(
        "group-form.repository",
        "ctrl+o",
        "next choice",
        "the next of the repositories, or of yes and no",
        "group-form",
    ),
    # --- runs ---
    Key("runs.stop", "x", "stop", "stop the run cleanly", "runs", shown=True, risk=Risk.STOPS),
    Key("run.log", "l,enter", "log", "the log of this run", "run", shown=True),
    # --- points ---
    Key("points.restore", "r", "restore", "restore this point: what, where, review", "points", shown=True),
    Key("points.files", "f", "files", "the files in this point", "points", shown=True),
    Key(
        "points.pin",
        "o",
        "pin",
        "keep it whatever the rules say; again: no longer",
        "points",
        shown=True,
        risk=Risk.CHANGES,
    ),
    Key("points.compare", "c", "compare", "two marked points side by side", "points", shown=True),
    Key("points.only", "t", "this guest", "only this guest's points, or all again", "points", shown=True),
    Key("points.pruned", "P", "pruned", "show what was pruned, or hide it again", "points"),
    Key("points.undo", "u", "undo prune", "have a pruned point back", "points", risk=Risk.CHANGES),
    Key("points.verify", "v", "verify", "read everything of it once and compare", "points"),
    # --- repositories ---
    Key(
        "repositories.check",
        "v",
        "check",
        "check it with stock borg",
        "repositories",
        shown=True,
        risk=Risk.CHANGES,
    ),
    Key(
        "repositories.prune",
        "p",
        "prune",
        "what the rules keep, what goes, and why",
        "repositories",
        shown=True,
    ),
    Key(
        "repositories.undo", "u", "undo prune", "have back what was pruned", "repositories", risk=Risk.CHANGES
    ),
    Key(
        "repositories.compact",
        "C",
        "compact",
        "delete what was pruned, for good, and free its space",
        "repositories",
        shown=True,
        risk=Risk.DESTROYS,
    ),
    Key(
        "repositories.accept",
        "a",
        "accept",
        "points that vanished may be gone",
        "repositories",
        risk=Risk.CHANGES,
    ),
    Key(
        "prune.go",
        "p",
        "prune now",
        "hide what no rule keeps; it can be undone",
        "prune",
        shown=True,
        risk=Risk.CHANGES,
    ),
    # --- hosts ---
    Key("hosts.check", "c", "check", "look for what is missing for backups", "hosts", shown=True),
    Key(
        "hosts.trust", "t", "trust key", "look at its key, compare it, trust it", "hosts", True, Risk.CHANGES
    ),
    Key("hosts.add", "n", "new host", "add a host to the configuration", "hosts", True, Risk.CHANGES),
    Key("hosts.clean", "x", "clean up", "remove what killed runs left on hosts", "hosts", risk=Risk.STOPS),
    Key("hosts.remove", "D", "remove", "take the host out of the configuration", "hosts", risk=Risk.DESTROYS),
    Key("welcome", "W", "welcome", "first steps, from nothing to a first backup: host, repository, group"),
    Key("welcome.do", "enter", "do it", "take this step", "welcome", True),
    Key("welcome.check", "c", "check again", "ask the host again and check it", "welcome", True),
    Key(
        "welcome.open",
        "o",
        "open existing",
        "take over a repository that exists",
        "welcome",
        False,
        Risk.CHANGES,
    ),
    Key("welcome.skip", "s", "skip", "leave this step out, or take it up again", "welcome", True),
    Key("welcome.undo", "D", "undo", "take this step back", "welcome", True, Risk.DESTROYS),
    Key("welcome.demo", "d", "demo", "leave, and look around in a demo first", "welcome"),
    Key("broken.edit", "E", "edit", "open the configuration file in $EDITOR", "broken", True, Risk.CHANGES),
    # --- restore ---
    Key("restore.next", "enter", "go on", "on to the next question or step", "restore", shown=True),
    Key(
        "restore.start",
        "s",
        "restore",
        "begin the restore that was reviewed",
        "restore",
        shown=True,
        risk=Risk.CHANGES,
    ),
    Key("restore.files", "f", "look inside", "what this restore point holds", "restore", shown=True),
    Key(
        "restore.month-back",
        "left_square_bracket",
        "month back",
        "to the month before",
        "restore",
        shown=True,
    ),
    Key("restore.month-on", "right_square_bracket", "month on", "to the month after", "restore"),
    Key("restore.check", "c", "check again", "the dry run once more", "restore"),
    Key("browse.open", "enter", "open", "into the folder, or show the file", "browse", shown=True),
    Key("browse.up", "backspace,left", "up", "to the folder above", "browse", shown=True),
    Key(
        "browse.get",
        "x",
        "take out",
        "the file or folder into a folder of this machine",
        "browse",
        shown=True,
        risk=Risk.CHANGES,
    ),
    Key("browse.filter", "slash", "filter", "narrow the list as you type", "browse"),
    Key("browse.sort", "s", "sort", "sort by the next column", "browse"),
    Key(
        "browse.restore", "r", "restore", "restore from this point: what, where, review", "browse", shown=True
    ),
    Key("browse.again", "c", "read again", "read the repository once more", "browse"),
    # --- log ---
    Key("log.find", "slash", "find", "only lines with these words", "log", shown=True),
    Key("log.problems", "exclamation_mark", "problems", "only warnings and errors", "log", shown=True),
    Key("log.mark", "space", "mark", "mark the line; y then copies all marked lines", "log"),
    Key("log.steps", "w", "steps", "also every step and how long it took", "log", shown=True),
)


def keys_of(contexts: Iterable[str], *, read_only: bool = False) -> list[Key]:
    """The keys of these contexts, in the table's order."""
    wanted = set(contexts)
    return [key for key in KEYS if key.context in wanted and not (read_only and key.risk is not Risk.NONE)]


def bindings(*contexts: str) -> list[Binding | tuple[str, str] | tuple[str, str, str]]:
    """For a class's BINDINGS; their ids let [console.keys] remap them."""
    return [Binding(key.keys, key.action, key.label, show=key.shown, id=key.id) for key in keys_of(contexts)]


def readme_table() -> str:
    """All keys as the README lists them, in Markdown."""
    lines = ["| Where | Key | Does |", "| --- | --- | --- |"]
    titles = {"all": "everywhere", "list": "in lists"}
    for context in dict.fromkeys(key.context for key in KEYS):
        for key in keys_of((context,)):
            names = " ".join(f"`{name}`" for name in key_names(key.keys))
            does = key.help.replace("|", "\\|")
            lines.append(f"| {titles.get(context, context)} | {names} | {does} |")
    return "\n".join(lines)


def key_names(keys: str) -> list[str]:
    """As people name them: `?`, `ctrl+p`, `esc`."""
    return [_NAMES.get(name, name) for name in keys.split(",")]


_NAMES: Mapping[str, str] = {
    "question_mark": "?",
    "exclamation_mark": "!",
    "colon": ":",
    "slash": "/",
    "at": "@",
    "asterisk": "*",
    "escape": "esc",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "plus": "+",
    "underscore": "_",
}
