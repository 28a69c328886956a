"""Back up now: what it will be is asked while the question is on the screen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Button, Static

from vmconsole.model.words import size, visible
from vmconsole.tui.app import Console
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import fit, safe, safe_lines
from vmconsole.tui.picture import GuestRow
from vmconsole.tui.planning import Plan, Planned, ask_plan
from vmconsole.tui.states import Glyphs, State
from vmconsole.tui.widgets.pane import Pane

_NAME = 24


def open_backup(
    console: Console,
    guests: Sequence[GuestRow],
    group: str = "",
    begun: Callable[[], object] | None = None,
) -> None:
    """Ask whether these are to be backed up now, and begin it.

    group: back up all of it, as it is then; guests are those it is known to cover. begun: called on a yes.
    """

    def answered(command: Command | None) -> None:
        if command is None:
            return
        console.notify(f"Starting the backup of {_what(guests, group)} …", markup=False)
        console.carry_out(command, lambda ended: _begun(console, ended))
        if begun is not None:
            begun()

    console.push_screen(BackUp(guests, group), answered)


def backup_command(guests: Sequence[GuestRow], group: str, *, full: bool) -> Command:
    what = [f"--group={group}"] if group else ["--", *(row.argument for row in guests)]
    return Command(("backup", *(["--full"] if full else []), *what), runs=True)


def _begun(console: Console, ended: Ended) -> None:
    if ended.ok:
        console.notify(f"Run {ended.run} has begun; 3 shows how far.", markup=False)


class BackUp(Dialog[Command | None]):
    """Answers the command to be carried out, or None. It can be answered before the plan is there."""

    CSS = """
    BackUp > .window { width: 110; max-width: 96%; }
    BackUp #plan { height: auto; max-height: 14; padding: 0; background: $surface; }
    BackUp.-low #plan { max-height: 8; }
    BackUp #sum { margin-top: 1; }
    BackUp #full { min-width: 36; margin-top: 1; content-align: left middle; background: $surface; }
    BackUp #command { height: 1; }
    """
    BINDINGS: ClassVar = [
        Binding("y", "yes", show=False),
        Binding("n", "close", show=False),
        Binding("f", "full", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    class PlanArrived(Message):
        def __init__(self, full: bool, plan: Plan) -> None:
            super().__init__()
            self.full, self.plan = full, plan

    def __init__(self, guests: Sequence[GuestRow], group: str = "") -> None:
        super().__init__()
        self._guests, self._group = tuple(guests), group
        self.full = False
        self._plans: dict[bool, Plan | None] = {}

    def heading(self) -> Text:
        if self._group:
            return Text.assemble(
                ("Back up group ", "title"), safe(self._group, "title"), ("?", "title"), end=""
            )
        if len(self._guests) == 1:
            name = safe(self._guests[0].guest.name, "title")
            return Text.assemble(("Back up ", "title"), name, ("?", "title"), end="")
        return Text(f"Back up {len(self._guests)} guests?", "title", end="")

    def content(self) -> ComposeResult:
        yield Pane(id="plan")
        yield Static(id="sum", markup=False)
        yield Static(id="command", markup=False)
        yield Button(id="full")
        with Horizontal(classes="buttons"):
            yield Button(Content("Cancel"), id="no")
            yield Button(Content("Back up"), id="yes", variant="primary")

    def on_mount(self) -> None:
        self.query_one("#no").focus()
        self._ask()

    @property
    def command(self) -> Command:
        return backup_command(self._guests, self._group, full=self.full)

    # --- the plan ---

    def _ask(self) -> None:
        """Each of the two plans is asked for once, in a thread: hosts may take their time."""
        full, services = self.full, console_of(self).services
        if full not in self._plans:
            self._plans[full] = None
            argv = self.command.argv

            def ask() -> None:
                self.post_message(self.PlanArrived(full, ask_plan(argv, services)))

            threading.Thread(target=ask, name="plan", daemon=True).start()
        self._show()

    def on_back_up_plan_arrived(self, message: PlanArrived) -> None:
        self._plans[message.full] = message.plan
        self._show()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        console = console_of(self)
        plan = self._plans.get(self.full)
        pane = self.query_one("#plan", Pane)
        width = max(40, (pane.scrollable_content_region.width or 70) - 1)
        pane.show(plan_text(self._guests, plan, console.glyphs, width))
        self.query_one("#sum", Static).update(console.colours.paint(self._sum(plan)))
        command = safe(self.command.text, "quiet")
        self.query_one("#command", Static).update(console.colours.paint(command))
        box = "x" if self.full else " "
        self.query_one("#full", Button).label = Content(f"[{box}] read everything anew: f")

    def _sum(self, plan: Plan | None) -> Text:
        if plan is None:
            return Text("Asking what would be read … you need not wait for it.", "quiet", end="")
        text = Text(end="")
        if plan.guests:
            able = len(plan.guests) - plan.refused
            if able:
                text.append(f"About {size(plan.bytes)} to read", "strong")
                text.append(f" from {_guests(able)}. It goes on when the console is closed.")
            if plan.refused:
                text.append(f" {_guests(plan.refused)} cannot be backed up.", "failed")
        elif not plan.problem:
            text.append("Nothing is known of what would be read.", "quiet")
        if plan.problem:
            text.append("\n" if text.plain else "").append_text(safe_lines(plan.problem, "failed"))
        if plan.hint:
            text.append("\n→ ", "key").append_text(safe_lines(plan.hint))
        return text

    # --- answers ---

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "full":
            self.action_full()
        else:
            self.dismiss(self.command if event.button.id == "yes" else None)

    def action_full(self) -> None:
        self.full = not self.full
        self._ask()

    def action_yes(self) -> None:
        self.dismiss(self.command)


def plan_text(guests: Sequence[GuestRow], plan: Plan | None, glyphs: Glyphs, width: int) -> Text:
    """A line for each guest, then why, and what is to be known of it. Guests of a group may be others by now."""
    known: dict[tuple[str, str], Planned] = {}
    if plan is not None:
        known = {(item.host, item.guest): item for item in plan.guests}
    rows: list[tuple[str, str, Planned | None, bool]] = [
        (
            row.guest.name,
            row.guest.host,
            known.pop((row.guest.host, row.guest.name), None),
            row.state is State.RUNNING,
        )
        for row in guests
    ]
    rows += [(item.guest, item.host, item, False) for item in known.values()]
    names = min(_NAME, max((cell_len(visible(name)) for name, *_ in rows), default=0))
    hosts = min(12, max((cell_len(visible(host)) for _, host, *_ in rows), default=0))
    text = Text(end="")
    for name, host, item, running in rows:
        line = Text.assemble(
            fit(safe(name, "strong"), names), "  ", fit(safe(host, "quiet"), hosts), "  ", end=""
        )
        if item is not None:
            _add(line, item, glyphs, width)
        elif plan is None:
            line.append("…" if not glyphs.ascii else "...", "quiet")
        else:
            line.append("not in the plan", "quiet")
        if running:
            line.append("\n  ").append_text(glyphs.label(State.WARNING, "it is being backed up right now"))
        text.append_text(line).append("\n")
    text.rstrip()
    return text


def _add(line: Text, item: Planned, glyphs: Glyphs, width: int) -> None:
    if item.refused:
        line.append(f"{glyphs.of(State.FAILED)} ", "failed").append_text(safe_lines(item.refused))
        if item.hint:
            line.append("\n  → ", "key").append_text(safe_lines(item.hint))
        return
    line.append(f"{item.mode:<11}", "late" if item.mode == "full" else "ok")
    line.append(f"  {size(item.bytes):>9}")
    if item.why:
        beside = width - cell_len(line.plain) >= cell_len(visible(item.why)) + 2
        line.append("  " if beside else "\n    ").append_text(safe_lines(item.why, "quiet"))
    for warning in item.warnings:
        line.append("\n  ! ", "warning").append_text(safe_lines(warning))


def _what(guests: Sequence[GuestRow], group: str) -> str:
    if group:
        return f"group {visible(group)}"
    return visible(guests[0].guest.name) if len(guests) == 1 else _guests(len(guests))


def _guests(count: int) -> str:
    return "1 guest" if count == 1 else f"{count} guests"
