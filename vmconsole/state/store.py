"""Runs, their events, the cleanup journal, and what was last seen of hosts and repositories."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from vmconsole.errors import RepositoryDamaged, UsageError, VmconsoleError
from vmconsole.interfaces import Clock, Journal
from vmconsole.model.guest import HostInventory
from vmconsole.model.point import RestorePoint
from vmconsole.model.run import JournalEntry, Run, RunState
from vmconsole.state import claims as claiming
from vmconsole.state.codec import inventory_from, inventory_text
from vmconsole.state.engine import Database, open_database
from vmconsole.state.journal import RunJournal, entry_from
from vmconsole.state.migrations import migrate
from vmconsole.state.tables import backups, events, inventories, journal, points, runs, to_moment, to_number
from vmconsole.state.throttle import Throttle

_PROGRESS = "disk_progress"
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that is mistaken for another


def random_letters() -> str:
    """Four letters and digits that tell apart runs of the same second."""
    return "".join(secrets.choice(_LETTERS) for _ in range(4))


class StateStore:
    """Implements interfaces.RunStore. Every call may raise VmconsoleError: disk full, locked, damaged."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        process_identity: str,
        process_is_dead: Callable[[str], bool],
        token: Callable[[], str],
    ) -> None:
        self._database = database
        self._clock = clock
        self._process = process_identity
        self._is_dead = process_is_dead
        self._token = token
        self._throttle = Throttle(clock.monotonic, 1.0)

    @classmethod
    def open(
        cls,
        path_or_url: Path | str,
        clock: Clock,
        process_identity: str,
        process_is_dead: Callable[[str], bool],
        *,
        token: Callable[[], str] = random_letters,
    ) -> StateStore:
        """Open, or make, the database and bring it up to date.

        process_identity: `HOSTNAME:PID:START` of this process. process_is_dead: True only with
        proof. token: the random end of run ids. Close it when done.
        """
        database = open_database(path_or_url)
        try:
            database.prepare()
            migrate(database)
        except BaseException:
            database.close()
            raise
        return cls(database, clock, process_identity, process_is_dead, token)

    @property
    def database(self) -> Database:
        """Shared with the other parts of our memory; closed with the store."""
        return self._database

    def close(self) -> None:
        self._database.close()

    # --- runs ----------------------------------------------------------------------------------

    def start_run(self, kind: str, subject: str) -> Run:
        started = self._clock.now()
        for _ in range(100):
            run = Run(
                # UTC: ids stay in order when clocks change for summer
                id=f"{started.astimezone(UTC):%Y%m%dT%H%M%S}-{self._token()}",
                kind=kind,
                subject=subject,
                state=RunState.RUNNING,
                process=self._process,
                started=started,
            )
            if self._insert_run(run):
                return run
        raise VmconsoleError("No free run id was found.", hint="Set the clock, then start the run again.")

    def _insert_run(self, run: Run) -> bool:
        with self._database.writing() as connection:
            if connection.execute(select(runs.c.id).where(runs.c.id == run.id)).first():
                return False
            connection.execute(
                insert(runs).values(
                    id=run.id,
                    kind=run.kind,
                    subject=run.subject,
                    state=run.state.value,
                    process=run.process,
                    started=to_number(run.started),
                    error="",
                )
            )
            return True

    def finish_run(self, run: str, state: RunState, error: str, exit_code: int) -> None:
        """Say how a run ended. Of its progress only the last of each disk is kept."""
        self._throttle.forget(run)
        with self._database.writing() as connection:
            connection.execute(
                update(runs)
                .where(runs.c.id == run)
                .values(
                    state=state.value, ended=to_number(self._clock.now()), error=error, exit_code=exit_code
                )
            )
            progress = (events.c.run == run) & (events.c.kind == _PROGRESS)
            last = select(func.max(events.c.sequence)).where(progress).group_by(events.c.topic)
            connection.execute(delete(events).where(progress, events.c.sequence.not_in(last)))

    def runs(self, limit: int = 50) -> list[Run]:
        with self._database.reading() as connection:
            rows = connection.execute(
                select(runs).order_by(runs.c.started.desc(), runs.c.id.desc()).limit(limit)
            ).all()
        return [self._run(row) for row in rows]

    def run(self, id_or_prefix: str) -> Run:
        wanted = id_or_prefix.strip()
        with self._database.reading() as connection:
            rows = connection.execute(
                select(runs)
                .where(runs.c.id.startswith(wanted, autoescape=True))
                .order_by(runs.c.id)
                .limit(50)
            ).all()
        # LIKE takes upper for lower case in some databases
        found = [row for row in rows if row.id.startswith(wanted)] if wanted else []
        exact = [row for row in found if row.id == wanted]
        if exact or len(found) == 1:
            return self._run((exact or found)[0])
        if not found:
            raise UsageError(
                f"There is no run {id_or_prefix!r}.",
                hint="List them with `vmconsole runs`.",
                subject=id_or_prefix,
            )
        names = ", ".join(row.id for row in found[:5]) + (", …" if len(found) > 5 else "")
        raise UsageError(
            f"Several runs begin with {id_or_prefix!r}: {names}.",
            hint="Give more of the id.",
            subject=id_or_prefix,
        )

    def _run(self, row: Row[Any]) -> Run:
        state = RunState(row.state)
        if state is RunState.RUNNING and self._is_dead(row.process):
            state = RunState.DIED
        return Run(
            id=row.id,
            kind=row.kind,
            subject=row.subject,
            state=state,
            process=row.process,
            started=to_moment(row.started),
            ended=None if row.ended is None else to_moment(row.ended),
            error=row.error,
            exit_code=row.exit_code,
        )

    # --- events --------------------------------------------------------------------------------

    def add_event(self, run: str, document: Mapping[str, Any]) -> None:
        """Append to the run's log. Progress of a disk is kept at most once a second, its end always.

        The document's `event` names its kind, as Event.as_json() does.
        """
        kind = str(document.get("event", ""))
        topic = ""
        if kind == _PROGRESS:
            which = document.get("uuid") or document.get("guest", "")
            topic = f"{which}\n{document.get('disk', '')}"
            complete = document.get("done") == document.get("total")
            if not self._throttle.let_through(run, topic) and not complete:
                return
        with self._database.writing() as connection:
            connection.execute(
                insert(events).values(
                    run=run,
                    time=to_number(self._clock.now()),
                    kind=kind,
                    topic=topic,
                    document=json.dumps(dict(document), default=str, separators=(",", ":")),
                )
            )

    def events(self, run: str, after: int = 0) -> list[tuple[int, datetime, dict[str, Any]]]:
        with self._database.reading() as connection:
            rows = connection.execute(
                select(events.c.sequence, events.c.time, events.c.document)
                .where(events.c.run == run, events.c.sequence > after)
                .order_by(events.c.sequence)
            ).all()
        return [(row.sequence, to_moment(row.time), json.loads(row.document)) for row in rows]

    def stamp(self) -> str:
        last_event = (
            select(events.c.sequence)
            .where(events.c.kind.not_in((_PROGRESS, "step_started", "step_finished")))
            .order_by(events.c.sequence.desc())
            .limit(1)
        )
        questions = (
            last_event,
            select(func.count(), func.max(runs.c.started), func.max(runs.c.ended)).select_from(runs),
            select(func.max(inventories.c.seen), func.count()).select_from(inventories),
            select(func.max(backups.c.id), func.max(backups.c.ended)).select_from(backups),
            select(func.count(), func.max(points.c.time)).select_from(points),
            select(func.max(journal.c.id), func.count()).select_from(journal),
        )
        with self._database.reading() as connection:
            return " ".join(str(tuple(row)) for question in questions for row in connection.execute(question))

    # --- journal and claims --------------------------------------------------------------------

    def journal(self, run: str) -> Journal:
        return RunJournal(self._database, self._clock, run, self._process)

    def open_entries(self) -> list[JournalEntry]:
        with self._database.reading() as connection:
            return [entry_from(row) for row in connection.execute(select(journal).order_by(journal.c.id))]

    def process_is_dead(self, process: str) -> bool:
        return self._is_dead(process)

    def claim(self, key: str, run: str) -> str:
        """As interfaces.RunStore; a holder that ended, or whose process is proven dead, loses the name."""
        return claiming.claim(self._database, key, run, to_number(self._clock.now()), self._is_dead)

    def release_claim(self, key: str, run: str) -> None:
        claiming.release(self._database, run, key)

    def release_claims(self, run: str) -> None:
        claiming.release(self._database, run)

    # --- what was last seen --------------------------------------------------------------------

    def save_inventory(self, inventory: HostInventory, when: datetime) -> None:
        with self._database.writing() as connection:
            connection.execute(delete(inventories).where(inventories.c.host == inventory.name))
            connection.execute(
                insert(inventories).values(
                    host=inventory.name, seen=to_number(when), document=inventory_text(inventory)
                )
            )

    def inventories(self) -> dict[str, tuple[HostInventory, datetime]]:
        with self._database.reading() as connection:
            rows = connection.execute(select(inventories).order_by(inventories.c.host)).all()
        read = ((row.host, inventory_from(row.document), to_moment(row.seen)) for row in rows)
        return {host: (inventory, seen) for host, inventory, seen in read if inventory is not None}

    def save_points(self, repository: str, points_seen: Sequence[RestorePoint]) -> None:
        rows = {
            point.archive: {
                "repository": repository,
                "archive": point.archive,
                "archive_id": point.archive_id,
                "time": to_number(point.time),
                "document": json.dumps(point.to_json() | {"pinned": point.pinned}, separators=(",", ":")),
            }
            for point in points_seen
        }
        with self._database.writing() as connection:
            connection.execute(delete(points).where(points.c.repository == repository))
            if rows:
                connection.execute(insert(points), list(rows.values()))

    def points(self, repository: str) -> list[RestorePoint]:
        """As interfaces.RunStore; what another version wrote and this one cannot read is left out."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(points)
                .where(points.c.repository == repository)
                .order_by(points.c.time.desc(), points.c.archive.desc())
            ).all()
        found = []
        for row in rows:
            try:
                document = json.loads(row.document)
                point = RestorePoint.from_json(document, archive_id=row.archive_id)
                found.append(replace(point, pinned=document.get("pinned") is True))
            except (RepositoryDamaged, ValueError):
                continue
        return found
