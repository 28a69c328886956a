"""What a run has to do: guests to back up, alone or at the same moment, and in which order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from vmconsole.errors import VmconsoleError
from vmconsole.interfaces import ExportOptions, Hypervisor, Repository
from vmconsole.model.guest import Guest


@dataclass(frozen=True, slots=True)
class Target:
    """One guest to back up, where to, and within which limits.

    group, schedule: whose retention the point is kept by. slot: the scheduled time it is for.
    """

    guest: Guest
    hypervisor: Hypervisor
    repository: Repository
    options: ExportOptions = field(default_factory=ExportOptions)
    full_every: int = 30
    group: str = ""
    schedule: str = ""
    slot: datetime | None = None
    uplink: str = ""
    """The line its data comes over, where several hosts share one."""


@dataclass(frozen=True, slots=True)
class Work:
    """One guest, or several that are cut at the same moment. apart: whether each may be backed up by
    itself when that cannot be done. key tells works of one queue apart.
    """

    key: str
    targets: tuple[Target, ...]
    apart: bool = False

    @property
    def repositories(self) -> frozenset[str]:
        return frozenset(target.repository.name for target in self.targets)


class Queue(Protocol):
    """What is to be done, and what of it may be done now. Used by one thread."""

    @property
    def one_by_one(self) -> bool:
        """Never more than one at a time."""
        ...

    def start(self) -> Sequence[Work]:
        """Those that may begin now; they count as under way until done()."""
        ...

    def done(self, work: Work) -> None:
        """It has ended, well or not, for good or until it is tried again."""
        ...

    def again(self, work: Work, error: VmconsoleError) -> datetime | None:
        """It could not be done at this moment; called before done(). When it is tried again; None: not any more."""
        ...

    def expired(self) -> Sequence[tuple[Work, VmconsoleError]]:
        """Those that will not begin any more, and why; each is handed out once."""
        ...

    def pause(self) -> float | None:
        """Nothing is under way and nothing may start: seconds until something may, None when there is nothing left."""
        ...


class InOrder:
    """One after another, repository by repository, each once."""

    one_by_one = True

    def __init__(self, targets: Iterable[Target]) -> None:
        ordered = sorted(targets, key=lambda target: target.repository.name)
        self._waiting = deque(Work(f"{number}", (target,)) for number, target in enumerate(ordered))
        self._busy = False

    def start(self) -> Sequence[Work]:
        if self._busy or not self._waiting:
            return ()
        self._busy = True
        return (self._waiting.popleft(),)

    def done(self, work: Work) -> None:
        self._busy = False

    def again(self, work: Work, error: VmconsoleError) -> datetime | None:
        return None

    def expired(self) -> Sequence[tuple[Work, VmconsoleError]]:
        return ()

    def pause(self) -> float | None:
        return None
