"""RepositoryWriter, and the way into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.access import open_access, place_of
from vmconsole.borg.engine.archivewriter import EngineArchiveWriter
from vmconsole.borg.engine.pins import with_pins
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
        self._known: dict[bytes, RestorePoint | None] = {}

    @property
    def repository_id(self) -> str:
        return bytes(self._session.access.repository.id).hex()

    def points(self) -> list[RestorePoint]:
        session = self._session
        return with_pins(
            session.access, catalog.points(session.access, session.warn, self._known), session.warn
        )

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
        _tell_of_dead_owners(session)
        yield EngineWriter(session)
    except BaseException:
        with suppress(Exception):  # What went wrong first is what the user must read.
            session.close()
        raise
    else:
        session.close()
    finally:
        PLACES.leave(place)


def _tell_of_dead_owners(session: Session) -> None:
    """Borg removes a lock by itself when its process ran on this machine and is gone; say so."""
    for line in list(session.access.said):
        if any(word in line for word in _STALE):
            session.warn(
                f"The lock of a dead process on repository {session.settings.name} was removed: {line}"
            )
