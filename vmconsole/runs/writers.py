"""The repositories a run writes to, each opened once and shared by the guests that go into it."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from vmconsole.errors import VmconsoleError
from vmconsole.interfaces import Context, Ledger, Repository, RepositoryWriter, RunStore
from vmconsole.runs.looking import Memory, remember, warn


@dataclass(slots=True)
class _Place:
    lock: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack | None = None
    writer: RepositoryWriter | None = None
    id: str = ""
    broken: VmconsoleError | None = None
    since: float = 0.0
    """When it was found to be, by the context's clock."""


_AGAIN_SECONDS = 600.0


class Writers:
    """Thread-safe. Opening waits for the repository's lock, and holds up only those who want the same one."""

    def __init__(self, context: Context, store: RunStore, ledger: Ledger | None) -> None:
        self._context = context
        self._store = store
        self._ledger = ledger
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()

    def get(self, repository: Repository) -> tuple[RepositoryWriter, str]:
        """The open repository and its id. Raises RepositoryError; once raised, the same for ten minutes: all the
        guests that wanted it are not to wait for its lock one after another.
        """
        with self._lock:
            place = self._places.setdefault(repository.name, _Place())
        with place.lock:
            if place.broken is not None:
                if self._context.clock.monotonic() - place.since < _AGAIN_SECONDS:
                    raise place.broken
                place.broken = None
            if place.writer is None:
                self._open(place, repository)
            assert place.writer is not None
            return place.writer, place.id

    def _open(self, place: _Place, repository: Repository) -> None:
        try:
            with ExitStack() as stack:
                writer = stack.enter_context(repository.writer(self._context))
                place.id = repository.id()
                place.writer, place.stack = writer, stack.pop_all()
        except VmconsoleError as error:
            place.broken, place.since = error, self._context.clock.monotonic()
            raise

    def broken(self, repository: str) -> VmconsoleError | None:
        """What opening it raised."""
        place = self._places.get(repository)
        return place.broken if place else None

    def close(self) -> None:
        """Leave all of them to others; they are opened again when asked for. Nobody may be writing."""
        with self._lock:
            places, self._places = (
                self._places,
                {name: place for name, place in self._places.items() if place.broken},
            )
        with ExitStack() as stack:
            for name, place in places.items():
                if place.stack is not None and place.writer is not None:
                    stack.push(place.stack.pop_all())
                    # Kept for lists that must not wait for the repository.
                    with suppress(VmconsoleError):
                        self._remember(name, place.writer)

    def _remember(self, name: str, writer: RepositoryWriter) -> None:
        if self._ledger is None:
            self._store.save_points(name, writer.points())
        else:
            memory = Memory(self._store, self._ledger)
            warn(remember(name, writer.points(), memory), name, self._context)
