"""One Borg repository: administration through the borg command, archives through the engine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from vmconsole.borg import pinlist
from vmconsole.borg.command import BorgCommand, messages_of
from vmconsole.borg.engine import versions
from vmconsole.borg.settings import BorgSettings
from vmconsole.errors import ProtocolError, RepositoryError, RepositoryMissing
from vmconsole.events import Waiting
from vmconsole.interfaces import Context, RepositoryInfo, RepositoryReader, RepositoryWriter
from vmconsole.remote.machine import Machine

__all__ = ["BorgRepository", "BorgSettings"]

_PROBLEM = ("WARNING", "ERROR", "CRITICAL")


class BorgRepository:
    """Implements Repository. Thread-safe; opens nothing until asked.

    Importing this does not import Borg's modules: the commands that only administer stay quick.
    """

    def __init__(self, settings: BorgSettings, machine: Machine) -> None:
        self.settings = settings
        self._borg = BorgCommand(settings, machine)
        self._open_id = ""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def chunk_size(self) -> int:
        return self.settings.chunk_size

    def create(self) -> str:
        """Raises RepositoryError when something is there, or encryption would protect nothing."""
        settings = self.settings
        if settings.encryption.startswith("repokey") and settings.passphrase() == "":
            raise RepositoryError(
                f"Repository {settings.name} would keep its key beside the data, with no passphrase.",
                hint='Configure a passphrase, or say encryption = "none" if that is meant.',
                subject=settings.name,
            )
        self._borg.run("init", "--encryption", settings.encryption, "--make-parent-dirs")
        return self.id()

    def id(self) -> str:
        """Known while a writer is open; the borg command, which would wait for its lock, is asked otherwise."""
        return self._open_id or _text(self._listing(), "repository", "id")

    def _listing(self, *options: str) -> dict[str, Any]:
        return self._borg.json("list", *(options or ("--last", "1")))

    def info(self) -> RepositoryInfo:
        """Asks Borg, which brings its cache up to date for it: slow after another machine wrote there."""
        document = self._borg.json("info")
        listing = self._listing("--consider-checkpoints")
        stats = document.get("cache", {}).get("stats", {})
        return RepositoryInfo(
            name=self.name,
            location=self.settings.target,
            id=_text(document, "repository", "id"),
            encryption=_text(document, "encryption", "mode"),
            archives=sum(
                1
                for archive in listing.get("archives", ())
                if ".checkpoint" not in str(archive.get("name"))
                and not pinlist.is_pinlist(str(archive.get("name")))
            ),
            original=int(stats.get("total_size", 0)),
            stored=int(stats.get("unique_csize", 0)),
            last_modified=_moment(document),
        )

    def archives(self) -> list[str]:
        """The names of all archives, also those that are not ours."""
        return [
            str(archive["name"]) for archive in self._listing("--consider-checkpoints").get("archives", ())
        ]

    def check(self, *, verify_data: bool, context: Context) -> list[str]:
        options = ("--verify-data",) if verify_data else ()
        completed = self._borg.watch("check", *options, cancel=context.cancel, waiting=self._telling(context))
        problems = [said.text for said in messages_of(completed) if said.level in _PROBLEM]
        if completed.status in (0, 1):
            return problems or (
                ["borg check found a problem but did not name it"] if completed.status else []
            )
        raise self._borg.failure(completed)

    def pins(self) -> dict[str, str]:
        with self.reader() as reader:
            return reader.pins()

    def set_pins(self, pins: Mapping[str, str]) -> None:
        """Writes the new list before the old ones go: dying in between leaves the newest to count."""
        old = [name for name in self.archives() if pinlist.is_pinlist(name)]
        if pins:
            self._borg.run(
                "create",
                "--comment",
                pinlist.COMMENT,
                "--stdin-name",
                pinlist.MEMBER,
                archive=pinlist.next_name(datetime.now(UTC), old),
                last=("-",),
                stdin=pinlist.to_bytes(pins),
            )
        if old:
            self._borg.run("delete", last=old)

    def delete(self, archives: Sequence[str], context: Context) -> None:
        # without a name borg would take the whole repository to be meant
        if not archives or not all(archives):
            raise ValueError("name the archives to delete")
        self._borg.judged(
            self._borg.watch("delete", cancel=context.cancel, last=archives, waiting=self._telling(context))
        )

    def compact(self, context: Context) -> int | None:
        completed = self._borg.watch(
            "compact", "--verbose", cancel=context.cancel, waiting=self._telling(context)
        )
        self._borg.judged(completed)
        return next(
            (freed for said in messages_of(completed) if (freed := _freed(said.text)) is not None), None
        )

    def space(self) -> tuple[int, int] | None:
        if self.settings.is_remote:
            return None
        try:
            found = os.statvfs(self.settings.path)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def _telling(self, context: Context) -> Callable[[str], None]:
        return lambda reason: context.events(Waiting(context.run, self.name, reason))

    def break_lock(self) -> None:
        """Remove the repository's lock and that of its cache, whoever holds them."""
        self._borg.run("break-lock")

    def exists(self) -> bool:
        """Whether there is a repository. Raises when that cannot be told."""
        try:
            self.id()
        except RepositoryMissing:
            return False
        return True

    def writer(self, context: Context) -> AbstractContextManager[RepositoryWriter]:
        return self._writer(context)

    @contextmanager
    def _writer(self, context: Context) -> Iterator[RepositoryWriter]:
        versions.check_installed()
        from vmconsole.borg.engine.writer import writing

        with writing(self.settings, context) as writer:
            self._open_id = writer.repository_id
            try:
                yield writer
            finally:
                self._open_id = ""

    def reader(self, *, wait: float | None = None) -> AbstractContextManager[RepositoryReader]:
        return self._reader(self.settings if wait is None else replace(self.settings, lock_wait=wait))

    @contextmanager
    def _reader(self, settings: BorgSettings) -> Iterator[RepositoryReader]:
        versions.check_installed()
        from vmconsole.borg.engine.reader import reading

        with reading(settings) as reader:
            yield reader


def _text(document: dict[str, Any], *keys: str) -> str:
    value: Any = document
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise ProtocolError(f"borg did not say {'.'.join(keys)}.")
    return value


_FREED = re.compile(r"compaction freed about (-?[0-9.]+) ([kMGTPEZY]?)B repository space")


def _freed(text: str) -> int | None:
    """Bytes, from Borg's own words: a figure with a decimal unit."""
    found = _FREED.search(text)
    if found is None:
        return None
    try:
        power = " kMGTPEZY".index(found[2] or " ")
        return max(0, round(float(found[1]) * 10.0 ** (3 * power)))
    except ValueError:
        return None


def _moment(document: dict[str, Any]) -> datetime | None:
    """Borg prints local time without zone."""
    try:
        return datetime.fromisoformat(_text(document, "repository", "last_modified")).astimezone()
    except (ProtocolError, ValueError):
        return None
