"""The forms of the first steps: a repository, its recovery kit, a group."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from vmconsole.config.settings import Config
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.dialogs.dialog import Ask
from vmconsole.tui.dialogs.form import Entry, Form
from vmconsole.tui.format import safe

if TYPE_CHECKING:
    from vmconsole.tui.app import Console

_WHERE = "/srv/backup/vms, or ssh://user@host/./vms"
_MAKE = (Entry("location", "location", help=_WHERE, needed=True),)
_OPEN = (
    Entry("name", "name", value="main", needed=True),
    Entry("location", "location", help=_WHERE, needed=True),
    Entry("passphrase", "passphrase", help="file that holds it, mode 0600", needed=True),
)
_GROUP = (
    Entry("name", "name", value="all", needed=True),
    Entry("hosts", "guests on", value="*", help="host names, * for every host", needed=True),
    Entry("when", "when", value="daily 22:00", help="empty: only by hand"),
    Entry("keep", "keep", value="daily=14,weekly=8,monthly=6", help="empty: everything"),
)


def make_command(values: Mapping[str, str]) -> Command:
    return Command(("init", f"--repository={values['location']}"), done="The repository was made.")


def open_command(values: Mapping[str, str]) -> Command:
    words = ("repo", "init", values["name"], values["location"], "--existing")
    return Command((*words, f"--passphrase-file={values['passphrase']}"), done="The repository opens.")


def group_command(values: Mapping[str, str]) -> Command:
    argv = ["group", "add", values["name"], f"--hosts={values['hosts']}"]
    argv += [f"--{key}={values[key]}" for key in ("when", "keep") if values.get(key)]
    return Command(tuple(argv), done=f"Group {values['name']} was added.")


def make_repository(console: Console, then: Callable[[], object]) -> None:
    beside = console.services.config_path.parent / "passphrase"
    intro = (
        "A Borg repository, encrypted. Its passphrase is made by chance and written to\n"
        f"{beside}, unless that file is there already; it is then used."
    )
    _fill_in(console, Form("New repository", _MAKE, make_command, intro=intro, yes="Make"), then)


def open_repository(console: Console, then: Callable[[], object]) -> None:
    intro = "One that exists stays as it is; its restore points are read."
    _fill_in(console, Form("Open a repository", _OPEN, open_command, intro=intro, yes="Open"), then)


def add_group(console: Console, then: Callable[[], object]) -> None:
    intro = "Which guests, when, and how many restore points of each to keep.\nGuests that come later are in it too."
    _fill_in(console, Form("New group", _GROUP, group_command, intro=intro), then)


def _fill_in(console: Console, form: Form, then: Callable[[], object]) -> None:
    def ended(found: Ended | None) -> None:
        if found is not None:
            then()

    console.push_screen(form, ended)


def kit_text(config: Config, name: str) -> Text:
    """What is needed to restore from a repository when this machine is gone. No secret is shown."""
    settings = config.repository(name)
    location = shlex.quote(settings.location)
    text = Text(end="")
    text.append("location     ", "quiet").append_text(safe(settings.location, "strong")).append("\n")
    text.append("encryption   ", "quiet").append_text(safe(settings.encryption)).append("\n")
    for title, value in _passphrase(config, name):
        text.append(f"{title:<13}", "quiet").append_text(safe(value, "strong")).append("\n")
    text.append("key          ", "quiet").append_text(safe(f"borg key export {location} KEYFILE", "strong"))
    text.append("\n             ").append_text(safe(f"borg key export --paper {location}", "strong"))
    text.append("\nwith these, on any machine with Borg:\n", "quiet")
    text.append_text(safe(f"             borg list {location}", "strong")).append("\n")
    return text


def ask_for_kit(console: Console, name: str, then: Callable[[], object]) -> None:
    """then: when the answer is that it was copied."""
    config = console.picture.config
    if config is None:
        return
    text = Text("Without these nobody can restore, ever, once this machine is gone.\n\n", "late", end="")
    text.append_text(kit_text(config, name))
    text.append("\nCopy them to a second place: a safe, a password manager, paper.")

    def answered(yes: bool | None) -> None:
        if yes:
            then()

    console.push_screen(Ask("Recovery kit", text, "I have copied it", "Not yet"), answered)


def _passphrase(config: Config, name: str) -> list[tuple[str, str]]:
    secret = config.repository(name).passphrase
    if secret is None:
        return []
    if secret.file is not None:
        return [("passphrase", f"in {secret.file}")]
    for source in ("command", "env", "credential", "keyring"):
        if (value := getattr(secret, source, None)) is not None:
            told = shlex.join(value) if isinstance(value, tuple | list) else str(value)
            return [("passphrase", f"{source}: {told}")]
    return []
