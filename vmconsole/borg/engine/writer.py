"""RepositoryWriter, and the way into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.access import open_access, place_of
from vmconsole.borg.engine.archivewriter import EngineArchiveWriter
from vmconsole.borg.engine.places import PLACES
from vmconsole.borg.engine.session import Session
from vmconsole.borg.engine.waiting import Patience, until_unlocked
from vmconsole.borg.settings import BorgSettings
from vmconsole.events import Waiting
from vmconsole.interfaces import Context
from vmconsole.model.point import RestorePoint

_STALE = ("Killed stale lock", "Removed stale")


class EngineWriter:
    """Implements RepositoryWriter. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def points(self) -> list[RestorePoint]:
        return catalog.points(self._session.access, self._session.warn)

    def archive(self, name: str) -> EngineArchiveWriter:
        return EngineArchiveWriter(self._session, name)


@contextmanager
def writing(settings: BorgSettings, context: Context) -> Iterator[EngineWriter]:
    """Open for writing; waits for the lock. What was not committed in the end is taken back."""
    place = place_of(settings)

    def attempt(lock_wait: float) -> Session | None:
        if not PLACES.take(place):
            return None
        try:
            access = open_access(settings, exclusive=True, lock_wait=lock_wait)
            try:
                return Session(access, context)
            except BaseException:
                access.close()
                raise
        except BaseException:
            PLACES.leave(place)
            raise

    def say(reason: str) -> None:
        context.events(Waiting(context.run, settings.name, reason))

    session = until_unlocked(settings, Patience(context.clock.monotonic, context.cancel.wait, say), attempt)
    try:
        for line in session.access.said:
            if any(word in line for word in _STALE):
                session.warn(
                    f"A dead process had left its lock on repository {settings.name}; it was removed: {line}"
                )
        yield EngineWriter(session)
    finally:
        try:
            session.close()
        finally:
            PLACES.leave(place)
