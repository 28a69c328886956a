"""The systemd units, filled in. A unit carries a checksum of itself, so that a person's change is noticed."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from vmconsole.config.secret_schema import SecretConfig
from vmconsole.config.settings import Config
from vmconsole.errors import ConfigError

SERVICE = "vmconsole.service"
TIMER = "vmconsole.timer"
SYSTEM_FOLDER = Path("/etc/systemd/system")
_MARK = "# Written by `vmconsole init --systemd`, checksum "
_ADVICE = (
    "# Own settings: `systemctl {}edit vmconsole.{}`. What is changed in here keeps it from being renewed."
)
_PLACEHOLDER = re.compile(r"@[A-Z]+@")


@dataclass(frozen=True, slots=True)
class Values:
    """What the units depend on.

    home: of whom it runs as; what is below it is written as systemd's %h.
    program: the words that start vmconsole, the first an absolute path. made: folders that must be there
    before it starts. writable: what it may write to besides. credentials: name and file.
    """

    home: Path
    program: Sequence[str]
    config: Path
    state: Path
    made: Sequence[Path]
    writable: Sequence[Path]
    credentials: Mapping[str, Path]


def values_of(config: Config, *, user: bool) -> Values:
    """For this machine, and the vmconsole that runs."""
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    store = home / ".config/credstore" if user else Path("/etc/credstore")
    metrics = config.notify.metrics
    return Values(
        home,
        program(),
        config.path,
        config.state_dir,
        # Borg's security records and its cache, where it keeps them when no variable says otherwise.
        [config.state_dir, home / ".config/borg", home / ".cache/borg"],
        [*_local_repositories(config), *([metrics.parent] if metrics else [])],
        {name: store / name for name in _credentials(config)},
    )


def program() -> list[str]:
    """The words that start this vmconsole from anywhere: of its virtual environment, for pipx has such."""
    script = Path(sys.executable).with_name("vmconsole")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "vmconsole"]


def user_folder() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.config").expanduser()) / "systemd/user"


def render(values: Values, *, user: bool) -> dict[str, str]:
    """By file name. Raises ConfigError for paths that no unit can hold."""
    filled = {
        "EXEC": " ".join([_program(values.program[0]), *map(_argument, values.program[1:])]),
        "CONFIG": _argument(str(values.config)),
        "MADE": " ".join(_place(path, values.home, _argument) for path in values.made),
        "TMPDIR": _word(f"TMPDIR={values.state}"),
        "WRITABLE": " ".join(
            _place(path, values.home, _word, "-") for path in _distinct([*values.made, *values.writable])
        ),
        "CREDENTIALS": "\n".join(
            f"LoadCredential={_word(f'{name}:{path}')}" for name, path in values.credentials.items()
        )
        or "#LoadCredential=vmconsole:/etc/credstore/vmconsole",
    }
    option = "--user " if user else ""
    templates = {SERVICE: "user.service.in" if user else "system.service.in", TIMER: "timer.in"}
    return {name: _fill(template, option, filled) for name, template in templates.items()}


def is_ours(text: str) -> bool:
    """Whether a unit is as we wrote it, in whatever version."""
    first, _, rest = text.partition("\n")
    return first == _MARK + _checksum(rest)


def outdated(config: Config) -> list[tuple[Path, str]]:
    """Services of ours for this configuration that its changes have left behind, and the command that renews each.

    To a repository added since, such a service may not write. Of one that was edited nothing is known.
    Raises ConfigError as render() does.
    """
    places = [(user_folder(), True, " --user")]
    if os.geteuid() == 0:
        places.append((SYSTEM_FOLDER, False, ""))
    found = []
    for folder, user, option in places:
        path = folder / SERVICE
        try:
            there = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if not is_ours(there) or f"--config {_argument(str(config.path))} " not in there:
            continue
        if there != render(values_of(config, user=user), user=user)[SERVICE]:
            found.append((path, f"vmconsole init --systemd{option}"))
    return found


def environment_secrets(config: Config) -> list[str]:
    """Environment variables that hold secrets: those of a shell are not there when systemd starts us."""
    return sorted({secret.env for secret in _secrets(config) if secret.env})


def _fill(template: str, option: str, filled: Mapping[str, str]) -> str:
    text = (files("vmconsole") / "cli/units" / template).read_text(encoding="utf-8")
    kind = "timer" if template.startswith("timer") else "service"
    body = text.removeprefix("@HEADER@\n")
    body = _PLACEHOLDER.sub(lambda match: filled[match[0].strip("@")], body)
    rest = f"{_ADVICE.format(option, kind)}\n\n{body}"
    return f"{_MARK}{_checksum(rest)}\n{rest}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _word(text: str) -> str:
    """One word for systemd, systemd.syntax(7): quoted where needed, `%` is no specifier."""
    if not text.isprintable():
        raise ConfigError(
            f"{text!r} cannot stand in a systemd unit.", hint="Choose a path without control characters."
        )
    text = text.replace("%", "%%")
    if re.fullmatch(r"[A-Za-z0-9%@_=+:,./-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _place(path: Path, home: Path, write: Callable[[str], str], before: str = "") -> str:
    """A path as a word; below the home folder with the specifier that stands for it."""
    if not path.is_relative_to(home) or path == home:
        return write(f"{before}{path}")
    word = write(f"{before}/{path.relative_to(home)}")
    return word.replace(f"{before}/", f"{before}%h/", 1)


def _program(path: str) -> str:
    """The first word of a command, in which systemd allows less."""
    if re.search(r"[\"'\\]", path):
        raise ConfigError(
            f"systemd starts no program with a quote or backslash in its path: {path}",
            hint="Install vmconsole in another folder.",
        )
    return _word(path)


def _argument(text: str) -> str:
    """As _word(), where `$` would begin a variable: in all but the first word of a command."""
    return _word(text.replace("$", "$$"))


def _distinct(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def _local_repositories(config: Config) -> list[Path]:
    locations = (repository.location for repository in config.repositories.values())
    return [Path(location) for location in locations if "://" not in location]


def _credentials(config: Config) -> list[str]:
    return sorted({secret.credential for secret in _secrets(config) if secret.credential})


def _secrets(config: Config) -> Iterator[SecretConfig]:
    found: list[SecretConfig | None] = [item.passphrase for item in config.repositories.values()]
    found += [host.api_token for host in config.hosts.values()]
    found += [channel.secret for channel in config.notify.channels.values()]
    yield from (secret for secret in found if secret is not None)
