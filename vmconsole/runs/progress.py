"""Progress of a read: thinned out, and a look at the host side now and then."""

from __future__ import annotations

from collections.abc import Callable

from vmconsole.events import DiskProgress
from vmconsole.interfaces import Context, Export

_PROGRESS_SECONDS = 0.5
_CHECK_SECONDS = 2.0


class Thinned:
    """The progress of one guest's disks."""

    def __init__(self, guest: str, export: Export, context: Context) -> None:
        self._guest = guest
        self._export = export
        self._context = context
        self._said: dict[str, float] = {}
        self._checked = context.clock.monotonic()

    def report(self, disk: str, done: int, total: int) -> None:
        """Raises what Export.check raises."""
        now = self._context.clock.monotonic()
        if done == total or now - self._said.get(disk, -_PROGRESS_SECONDS) >= _PROGRESS_SECONDS:
            self._said[disk] = now
            self._context.events(DiskProgress(self._context.run, self._guest, disk, done, total))
        if now - self._checked >= _CHECK_SECONDS:
            self._checked = now
            self._export.check()

    def of(self, disk: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report(disk, done, total)
