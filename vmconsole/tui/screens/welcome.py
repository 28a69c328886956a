"""Welcome: from nothing to a first backup, step by step."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from vmconsole.tui.app import Console, Pictured
from vmconsole.tui.background import carry_out_quietly, in_background
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs import first_steps as dialogs
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.dialogs.hosts import Trusting, open_add_host, remove_host
from vmconsole.tui.first_steps import (
    KIT,
    SKIPPABLE,
    TITLES,
    Id,
    Known,
    Step,
    first_host,
    first_repository,
    is_broken,
    steps,
)
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.host_rows import checked_from
from vmconsole.tui.host_text import checks_text
from vmconsole.tui.keymap import bindings
from vmconsole.tui.remembered import Remembered
from vmconsole.tui.states import Glyphs, State
from vmconsole.tui.widgets.bars import KeyBar, TopBar
from vmconsole.tui.widgets.listing import Column, Listing
from vmconsole.tui.widgets.pane import Pane


class Welcome(Screen[None], Pictured):
    CSS = """
    Welcome Listing { height: 10; }
    Welcome #about { height: 1fr; }
    Welcome.-split Listing, Welcome.-wide Listing { height: 10; }
    Welcome.-split #about, Welcome.-wide #about { border: round $border-blurred; }
    """
    CONTEXTS: ClassVar = ("all", "welcome")
    BINDINGS: ClassVar = bindings("welcome")
    AUTO_FOCUS = "Listing"

    def __init__(self) -> None:
        super().__init__()
        self._copied: set[str] = set()
        self._skipped: set[Id] = set()
        self._asked_for_kit = ""
        self._stood_at: Id | None = None

    def compose(self) -> ComposeResult:
        glyphs = console_of(self).glyphs
        columns: list[Column[Step]] = [
            Column("state", 12, lambda step: step_label(step, glyphs)),
            Column("step", 18, lambda step: safe(TITLES[step.id], "strong" if step.open else "")),
            Column("", 20, lambda step: safe(step.said, "quiet"), grow=True),
        ]
        yield TopBar("")
        yield Static(id="heading", classes="in-border", markup=False)
        yield Listing(columns, lambda step: step.id.value, lambda step: {"name": TITLES[step.id]})
        yield Pane(id="about")
        yield KeyBar()

    def on_mount(self) -> None:
        self.show_picture()

    def on_screen_resume(self) -> None:
        self.show_picture()

    @property
    def console_app(self) -> Console:
        return console_of(self)

    @property
    def _listing(self) -> Listing[Step]:
        return self.query_one(Listing)

    @property
    def _host(self) -> str:
        return first_host(self.console_app.picture)

    @property
    def _memory(self) -> Remembered:
        return self.console_app.remembered

    def _steps(self) -> tuple[Step, ...]:
        console = self.console_app
        known = Known(
            dict(console.feed.failures), console.asking, self._memory.checked, frozenset(self._memory.checking),
            frozenset(self._copied), frozenset(self._skipped),
        )  # fmt: skip
        return steps(console.picture, known)

    def show_picture(self) -> None:
        if not self.is_mounted:
            return
        self._look_for_kit()
        found = self._steps()
        self._listing.show(found)
        done = sum(step.state in (State.OK, State.OFF) for step in found)
        heading = Text("Welcome ", "title", end="")
        heading.append(f"{done} of {len(found)} steps", "ok" if done == len(found) else "")
        heading.append(f" · {_how_it_goes(done, len(found))}", "quiet")
        painted = self.console_app.colours.paint(heading)
        self.query_one("#heading", Static).update(painted)
        self._listing.border_title = Content.from_rich_text(painted)
        now = next((step.id for step in found if step.open), None)
        if now is not None and now is not self._stood_at:
            self._listing.move_to(now.value)
        self._stood_at = now
        self._show_step()

    def on_listing_moved(self) -> None:
        self._show_step()

    def on_listing_opened(self) -> None:
        self.call_later(self.console_app.do, "welcome_do")

    def _show_step(self) -> None:
        step = self._listing.current
        if step is None:
            return
        console = self.console_app
        text = Text.assemble(step_label(step, console.glyphs), ": ", safe_lines(step.said), end="")
        if step.hint:
            text.append(" → ", "key").append_text(safe_lines(step.hint, "key"))
        text.append("\n\n")
        if step.id is Id.CHECK and self._host in self._memory.checked:
            text.append_text(
                checks_text(self._memory.checked[self._host], console.picture, console.glyphs)
            ).append("\n")
        if step.id is Id.KIT and console.picture.config and (name := first_repository(console.picture)):
            text.append_text(dialogs.kit_text(console.picture.config, name)).append("\n")
        text.append_text(_KEYS[step.id])
        self.query_one("#about", Pane).show(text)
        self.query_one(KeyBar).refresh()
        self.query_one(TopBar).show_picture()

    # --- actions ---

    def action_welcome_do(self) -> None:
        step = self._listing.current
        if step is None:
            return
        console = self.console_app
        again = self.show_picture
        match step.id:
            case Id.HOST:
                open_add_host(console, self._trust)
            case Id.KEY:
                self._trust(self._host)
            case Id.CHECK:
                self._check(self._host)
            case Id.REPOSITORY:
                dialogs.make_repository(console, again)
            case Id.KIT:
                name = first_repository(console.picture)
                dialogs.ask_for_kit(console, name, lambda: self._note_kit(name, copied=True))
            case Id.GROUP:
                dialogs.add_group(console, again)
            case Id.BACKUP:
                self._back_up()

    def action_welcome_open(self) -> None:
        dialogs.open_repository(self.console_app, self.show_picture)

    def action_welcome_check(self) -> None:
        self.console_app.feed.ask([self._host])
        self._check(self._host)

    def action_welcome_skip(self) -> None:
        if (step := self._listing.current) is not None:
            self._skipped ^= {step.id}
            self.show_picture()

    def action_welcome_undo(self) -> None:
        step, console = self._listing.current, self.console_app
        if step is None:
            return
        if step.id is Id.HOST:
            remove_host(console, self._host)
        elif step.id is Id.GROUP:
            name = console.picture.groups[0].name
            text = Text(
                "Its guests are not backed up by themselves any more. Its restore points stay.", end=""
            )
            command = Command(("group", "remove", name), done=f"Group {name} was removed.")
            console.push_screen(
                Ask(f"Remove group {name}?", text, "Remove", name=name),
                lambda yes: console.carry_out(command) if yes else None,
            )
        elif step.id is Id.KIT:
            self._note_kit(first_repository(console.picture), copied=False)

    def action_welcome_demo(self) -> None:
        text = Text(
            "A small shop that ships with vmconsole, with hosts, guests and two nights of backups.\n", end=""
        )
        text.append("It needs a minute, changes nothing of yours, and starts with:\n\n")
        text.append("  vmconsole demo\n\n", "strong").append("Leave the console now?")

        def answered(yes: bool | None) -> None:
            if yes:
                self.console_app.exit(message="The demo: vmconsole demo")

        self.console_app.push_screen(Ask("Try the demo", text, "Leave", "Stay"), answered)

    def why_not(self, action: str) -> str:
        step, picture = self._listing.current, self.console_app.picture
        host = self._host
        if action.startswith("welcome.") and is_broken(picture, self.console_app.services):
            return "The configuration cannot be used: W shows what is wrong."
        if action == "welcome.do" and step is not None:
            if self.console_app.settings.read_only and step.id is not Id.CHECK:
                return "This console is read-only."
            return self._why_not_do(step)
        if action == "welcome.check":
            if not host:
                return "There is no host yet. Enter on the first step adds one."
            return f"{host} is being checked." if host in self._memory.checking else ""
        if action == "welcome.open" and first_repository(picture):
            return "There is a repository already; 5 shows it."
        if action == "welcome.skip" and step is not None:
            if step.id not in SKIPPABLE:
                return "Without this step there is no backup."
            return "It is done." if step.state is State.OK else ""
        if action == "welcome.undo" and step is not None:
            return self._why_not_undo(step)
        return ""

    def _why_not_do(self, step: Step) -> str:
        picture = self.console_app.picture
        if step.id in (Id.KEY, Id.CHECK) and not self._host:
            return "There is no host yet. Enter on the first step adds one."
        if step.id is Id.CHECK and self._host in self._memory.checking:
            return f"{self._host} is being checked."
        if step.id is Id.REPOSITORY and first_repository(picture):
            return "There is a repository already; 5 shows it."
        if step.id in (Id.KIT, Id.GROUP, Id.BACKUP) and not first_repository(picture):
            return "There is no repository yet: it comes first."
        if step.id is Id.GROUP and picture.groups:
            return "There is a group already; 2 shows all, and adds more."
        if step.id is Id.BACKUP and not picture.groups:
            return "There is no group yet: it comes first."
        if step.id is Id.BACKUP and step.state is State.RUNNING:
            return "It is happening now; 3 shows how far."
        return ""

    def _why_not_undo(self, step: Step) -> str:
        picture = self.console_app.picture
        if step.id is Id.HOST:
            return "" if self._host else "There is no host yet."
        if step.id is Id.GROUP:
            return "" if picture.groups else "There is no group yet."
        if step.id is Id.KIT:
            return "" if first_repository(picture) in self._copied else "It has not been confirmed yet."
        if step.id is Id.REPOSITORY:
            return "A repository is not deleted from here. Take it out of the configuration file by hand."
        return "There is nothing to take back: it changed nothing."

    # --- what takes a while ---

    def _trust(self, host: str) -> None:
        Trusting(
            self.console_app, host, lambda trusted: self._check(host) if trusted else self.show_picture()
        ).begin()

    def _check(self, host: str) -> None:
        if host in self._memory.checking:
            return
        self._memory.checking.add(host)

        def ended(found: Ended) -> None:
            self._memory.checking.discard(host)
            self._memory.checked[host] = checked_from(found, self.console_app.services.clock.now())
            self.show_picture()

        carry_out_quietly(self.console_app, Command(("host", "check", host)), ended)
        self.show_picture()

    def _back_up(self) -> None:
        """The plan first; then the runs are shown, which tell how far it is."""
        from vmconsole.tui.dialogs.backup import open_backup

        console = self.console_app
        group = console.picture.groups[0].name
        covered = [row for row in console.picture.guests if group in row.groups]
        open_backup(console, covered, group, lambda: console.go("runs"))

    def _look_for_kit(self) -> None:
        name = first_repository(self.console_app.picture)
        if not name or name == self._asked_for_kit:
            return
        self._asked_for_kit = name
        history = self.console_app.services.history

        def read() -> bool:
            found = history.noted(f"{KIT}{name}")
            return found is not None and bool(found[0])

        in_background(self.console_app, read, lambda copied: self._kit_is(name, copied is True))

    def _note_kit(self, name: str, *, copied: bool) -> None:
        history = self.console_app.services.history
        in_background(
            self.console_app,
            lambda: history.note(f"{KIT}{name}", "yes" if copied else ""),
            lambda _: self._kit_is(name, copied),
        )

    def _kit_is(self, name: str, copied: bool) -> None:
        self._copied = self._copied | {name} if copied else self._copied - {name}
        self.show_picture()


def step_label(step: Step, glyphs: Glyphs) -> Text:
    """As states are labelled, but that nothing is late where nothing was there before."""
    if step.state is State.LATE and glyphs.ascii:
        return Text(f"DO {step.word}", "late", end="")
    return glyphs.label(step.state, step.word)


def _how_it_goes(done: int, count: int) -> str:
    if done == count:
        return "all is ready; esc shows your guests"
    return "enter takes the step, esc leaves, W comes back here"


def _keys(*pairs: tuple[str, str]) -> Text:
    text = Text(end="")
    for key, what in pairs:
        text.append(f"{key:<7}", "key").append(f"{what}\n", "quiet")
    return text


_KEYS = {
    Id.HOST: _keys(("enter", "add a host"), ("D", "take it out again"), ("d", "try the demo first")),
    Id.KEY: _keys(("enter", "ask for its key, compare it, trust it; of a cluster, those of all nodes")),
    Id.CHECK: _keys(("enter", "check; also c, again"), ("s", "skip")),
    Id.REPOSITORY: _keys(("enter", "make one"), ("o", "open one that exists")),
    Id.KIT: _keys(("enter", "say that you have copied it"), ("s", "skip"), ("D", "take that back")),
    Id.GROUP: _keys(("enter", "all guests, daily at 22:00, or as you like"), ("s", "skip"), ("D", "remove it"),
                    ("", "Timers start what is due; they are made by: vmconsole init --systemd")),
    Id.BACKUP: _keys(("enter", "back up now; it goes on when the console is closed")),
}  # fmt: skip
