"""`vmconsole init --systemd`: a timer that starts what is due. What a person changed in a unit is never lost."""

from __future__ import annotations

import argparse
import os
import pwd
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vmconsole.cli.output import Output
from vmconsole.cli.unit_files import (
    SERVICE,
    SYSTEM_FOLDER,
    TIMER,
    environment_secrets,
    is_ours,
    render,
    user_folder,
    values_of,
)
from vmconsole.errors import EXIT_DONE, EXIT_WARNINGS, ConfigError, UsageError, VmconsoleError
from vmconsole.front.services import Services, Systemd

_RELOAD = ("daemon-reload",)
_START = (_RELOAD, ("enable", "--now", TIMER))
_STOP = ("disable", "--now", TIMER)


class State(Enum):
    """Of a unit's file, before."""

    MISSING = "missing"
    SAME = "same"
    OLDER = "older"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Unit:
    path: Path
    text: str
    state: State

    @property
    def backup(self) -> Path:
        return self.path.with_name(self.path.name + ".bak")


def configure(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("systemd")
    group.add_argument(
        "--systemd", action="store_true", help="have systemd look every five minutes whether a backup is due"
    )
    group.add_argument("--user", action="store_true", help="with --systemd: your own, not the system's")
    group.add_argument(
        "--dry-run", "-n", action="store_true", help="with --systemd: show the units, change nothing"
    )
    group.add_argument(
        "--replace",
        action="store_true",
        help="with --systemd: also units that were edited; keeps them as .bak",
    )
    group.add_argument("--remove", action="store_true", help="with --systemd: take the units away")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.repository or args.host:
        raise UsageError(
            "--systemd is a step of its own, after the first ones.", hint="Run: vmconsole init --systemd"
        )
    if os.geteuid() != 0 and not args.user and not args.dry_run:
        raise UsageError(
            "Only root can set up the system's systemd.",
            hint="Run it as root, or for your own user: vmconsole init --systemd --user",
        )
    folder = user_folder() if args.user else SYSTEM_FOLDER
    systemd = services.systemd(user=args.user)
    if args.remove:
        return _remove(_found(folder, dict.fromkeys((TIMER, SERVICE), "")), args, systemd, output)
    units = _found(folder, render(values_of(services.config, user=args.user), user=args.user))
    return _install(units, args, services, systemd, output)


def _found(folder: Path, texts: Mapping[str, str]) -> list[Unit]:
    return [Unit(folder / name, text, _state(folder / name, text)) for name, text in texts.items()]


def _state(path: Path, text: str) -> State:
    try:
        there = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return State.MISSING
    except OSError as error:
        raise _cannot(path, error, "read") from error
    if there == text:
        return State.SAME
    return State.OLDER if is_ours(there) else State.CHANGED


def _install(
    units: Sequence[Unit], args: argparse.Namespace, services: Services, systemd: Systemd, output: Output
) -> int:
    changed = [unit for unit in units if unit.state is State.CHANGED]
    if changed and not args.replace and not args.dry_run:
        raise _edited(changed[0], args)
    commands = [systemd.command(*words) for words in _START]
    if args.dry_run:
        _preview(units, commands, args, output)
        _tell_what_is_missing(args, services, output)
        return EXIT_DONE
    for unit in units:
        _write(unit)
        output.line(f"✓ {unit.path}: {_outcome(unit)}")
    problem = _carry_out(_START, systemd)
    output.document(_document(units, commands, "" if problem is None else problem, started=problem == ""))
    code = _tell_started(problem, commands, output)
    _tell_what_is_missing(args, services, output)
    return code


def _carry_out(steps: Sequence[Sequence[str]], systemd: Systemd) -> str | None:
    """What went wrong, or nothing; None when there is no systemd to talk to."""
    if not systemd.runs:
        return None
    problems = (systemd.call(*words) for words in steps)
    return next((problem for problem in problems if problem), "")


def _tell_started(problem: str | None, commands: Sequence[Sequence[str]], output: Output) -> int:
    by_hand = " && ".join(shlex.join(command) for command in commands)
    if problem is None:
        output.note("! systemd does not run here; nothing was started.", "yellow")
        output.hint(f"Where it runs: {by_hand}")
        return EXIT_DONE
    if problem:
        output.note(f"✗ systemctl failed: {problem}", "red")
        output.note(f"  → Put that right, then: {by_hand}")
        return EXIT_WARNINGS
    output.line("✓ The timer runs: every five minutes what is due is begun.")
    output.hint(f"Its log: {shlex.join(_journal(commands[0]))}")
    return EXIT_DONE


def _journal(command: Sequence[str]) -> list[str]:
    return ["journalctl", *(["--user"] if "--user" in command else []), "-u", "vmconsole"]


def _tell_what_is_missing(args: argparse.Namespace, services: Services, output: Output) -> None:
    config = services.config
    if not any(group.schedules for group in config.groups()):
        name = next(iter(config.file.groups), "NAME")
        output.note("! No group has a schedule yet, so nothing will ever be due.", "yellow")
        output.note(f"  → Give one: vmconsole group edit {name} --when 'daily 22:00'")
    for variable in environment_secrets(config):
        output.note(f"! ${variable} is not set where systemd starts programs.", "yellow")
        output.note("  → Use a file or a credential instead: passphrase = { file = … } or { credential = … }")
    for name, path in values_of(config, user=args.user).credentials.items():
        if not path.exists():
            output.note(
                f"! There is no credential {name} in {path}; the service starts only with it.", "yellow"
            )
    if args.user:
        login = pwd.getpwuid(os.geteuid()).pw_name
        if not Path("/var/lib/systemd/linger", login).exists():
            output.note("! Your systemd ends when you log out, and backups with it.", "yellow")
            output.note(f"  → Let it stay: loginctl enable-linger {shlex.quote(login)}")


def _preview(
    units: Sequence[Unit], commands: Sequence[Sequence[str]], args: argparse.Namespace, output: Output
) -> None:
    output.document(_document(units, commands, "", started=False))
    for unit in units:
        output.line(f"– {unit.path}: {_plan(unit, replace=args.replace)}")
        output.raw("\n" + unit.text)
    for command in commands:
        output.line(f"– {shlex.join(command)}")
    output.note("Nothing was changed.")


def _plan(unit: Unit, *, replace: bool) -> str:
    edited = f"would be replaced, and kept as {unit.backup.name}" if replace else "was edited: stays as it is"
    return {
        State.MISSING: "would be made",
        State.SAME: "is there already",
        State.OLDER: "would be renewed",
        State.CHANGED: edited,
    }[unit.state]


def _outcome(unit: Unit) -> str:
    return {
        State.MISSING: "made",
        State.SAME: "is there already",
        State.OLDER: "renewed",
        State.CHANGED: f"replaced; what was there is now {unit.backup.name}",
    }[unit.state]


def _document(
    units: Sequence[Unit], commands: Sequence[Sequence[str]], problem: str, *, started: bool
) -> dict[str, object]:
    return {
        "units": [{"path": str(u.path), "before": u.state.value, "text": u.text} for u in units],
        "commands": [shlex.join(command) for command in commands],
        "started": started,
        "problem": problem or None,
    }


def _remove(units: Sequence[Unit], args: argparse.Namespace, systemd: Systemd, output: Output) -> int:
    there = [unit for unit in units if unit.state is not State.MISSING]
    if args.dry_run:
        for unit in there:
            output.line(f"– {unit.path} would be removed")
    problem: str | None = ""
    if there and not args.dry_run:
        # A backup that is at work goes on: only the timer is stopped.
        problem = _carry_out([_STOP], systemd)
        for unit in there:
            _take_away(unit)
            kept = f"; you had edited it, it is now {unit.backup.name}" if unit.state is State.CHANGED else ""
            output.line(f"✓ {unit.path} was removed{kept}")
        problem = problem or _carry_out([_RELOAD], systemd)
    if not there:
        output.note(f"There is no unit of vmconsole in {units[0].path.parent}.")
    output.document(
        {"removed": [] if args.dry_run else [str(unit.path) for unit in there], "problem": problem or None}
    )
    if problem:
        output.note(f"✗ systemctl failed: {problem}", "red")
        output.note(f"  → Look at it: {shlex.join(systemd.command('status', TIMER))}")
        return EXIT_WARNINGS
    return EXIT_DONE


def _edited(unit: Unit, args: argparse.Namespace) -> VmconsoleError:
    scope = "--user " if args.user else ""
    again = f"vmconsole init --systemd {scope}--replace"
    return ConfigError(
        f"{unit.path} was edited, or is not vmconsole's; nothing was changed.",
        hint=f"Keep your settings in a drop-in: systemctl {scope}edit {unit.path.name}\n"
        f"Then replace it, what is there stays as {unit.backup.name}: {again}",
        subject=str(unit.path),
    )


def _write(unit: Unit) -> None:
    """systemd never sees half a unit."""
    if unit.state is State.SAME:
        return
    temporary = unit.path.with_name(f".{unit.path.name}.{secrets.token_hex(6)}")
    try:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        if unit.state is State.CHANGED:
            unit.backup.unlink(missing_ok=True)
            unit.backup.hardlink_to(unit.path)
        try:
            temporary.write_text(unit.text, encoding="utf-8")
            temporary.chmod(0o644)
            temporary.rename(unit.path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(unit.path, error, "written") from error


def _take_away(unit: Unit) -> None:
    try:
        if unit.state is State.CHANGED:
            unit.path.rename(unit.backup)
        else:
            unit.path.unlink()
    except OSError as error:
        raise _cannot(unit.path, error, "removed") from error


def _cannot(path: Path, error: OSError, what: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be {what}: {error.strerror}.",
        hint=f"Look at the folder's owner and mode: ls -ld {shlex.quote(str(path.parent))}",
        subject=str(path),
    )
