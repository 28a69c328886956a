"""The console: places, one picture of everything, and the commands that are run from here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from textual.app import App
from textual.message import Message
from textual.screen import Screen

from vmconsole.errors import VmconsoleError
from vmconsole.front.services import Services
from vmconsole.model.words import visible, visible_lines
from vmconsole.tui.commands import Command, Ended, carry_out
from vmconsole.tui.feed import Feed
from vmconsole.tui.keymap import KEYS, PLACES, Key, Risk, bindings
from vmconsole.tui.picture import Picture
from vmconsole.tui.remembered import Remembered
from vmconsole.tui.states import Glyphs
from vmconsole.tui.themes import THEMES, Theme, for_textual, theme_named


@dataclass(frozen=True, slots=True)
class Settings:
    """How the console looks and what it may do. keys: other keys for actions, by id. slow: over a line that may be."""

    theme: str = "dark"
    ascii: bool = False
    read_only: bool = False
    slow: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)


class Console(App[None]):
    """picture: what is known now; screens read it and are told when there is a new one."""

    CSS_PATH = "styles/console.tcss"
    TITLE = "vmconsole"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-split"), (140, "-wide")]  # noqa: RUF012 - Textual's own
    VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar = bindings("all")
    DEFAULT_MODE = PLACES[0]

    class NewPicture(Message):
        def __init__(self, picture: Picture) -> None:
            super().__init__()
            self.picture = picture

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, Console.NewPicture)

    class Asking(Message):
        def __init__(self, hosts: frozenset[str]) -> None:
            super().__init__()
            self.hosts = hosts

    class CommandEnded(Message):
        def __init__(self, ended: Ended, then: Callable[[Ended], object] | None) -> None:
            super().__init__()
            self.ended, self.then = ended, then

    def __init__(self, services: Services, settings: Settings, picture: Picture | None = None) -> None:
        self.services = services
        self.settings = settings
        self.glyphs = Glyphs(settings.ascii)
        self.colours: Theme = theme_named(settings.theme)
        self.picture = picture or Picture(services.clock.now())
        self.loading = picture is None
        self.asking: frozenset[str] = frozenset()
        self.commands: list[Ended] = []
        self.remembered = Remembered()
        self._told = ""
        """What is wrong with the configuration, as it was shown."""
        self.feed = Feed(
            services,
            lambda found: self.post_message(self.NewPicture(found)),
            lambda hosts: self.post_message(self.Asking(hosts)),
        )
        super().__init__(ansi_color=True if self.colours.ansi else None)
        self.animation_level = "none"
        self._modes = {place: _place(place) for place in PLACES}
        for theme in THEMES:
            self.register_theme(for_textual(theme))
        self.theme = f"vm-{self.colours.name}"
        self.set_keymap(dict(settings.keys))

    def get_default_screen(self) -> Screen[object]:
        return _place(PLACES[0])()

    def on_mount(self) -> None:
        self.feed.start()
        if unknown := sorted(set(self.settings.keys) - {key.id for key in KEYS}):
            names = ", ".join(unknown)
            self.notify(
                f"[console.keys] names what is no action: {names}. ? lists the keys.", severity="warning"
            )

    def on_unmount(self) -> None:
        self.feed.stop()

    # --- the picture ---

    def on_console_new_picture(self, message: NewPicture) -> None:
        first, self.loading = self.loading, False
        self.picture = message.picture
        if first:
            self.feed.ask(self._stale_hosts())
        self._lead_on(first=first)
        self._tell_screen()

    def _lead_on(self, *, first: bool) -> None:
        """Where there is nothing yet, or nothing that can be read, the screen that helps comes first."""
        from vmconsole.tui.first_steps import is_broken, is_empty

        problem = str(self.picture.problem) if is_broken(self.picture, self.services) else ""
        before, self._told = self._told, problem
        mended = before and not problem
        if (problem and problem != before) or ((first or mended) and is_empty(self.picture)):
            # Later: what tells of a mistake that is mended leaves first.
            self.call_later(self.action_welcome)

    def action_welcome(self) -> None:
        from vmconsole.tui.first_steps import is_broken
        from vmconsole.tui.screens.broken import Broken
        from vmconsole.tui.screens.welcome import Welcome

        wanted = Broken if is_broken(self.picture, self.services) else Welcome
        if not any(isinstance(screen, wanted) for screen in self.screen_stack):
            self.push_screen(wanted())

    def on_console_asking(self, message: Asking) -> None:
        self.asking = message.hosts
        self._tell_screen()

    def _stale_hosts(self) -> list[str]:
        config = self.picture.config
        return list(config.hosts) if config else []

    def _tell_screen(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Pictured):
                screen.show_picture()

    # --- actions of every screen ---

    def keys_here(self) -> list[Key]:
        """The keys that work on the current screen, by its contexts."""
        contexts = getattr(self.screen, "CONTEXTS", ("all",))
        return [key for key in KEYS if key.context in contexts and self.allows(key)]

    def allows(self, key: Key) -> bool:
        return key.risk is Risk.NONE or not self.settings.read_only

    def why_not(self, key: Key) -> str:
        """Why an action cannot be done now, as a sentence; empty when it can."""
        if not self.allows(key):
            return "This console is read-only."
        ask: Callable[[str], str] | None = getattr(self.screen, "why_not", None)
        return ask(key.id) if ask else ""

    async def run_action(self, action: object, *args: object, **kwargs: object) -> bool:
        name = str(action).rpartition(".")[2].partition("(")[0]
        key = next((key for key in self.keys_here_or_forbidden() if key.action == name), None)
        if key is not None and (reason := self.why_not(key)):
            self.notify(reason, severity="warning")
            return True
        try:
            return await super().run_action(action, *args, **kwargs)  # type: ignore[arg-type]
        except VmconsoleError as error:
            self.tell(error)
            return True

    def tell(self, error: VmconsoleError) -> None:
        """What went wrong, and what to do."""
        hint = f"\n→ {error.hint}" if error.hint else ""
        self.notify(f"{error.message}{hint}", severity="error", timeout=15)

    def _fatal_error(self) -> None:
        """A bug: whoever started us tells of it, in one sentence; the traceback goes into a file."""
        self._close_messages_no_wait()

    def keys_here_or_forbidden(self) -> list[Key]:
        contexts = getattr(self.screen, "CONTEXTS", ("all",))
        return [key for key in KEYS if key.context in contexts]

    @property
    def keys_under_dialog(self) -> list[Key]:
        """Those of the screen that a dialog lies over."""
        below = next((screen for screen in reversed(self.screen_stack) if hasattr(screen, "CONTEXTS")), None)
        contexts = getattr(below, "CONTEXTS", ("all",))
        return [key for key in KEYS if key.context in contexts and self.allows(key)]

    async def do(self, action: str) -> None:
        """What a key would do on the current screen."""
        where = self.screen if hasattr(self.screen, f"action_{action}") else self
        await self.run_action(f"{'screen' if where is self.screen else 'app'}.{action}")

    def show_guest(self, uuid: str) -> None:
        from vmconsole.tui.screens.place import Place

        self.go("guests")
        if isinstance(self.screen, Place):
            self.screen.listing.move_to(uuid)

    def go(self, place: str) -> None:
        self.switch_mode(place)

    def action_go_guests(self) -> None:
        self.go("guests")

    def action_go_groups(self) -> None:
        self.go("groups")

    def action_go_runs(self) -> None:
        self.go("runs")

    def action_go_points(self) -> None:
        self.go("points")

    def action_go_repositories(self) -> None:
        self.go("repositories")

    def action_go_hosts(self) -> None:
        self.go("hosts")

    def action_help(self) -> None:
        from vmconsole.tui.dialogs.help import Help

        self.push_screen(Help(self.keys_here()))

    def action_palette(self) -> None:
        from vmconsole.tui.dialogs.palette import Palette

        self.push_screen(Palette())

    def action_commands(self) -> None:
        from vmconsole.tui.dialogs.commands import CommandLog

        self.push_screen(CommandLog(self.commands))

    async def action_back(self) -> None:
        """A screen may have something to take back before it is left: step_back() then says True."""
        step: Callable[[], bool] | None = getattr(self.screen, "step_back", None)
        if (step is None or not step()) and len(self.screen_stack) > 1:
            self.pop_screen()

    def action_quit_or_back(self) -> None:
        if len(self.screen_stack) > 1:
            self.pop_screen()
        else:
            self.leave()

    async def action_quit(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Runs are processes of their own and go on."""
        going = len(self.picture.running)
        self.exit(message=_going_on(going) if going else None)

    def action_reload(self) -> None:
        config = self.picture.config
        self.feed.ask(list(config.hosts) if config else [])
        self.feed.look_now()

    def action_theme(self) -> None:
        at = THEMES.index(self.colours)
        self.colours = THEMES[(at + 1) % len(THEMES)]
        self.ansi_color = True if self.colours.ansi else None
        self.theme = f"vm-{self.colours.name}"
        self.notify(f"Theme: {self.colours.label}")
        self._tell_screen()

    def action_copy(self) -> None:
        self._copy(getattr(self.screen, "name_to_copy", ""))

    def action_copy_command(self) -> None:
        words: Sequence[str] = getattr(self.screen, "command_to_copy", ())
        self._copy(Command(tuple(words)).text if words else "")

    def notify(self, message: str, *, markup: bool = False, **options: Any) -> None:
        """As Textual's, for texts with foreign names in them: nothing in them is obeyed."""
        super().notify(visible_lines(message), markup=False, **options)

    def _copy(self, name: str) -> None:
        """What is pasted into a shell must not be able to press keys there."""
        text = visible(name)
        if not text:
            self.notify("There is nothing to copy here.", severity="warning")
            return
        self.copy_to_clipboard(text)
        self.notify(f"Copied: {text}")

    # --- commands ---

    def carry_out(self, command: Command, then: Callable[[Ended], object] | None = None) -> None:
        """Run a command of ours without waiting for it; its end is told, and handed to `then`."""
        threading.Thread(
            target=lambda: self.post_message(self.CommandEnded(carry_out(command, self.services), then)),
            name="command",
            daemon=True,
        ).start()

    def on_console_command_ended(self, message: CommandEnded) -> None:
        ended = message.ended
        self.commands.insert(0, ended)
        self.feed.look_now()
        if ended.ok:
            if ended.text:
                self.notify(ended.text)
        else:
            from vmconsole.tui.dialogs.said import Said

            self.push_screen(Said(ended))
        if message.then is not None:
            message.then(ended)


class Pictured:
    """A screen that shows something of the picture."""

    def show_picture(self) -> None:
        raise NotImplementedError


def _going_on(count: int) -> str:
    runs = "1 run goes" if count == 1 else f"{count} runs go"
    return f"{runs} on in the background. Follow: vmconsole runs last --follow"


def _place(name: str) -> Callable[[], Screen[object]]:
    """The screens of places are imported when they are first gone to."""

    def make() -> Screen[object]:
        import importlib

        module = importlib.import_module(f"vmconsole.tui.screens.{name}")
        screen: Screen[object] = module.screen()
        return screen

    return make
