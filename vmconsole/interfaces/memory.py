"""Our own memory: runs, what became of guests and points, alerts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from vmconsole.model.alert import Alert, AlertKind
from vmconsole.model.guest import HostInventory
from vmconsole.model.history import BackupRecord, Glance
from vmconsole.model.ledger import Mark, Vanished
from vmconsole.model.point import RestorePoint
from vmconsole.model.run import Journal, JournalEntry, Run, RunState


class RunStore(Protocol):
    """Runs, events, the journal, and caches of what was last seen. Thread-safe, multi-process-safe."""

    def start_run(self, kind: str, subject: str) -> Run: ...

    def finish_run(self, run: str, state: RunState, error: str, exit_code: int) -> None: ...

    def runs(self, limit: int = 50) -> list[Run]:
        """Newest first; runs whose process died are reported as DIED."""
        ...

    def run(self, id_or_prefix: str) -> Run:
        """Raises UsageError when there is none, or more than one."""
        ...

    def add_event(self, run: str, document: Mapping[str, Any]) -> None: ...

    def events(self, run: str, after: int = 0) -> list[tuple[int, datetime, dict[str, Any]]]:
        """(sequence, time, document) with sequence > after, in order."""
        ...

    def stamp(self) -> str:
        """Another text whenever something else would be read here or in the History; progress does not count."""
        ...

    def journal(self, run: str) -> Journal: ...

    def open_entries(self) -> list[JournalEntry]:
        """Journal entries not yet released, oldest first."""
        ...

    def process_is_dead(self, process: str) -> bool:
        """True only when the process `HOSTNAME:PID:START` is proven not to run any more."""
        ...

    def claim(self, key: str, run: str) -> str:
        """Take a name (such as `guest/UUID`) for a run; returns the holder's run id, ours if we got it."""
        ...

    def release_claim(self, key: str, run: str) -> None:
        """Give one name back; nothing happens when the run does not hold it."""
        ...

    def release_claims(self, run: str) -> None: ...

    def save_inventory(self, inventory: HostInventory, when: datetime) -> None: ...

    def inventories(self) -> dict[str, tuple[HostInventory, datetime]]: ...

    def save_points(self, repository: str, points: Sequence[RestorePoint]) -> None:
        """Replace what is remembered of a repository's points."""
        ...

    def points(self, repository: str) -> list[RestorePoint]:
        """As last seen, newest first; possibly stale, possibly empty."""
        ...


class History(Protocol):
    """What became of each guest in each run. Thread-safe, multi-process-safe."""

    def begin(self, record: BackupRecord) -> int:
        """Write down that a backup has begun (record.id is ignored). Returns its id."""
        ...

    def end(self, record: BackupRecord) -> None:
        """Replace the record of that id."""
        ...

    def of_guest(self, uuid: str, limit: int = 100) -> list[BackupRecord]:
        """Newest first. A record whose run's process is proven dead is reported as DIED."""
        ...

    def of_run(self, run: str) -> list[BackupRecord]:
        """In the order they began."""
        ...

    def since(self, moment: datetime) -> list[BackupRecord]:
        """All that began then or later, newest first."""
        ...

    def glances(self, moment: datetime) -> Iterator[Glance]:
        """As since(), of tens of thousands. A dead run's records are told as they are."""
        ...

    def latest(self) -> dict[str, BackupRecord]:
        """By guest uuid, the newest record."""
        ...

    def latest_good(self) -> dict[tuple[str, str], BackupRecord]:
        """By (guest uuid, group), the newest that left a restore point."""
        ...

    def of_slot(self, group: str, schedule: str, slot: datetime) -> list[BackupRecord]:
        """What was done for one scheduled time, newest first."""
        ...

    def follow(self, group: str, schedule: str, rule: str) -> datetime:
        """Since when this schedule has had this rule: now, when it is new or was another."""
        ...

    def note(self, key: str, value: str) -> None: ...

    def noted(self, key: str) -> tuple[str, datetime] | None: ...


class Ledger(Protocol):
    """What became of restore points besides their making. Thread-safe, multi-process-safe."""

    def marks(self, repository: str) -> list[Mark]: ...

    def mark(self, marks: Sequence[Mark]) -> None:
        """A point that is marked already keeps its mark."""
        ...

    def unmark(self, repository: str, archives: Collection[str]) -> None: ...

    def deleting(self, repository: str, archives: Mapping[str, str]) -> None:
        """These archives (name: id) are about to be deleted by us, and their absence is no surprise.

        Their marks go when compare() finds them gone: until then a deletion may still fail.
        """
        ...

    def compare(self, repository: str, points: Sequence[RestorePoint]) -> list[Vanished]:
        """Compare what is there with what was last seen; returns all that vanished and was not accepted.

        Call it before RunStore.save_points replaces what was last seen, and both while the repository is
        still open: what somebody writes in between would look as if it had vanished. Who is back is
        forgiven.
        """
        ...

    def vanished(self, repository: str) -> list[Vanished]:
        """Those noticed so far and not accepted."""
        ...

    def accept(self, repository: str) -> int:
        """The operator says that all of them are all right. Returns how many."""
        ...


class AlertStore(Protocol):
    """Alerts that hold, and those that are over. Thread-safe, multi-process-safe."""

    def holding(self) -> list[Alert]:
        """Those that are not over, oldest first."""
        ...

    def update(self, found: Sequence[Alert], kinds: Collection[AlertKind]) -> list[Alert]:
        """found is all that holds now, of these kinds. Returns those that ended by this.

        One that was over and holds again is a new one. since, sent and ended of found are ignored.
        """
        ...

    def sent(self, alerts: Sequence[Alert]) -> None:
        """They were told just now."""
        ...
