"""The files of a virtual machine, held open while somebody looks at them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack

from vmconsole.front.inside import open_inside
from vmconsole.front.services import Services
from vmconsole.interfaces import GuestFiles
from vmconsole.model.files import FileEntry, Volume
from vmconsole.model.point import RestorePoint
from vmconsole.runs.looking import LOCK_PATIENCE

IDLE = 20.0
"""Seconds after the last question until the repository is let go: a backup waits for it meanwhile."""


class Session:
    """Opened by the first question, and again by the next one after it was let go. Thread-safe; not for the screen's
    thread. Everything raises VmconsoleError."""

    def __init__(self, services: Services, point: RestorePoint, repository: str) -> None:
        self._services, self._point, self._repository = services, point, repository
        self._lock = threading.Lock()
        self._stack: ExitStack | None = None
        self._files: GuestFiles | None = None
        self._timer: threading.Timer | None = None

    def volumes(self) -> Sequence[Volume]:
        with self._lock:
            return tuple(self._opened().volumes)

    def entries(self, volume: str, path: str) -> list[FileEntry]:
        with self._lock:
            return list(self._opened().entries(volume, path))

    def content(self, volume: str, path: str, length: int) -> bytes:
        with self._lock:
            return b"".join(self._opened().read(volume, path, 0, length))

    def close(self) -> None:
        with self._lock:
            self._let_go()

    def _opened(self) -> GuestFiles:
        if self._timer is not None:
            self._timer.cancel()
        if self._files is None:
            with ExitStack() as stack:
                repository = self._services.repository(self._repository)
                reader = stack.enter_context(repository.reader(wait=LOCK_PATIENCE))
                self._files = stack.enter_context(open_inside(self._services, self._point, reader))
                self._stack = stack.pop_all()
        self._timer = threading.Timer(IDLE, self.close)
        self._timer.daemon = True
        self._timer.start()
        return self._files

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        stack, self._stack, self._files = self._stack, None, None
        if stack is not None:
            stack.close()
