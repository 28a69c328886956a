"""The borg command: running it without a question ever being asked, and reading its errors.

The passphrase travels in the child's environment (or, for what is watched, through its standard
input), never on a command line. Exit codes are Borg's modern ones, messages its JSON log lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmconsole.borg.settings import BorgSettings
from vmconsole.errors import (
    CommandFailed,
    ProtocolError,
    RepositoryDamaged,
    RepositoryError,
    RepositoryFull,
    RepositoryLocked,
    RepositoryMissing,
    WrongPassphrase,
)
from vmconsole.interfaces import Cancel
from vmconsole.remote.machine import Completed, Machine

TIMEOUT = 24 * 3600.0
"""Seconds. Rebuilding the cache of a large repository over a slow line takes hours."""
POLL = 1.0

# Exit codes, `borg help` and docs/internals/frontends: 13, 15, 18 missing; 10, 19 something is there;
# 50-53 passphrase; 70-75 lock; 14, 20 full; 80-87 connection; 12, 16, 17, 90-99 damage.
_MISSING = {13, 15, 18}
_TAKEN = {10, 19}
_PASSPHRASE = {50, 51, 52, 53}
_LOCK = {70, 71, 73}
_LOCK_TIMEOUT = 73
_LOCK_SLICE = 5.0
"""Seconds one try waits for a lock. Borg looks at a lock every tenth of its --lock-wait: asked to wait for ten
minutes at once it sleeps for one, even after it has removed a dead process's lock, and again for its cache's."""
_FULL = {14, 20}
_CONNECTION = {80, 81, 85, 86, 87}
_DAMAGED = {12, 16, 17, 26, *range(90, 100)}
_WARNING = {1, *range(100, 128)}
_PASSPHRASE_VARIABLES = ("BORG_PASSPHRASE", "BORG_PASSCOMMAND", "BORG_PASSPHRASE_FD")

_WATCHED = 'IFS= read -r BORG_PASSPHRASE && export BORG_PASSPHRASE; exec "$@" </dev/null'
_WATCHED_PLAIN = 'exec "$@" </dev/null'


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the command."""

    level: str
    text: str
    id: str


class BorgCommand:
    """Runs borg for one repository on a machine (where Borg's keys and cache are)."""

    def __init__(self, settings: BorgSettings, machine: Machine) -> None:
        self._settings = settings
        self._machine = machine

    def json(self, *words: str) -> dict[str, Any]:
        """Run a subcommand with --json on the repository. Raises RepositoryError and its children."""
        completed = self.run(*words, "--json")
        try:
            document = json.loads(completed.stdout)
        except ValueError as error:
            raise ProtocolError(f"borg {words[0]} did not answer with JSON.") from error
        if not isinstance(document, dict):
            raise ProtocolError(f"borg {words[0]} did not answer with a JSON object.")
        return document

    def run(
        self,
        *words: str,
        archive: str = "",
        last: Sequence[str] = (),
        stdin: bytes = b"",
        extra: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a subcommand on the repository, or on one archive of it; warnings pass.

        last: words that follow the repository. Raises RepositoryError and its children.
        """
        env = {**self._environment(), **(extra or {})}
        target = self._target(archive, last)
        secret = self._passphrase()
        if secret is not None:
            env["BORG_PASSPHRASE"] = secret
        try:
            completed = self._patiently(
                lambda wait: self._machine.run(
                    self._argv(words, wait, target), stdin=stdin, timeout=TIMEOUT, check=False, env=env
                )
            )
        except CommandFailed as error:
            raise self._error(RepositoryError, error.message, error.hint) from error
        return self.judged(completed)

    def judged(self, completed: Completed) -> Completed:
        """The same, unless it failed. Raises RepositoryError and its children."""
        if completed.status and completed.status not in _WARNING:
            raise self.failure(completed)
        return completed

    def watch(
        self,
        *words: str,
        cancel: Cancel,
        last: Sequence[str] = (),
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Completed:
        """Run something long that a cancel ends. The exit status is the caller's to judge.

        last: words that follow the repository. waiting: told once why, when the lock is not free.
        """
        variables = [f"{name}={value}" for name, value in self._environment().items()]
        secret = self._passphrase()
        if secret is not None and "\n" in secret:
            raise self._error(WrongPassphrase, "The passphrase holds a line break.", "Use one without.")
        script = _WATCHED_PLAIN if secret is None else _WATCHED
        start = ["env", *variables, "sh", "-c", script, "borg"]
        target = self._target("", last)
        return self._patiently(
            lambda wait: self._watch([*start, *self._argv(words, wait, target)], secret, cancel), waiting
        )

    def _patiently(
        self, attempt: Callable[[float], Completed], waiting: Callable[[str], None] = lambda _: None
    ) -> Completed:
        """Try until the lock was got, for as long as the configuration says to wait for it."""
        left = self._settings.lock_wait
        told = False
        while True:
            completed = attempt(min(left, _LOCK_SLICE))
            left -= _LOCK_SLICE
            if completed.status != _LOCK_TIMEOUT or left <= 0:
                return completed
            if not told:
                waiting(self.failure(completed).message)
            told = True

    def _target(self, archive: str, last: Sequence[str]) -> list[str]:
        """The repository, or one of its archives, and what follows it: names, which are no options."""
        target = self._settings.target
        return ["--", f"{target}::{archive}" if archive else target, *last]

    def _watch(self, argv: list[str], secret: str | None, cancel: Cancel) -> Completed:
        process = self._machine.start(argv)
        try:
            if secret is not None:
                process.write(secret.encode() + b"\n")
            while True:
                cancel.check()
                try:
                    return process.wait(POLL)
                except TimeoutError:
                    continue
        finally:
            process.close()

    def _argv(self, words: tuple[str, ...], lock_wait: float, target: list[str]) -> list[str]:
        settings = self._settings
        options = ["--log-json", "--lock-wait", str(max(1, round(lock_wait)))]
        if settings.is_remote:
            options += ["--rsh", settings.remote_shell]
            if settings.remote_path:
                options += ["--remote-path", settings.remote_path]
        subcommand, *rest = words
        return [settings.executable, subcommand, *options, *rest, *target]

    def _environment(self) -> dict[str, str]:
        """Answers to every question Borg could ask; standard input is empty, and the terminal not ours.

        A relocated repository is accepted: its location is what the operator wrote down, and its id
        and key are checked. An unencrypted one that was never seen is accepted only when the
        configuration says that it is not encrypted: else somebody may have swapped it.
        """
        unencrypted = self._settings.may_be_unencrypted or self._passphrase() == ""
        return {
            "BORG_EXIT_CODES": "modern",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes" if unencrypted else "no",
            "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "NO",
            "BORG_DELETE_I_KNOW_WHAT_I_AM_DOING": "NO",
            "BORG_DISPLAY_PASSPHRASE": "no",
        }

    def _passphrase(self) -> str | None:
        """What to tell Borg; None to leave it to the environment's own BORG_PASSCOMMAND or the like.

        Never nothing at all: without any of its variables Borg would ask on the terminal.
        """
        configured = self._settings.passphrase()
        if configured is None and not any(os.environ.get(name) is not None for name in _PASSPHRASE_VARIABLES):
            return ""
        return configured

    def failure(self, completed: Completed) -> RepositoryError:
        """The error that a failed run tells of."""
        settings, status = self._settings, completed.status
        messages = [said for said in messages_of(completed) if said.level in ("ERROR", "CRITICAL")]
        text = " ".join(said.text for said in messages[-3:]).strip() or completed.errors[-500:].strip()
        name, where = settings.name, settings.target
        if status in _FULL or "No space left" in text:
            return self._error(RepositoryFull, f"Repository {name} is full: {text}", "Free space there.")
        if status in _MISSING:
            return self._error(
                RepositoryMissing,
                f"There is no Borg repository at {where}.",
                f"Is it mounted, is the path right? A new one is made with: vmconsole repo init {name}",
            )
        if status in _TAKEN:
            return self._error(
                RepositoryError,
                f"There is something at {where} already; a new repository never overwrites.",
                f"To use the repository that is there: vmconsole repo init {name} --existing",
            )
        if status in _PASSPHRASE:
            return self._error(
                WrongPassphrase,
                f"The passphrase of repository {name} does not open its key.",
                "Check the passphrase that the configuration names for it.",
            )
        if status in _LOCK:
            return self._error(
                RepositoryLocked,
                f"Repository {name} is locked: {text}",
                f"Wait for it to end. Only when nothing uses it any more: borg break-lock {where}",
            )
        if status in _CONNECTION:
            remote = [said.text for said in messages_of(completed) if said.text.startswith("Remote: ")]
            reason = remote[-1].removeprefix("Remote: ") if remote else text
            return self._error(
                RepositoryError,
                f"No connection to repository {name}: {reason}",
                f"Try it by hand: {settings.remote_shell} HOST {settings.remote_path or 'borg'} --version",
            )
        if status in _DAMAGED:
            return self._error(
                RepositoryDamaged, f"Repository {name} is damaged: {text}", f"Look closer: borg check {where}"
            )
        return self._error(
            RepositoryError,
            f"borg ended with status {status} on repository {name}: {text}",
            f"Run: borg info {where}",
        )

    def _error(self, kind: type[RepositoryError], message: str, hint: str) -> RepositoryError:
        return kind(message, hint=hint, subject=self._settings.name)


def messages_of(completed: Completed) -> list[Said]:
    """What borg said on stderr, line by line; lines that are no JSON (a crash) count as errors."""
    return list(_messages(completed.errors))


def _messages(text: str) -> Iterator[Said]:
    for line in text.splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            if line.strip():
                yield Said("ERROR", line.strip(), "")
            continue
        if isinstance(document, dict) and document.get("type") == "log_message":
            yield Said(
                str(document.get("levelname", "")),
                str(document.get("message", "")),
                str(document.get("msgid", "")),
            )
