"""What every long call gets, and how it is told how fast it may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vmconsole.events import EventSink
from vmconsole.model.cancel import Cancel
from vmconsole.model.clock import Clock
from vmconsole.model.run import Journal


class Pace(Protocol):
    """How fast data may be asked of a host. Thread-safe; shared by all that read from it."""

    def wait(self, length: int) -> float:
        """Ask to request so many bytes. 0: granted. Else seconds after which to ask again."""
        ...

    def came(self, length: int, seconds: float) -> None:
        """Of what was granted, so many bytes have come, so long after they were requested.

        seconds is 0 where that tells nothing of the host: of a stream, and of a request that was given up.
        """
        ...

    def took(self, length: int) -> None:
        """So many bytes have come that could not wait: they count, and others wait the longer."""
        ...

    def largest(self) -> int:
        """Bytes that one request should not exceed just now; 0 for any size."""
        ...

    def limit(self) -> int:
        """What was configured for now, in bytes per second; 0 for none. For those who read with a program
        of the host's own, which is told once.
        """
        ...


class Unhurried:
    """No limit."""

    def wait(self, length: int) -> float:
        return 0.0

    def came(self, length: int, seconds: float) -> None:
        pass

    def took(self, length: int) -> None:
        pass

    def largest(self) -> int:
        return 0

    def limit(self) -> int:
        return 0


UNHURRIED = Unhurried()


class Together(Protocol):
    """A guest's part in a cut of several. Those that wait raise NotTogether when another guest cannot go on;
    the guest is then thawed and nothing is cut, as after any other failure.
    """

    def ready(self) -> None:
        """All is prepared to freeze this guest: returns when that is so of all of them."""
        ...

    def frozen(self, freeze_ms: int | None) -> None:
        """This guest is frozen, or cannot be (None): returns when all are, and it is time to cut."""
        ...

    def cut(self) -> None:
        """This guest was cut, just now. Does not wait."""
        ...

    def off(self) -> None:
        """This guest does not run: any moment will do for it. Does not wait."""
        ...

    def result(self) -> Mapping[str, Any]:
        """Returns when all were cut: what RestorePoint.together holds."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What every long call gets."""

    run: str
    events: EventSink
    cancel: Cancel
    journal: Journal
    clock: Clock
    pace: Pace = UNHURRIED
    """How fast the host may be read."""
    together: Together | None = None
    """The guests that are cut at the same moment; None for a guest by itself."""
