"""Restore: what, where, review. Nothing is changed before the last step, and going back loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Button, ContentSwitcher, Input, Static

from vmconsole.errors import VmconsoleError
from vmconsole.model.point import RestorePoint
from vmconsole.tui.app import Pictured
from vmconsole.tui.commands import Command, Ended, carry_out
from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import bindings
from vmconsole.tui.restoring.choice import Candidate, Choice, What, command, why_not_what
from vmconsole.tui.restoring.reading import Known, read_known
from vmconsole.tui.restoring.review import Review
from vmconsole.tui.restoring.what import WhatStep
from vmconsole.tui.restoring.where_files import WhereFiles
from vmconsole.tui.restoring.where_host import WhereHost
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.choices import Choices
from vmconsole.tui.widgets.listing import Listing

if TYPE_CHECKING:
    from vmconsole.tui.app import Console

_STEPS = ("what", "where", "review")


def open_restore(console: Console, point: RestorePoint | None, repository: str, guest_uuid: str = "") -> None:
    """point: the one to begin with; None for the guest's newest. repository: where it is; empty to look in all."""
    uuid = guest_uuid or (point.uuid if point else "")
    console.push_screen(RestoreScreen(uuid, point, repository))


class RestoreScreen(Screen[None], Pictured):
    """step: 0 to 2. The choice is what the steps say; nothing is kept twice."""

    CONTEXTS: ClassVar = ("all", "restore")
    BINDINGS: ClassVar = [
        *bindings("restore"),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]
    CSS = """
    RestoreScreen #steps { height: 1; background: $panel; }
    RestoreScreen.-split #left { width: 36; }
    RestoreScreen.-wide #left { width: 48; padding: 0 0 0 2; }
    RestoreScreen.-low #meaning { height: 2; }
    RestoreScreen.-low #restorable { margin: 0; }
    RestoreScreen ContentSwitcher { height: 1fr; }
    RestoreScreen Input { height: 1; border: none; padding: 0 1; margin: 0 2 0 1; background: $panel; }
    RestoreScreen Input:focus { border: none; background: $panel; }
    RestoreScreen Button { height: 1; border: none; min-width: 12; margin-right: 2; }
    RestoreScreen.-split Listing, RestoreScreen.-wide Listing { border: none; }
    RestoreScreen.-split Listing:focus, RestoreScreen.-wide Listing:focus { border: none; }
    """

    class Read(Message):
        def __init__(self, known: Known, error: VmconsoleError | None) -> None:
            super().__init__()
            self.known, self.error = known, error

    class Checked(Message):
        def __init__(self, words: tuple[str, ...], ended: Ended) -> None:
            super().__init__()
            self.words, self.ended = words, ended

    def __init__(self, guest: str, point: RestorePoint | None, repository: str) -> None:
        super().__init__()
        self._guest, self._point, self._repository = guest, point, repository
        self.step = 0
        self._checks: dict[tuple[str, ...], Ended | None] = {}
        """By command line: how its dry run ended, None while it goes on."""
        self._starting = False

    def compose(self) -> ComposeResult:
        yield Static(id="steps", markup=False)
        with ContentSwitcher(initial="what"):
            yield WhatStep(id="what")
            yield WhereFiles(id="where-files")
            yield WhereHost(id="where-host")
            yield Review(id="review-step")
        yield KeyBar()

    def on_mount(self) -> None:
        self._show_steps()
        self._what.listing.focus()
        console = console_of(self)
        guest, repository, zone = self._guest, self._repository, console.picture.zone
        services = console.services

        def read() -> None:
            try:
                self.post_message(self.Read(read_known(services, guest, repository, zone), None))
            except VmconsoleError as error:
                self.post_message(self.Read(Known(), error))

        threading.Thread(target=read, name="read points", daemon=True).start()

    def on_restore_screen_read(self, message: Read) -> None:
        if message.error is not None:
            self.notify(f"{message.error.message} {message.error.hint}", severity="error", markup=False)
        candidates, point = list(message.known.candidates), self._point
        chosen = next((item.key for item in candidates if point and item.point.archive == point.archive), "")
        if point is not None and not chosen:
            # Whoever opened this has seen it more lately than the memory that was read.
            candidates.insert(0, Candidate(point, self._repository))
            chosen = candidates[0].key
        self._what.show(candidates, message.known.failed, chosen)
        self._show_steps()

    # --- the choice ---

    @property
    def _what(self) -> WhatStep:
        return self.query_one(WhatStep)

    @property
    def _where(self) -> WhereFiles | WhereHost:
        return self.query_one(WhereFiles) if self._what.what.to_files else self.query_one(WhereHost)

    @property
    def candidate(self) -> Candidate | None:
        return self._what.listing.current

    @property
    def choice(self) -> Choice | None:
        candidate = self.candidate
        if candidate is None:
            return None
        chosen = Choice(candidate, self._what.what)
        return self._where.decided(chosen) if self.step else chosen

    # --- going through the steps ---

    def action_restore_next(self) -> None:
        if self.step == 0 and isinstance(self.focused, Listing):
            # Two questions in one step: first the point, then what of it.
            self.query_one("#restorable", Choices).focus()
        elif self.step == 0 and self._what.what is What.FILES:
            self.action_restore_files()
        elif self.step < 2:
            self._go(self.step + 1)

    def step_back(self) -> bool:
        if self.step == 0:
            return False
        self._go(self.step - 1)
        return True

    def _go(self, step: int) -> None:
        choice = self.choice
        if choice is None:
            return
        before, self.step = self.step, step
        focus: Widget
        if step == 0:
            self._switch("what")
            focus = self.query_one("#restorable", Choices)
        elif step == 1:
            self._switch("where-files" if choice.what.to_files else "where-host")
            if before == 0:
                self._where.show(choice)
            focus = self._where.query_one("#to" if choice.what.to_files else "#hosts")
        else:
            self._switch("review-step")
            self._check()
            focus = self.query_one("#back", Button)
        self._show_steps()
        focus.focus()

    def _switch(self, name: str) -> None:
        self.query_one(ContentSwitcher).current = name

    def why_not(self, action: str) -> str:
        if action in ("restore.month-back", "restore.month-on"):
            return "" if self.step == 0 else "The calendar is in step 1: esc goes back."
        if self.candidate is None:
            return "There is no restore point of this guest yet."
        if action == "restore.next":
            return self._why_not_next()
        if action == "restore.start":
            return self._why_not_start()
        if action == "restore.check" and self.step < 2:
            return "The dry run belongs to step 3: enter goes on."
        return ""

    def _why_not_next(self) -> str:
        if self.step == 2:
            read_only = console_of(self).settings.read_only
            return "This console is read-only." if read_only else "This is the last step: s restores."
        if self.step == 1:
            return self._where.why_not()
        if isinstance(self.focused, Listing):
            return ""
        return why_not_what(self._what.what, self.candidate.point if self.candidate else None)

    def _why_not_start(self) -> str:
        console = console_of(self)
        if console.settings.read_only:
            return "This console is read-only."
        if self.step < 2 or self.choice is None:
            return "First what, where and review: enter goes on."
        if self._starting:
            return "It is being started."
        checked = self._checks.get(command(self.choice))
        if checked is None:
            return "The dry run has not ended yet."
        return "" if checked.ok else "It would fail: the review says why. c checks again."

    # --- actions ---

    def action_restore_month_back(self) -> None:
        if not self._what.go_by_month(-1):
            self.notify("There is no older month with a restore point.")

    def action_restore_month_on(self) -> None:
        if not self._what.go_by_month(1):
            self.notify("There is no newer month with a restore point.")

    def action_restore_files(self) -> None:
        from vmconsole.tui.screens.browse import open_browse

        if (candidate := self.candidate) is not None:
            open_browse(console_of(self), candidate.point, candidate.repository)

    def action_restore_check(self) -> None:
        if (choice := self.choice) is not None:
            self._checks.pop(command(choice), None)
            self._check()

    def _check(self) -> None:
        """The command itself, as a dry run, in a thread: it asks the host and opens the repository."""
        choice = self.choice
        if choice is None:
            return
        words = command(choice)
        if words not in self._checks or self._failed(words):
            self._checks[words] = None
            services = console_of(self).services
            threading.Thread(
                target=lambda: self.post_message(
                    self.Checked(words, carry_out(Command((*words, "--dry-run")), services))
                ),
                name="dry run",
                daemon=True,
            ).start()
        self._show_review()

    def _failed(self, words: tuple[str, ...]) -> bool:
        ended = self._checks.get(words)
        return ended is not None and not ended.ok

    def on_restore_screen_checked(self, message: Checked) -> None:
        self._checks[message.words] = message.ended
        self._show_review()

    def _show_review(self) -> None:
        choice = self.choice
        if self.step == 2 and choice is not None:
            self.query_one(Review).show(choice, self._checks.get(command(choice)), self._why_not_start())
        self.query_one(KeyBar).refresh()

    def action_restore_start(self) -> None:
        choice = self.choice
        if choice is None or self._starting:
            return
        self._starting = True
        self._show_review()
        console = console_of(self)
        console.notify("The restore is being started …", timeout=3)
        go = Command((*command(choice), "--yes"), runs=True)
        console.carry_out(go, lambda ended: self._started(console, ended))

    def _started(self, console: Console, ended: Ended) -> None:
        self._starting = False
        if not ended.ok:
            # The console says what went wrong; what was chosen is still here.
            if self.is_attached:
                self._show_review()
            return
        console.notify(
            f"Restore has begun: run {ended.run}. 3 shows it, and it goes on without this console.",
            markup=False,
        )
        if console.screen is self:
            console.pop_screen()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "back":
            self.step_back()
        elif reason := self._why_not_start():
            self.notify(reason, severity="warning", markup=False)
        else:
            self.action_restore_start()

    # --- what changes ---

    def on_what_step_chosen(self) -> None:
        self._show_steps()

    def on_where_files_decided(self) -> None:
        self.query_one(KeyBar).refresh()

    def on_where_host_decided(self) -> None:
        self.query_one(KeyBar).refresh()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if reason := self.why_not("restore.next"):
            self.notify(reason, severity="warning", markup=False)
        else:
            self.action_restore_next()

    def on_descendant_focus(self) -> None:
        self.query_one(KeyBar).refresh()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_review)

    def show_picture(self) -> None:
        """Hosts may have answered meanwhile."""
        choice = self.choice if self.is_mounted and self.step == 1 else None
        if choice is not None and not choice.what.to_files:
            self._where.show(choice)

    def _show_steps(self) -> None:
        console = console_of(self)
        candidate = self.candidate
        row = console.picture.guest(self._guest)
        name = candidate.point.guest if candidate else row.guest.name if row else ""
        text = Text.assemble(" Restore ", safe(name, "title"), "   ", end="")
        for number, step in enumerate(_STEPS):
            here = number == self.step
            text.append(
                f" {number + 1} {step} ",
                "key reverse" if here else "title" if number < self.step else "quiet",
            )
            if number < 2:
                text.append(" - " if console.glyphs.ascii else " ─ ", "quiet")
        if self.step and candidate is not None:
            when = f"{candidate.point.time.astimezone(console.picture.zone):%Y-%m-%d %H:%M}"
            text.append(f"   {when}", "quiet")
        self.query_one("#steps", Static).update(console.colours.paint(text))
        self.query_one(KeyBar).refresh()

    @property
    def name_to_copy(self) -> str:
        return self.candidate.point.archive if self.candidate else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        choice = self.choice
        if choice is None:
            return ()
        return command(choice) if self.step else ("points", choice.point.guest)
