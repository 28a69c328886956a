"""One process, one holder: who in this process uses which repository.

Borg's locks know processes, not threads: a second open of the same repository in one process would
find the lock to be its own, and take it away from the first when it closes. So a writer keeps
everybody else in this process out, and readers share one open repository.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Use:
    writing: bool = False
    changing: bool = False
    """The shared reader is being opened or closed right now."""
    readers: int = 0
    shared: Any = None


class Places:
    """Repositories in use in this process, by place: a real path, or an ssh location."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self._changed = threading.Condition()

    def take(self, place: str) -> bool:
        """Become the writer; False when somebody in this process is there already."""
        with self._changed:
            use = self._use(place)
            if use.writing or use.changing or use.readers:
                return False
            use.writing = True
            return True

    def leave(self, place: str) -> None:
        """The writer has closed the repository."""
        with self._changed:
            self._uses[place].writing = False
            self._forget(place)

    def share(self, place: str, make: Callable[[], Any]) -> Any:
        """The open repository for readers, made when there is none; None while a writer is there."""
        with self._changed:
            # Looked up anew each time: the entry may be dropped and made again while we wait.
            self._changed.wait_for(lambda: not self._use(place).changing)
            use = self._use(place)
            if use.writing:
                return None
            if use.shared is not None:
                use.readers += 1
                return use.shared
            use.changing = True
        made = None
        try:
            made = make()
        finally:
            with self._changed:
                use.shared, use.readers, use.changing = made, int(made is not None), False
                self._forget(place)
        return made

    def give_back(self, place: str, close: Callable[[Any], None]) -> None:
        """A reader is done; the last one closes."""
        with self._changed:
            use = self._uses[place]
            use.readers -= 1
            if use.readers:
                return
            use.changing = True
        try:
            close(use.shared)
        finally:
            with self._changed:
                use.shared, use.changing = None, False
                self._forget(place)

    def _use(self, place: str) -> _Use:
        return self._uses.setdefault(place, _Use())

    def _forget(self, place: str) -> None:
        use = self._uses.get(place)
        if use is not None and not (use.writing or use.changing or use.readers):
            del self._uses[place]
        self._changed.notify_all()


PLACES = Places()
"""Of the whole process, because Borg's lock identity is that of the process."""
