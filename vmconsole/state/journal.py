"""The durable cleanup journal of one run."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import Row, delete, insert

from vmconsole.interfaces import Clock
from vmconsole.model.run import JournalEntry
from vmconsole.state.engine import Database
from vmconsole.state.tables import journal, to_moment, to_number


class RunJournal:
    """Implements interfaces.Journal."""

    def __init__(self, database: Database, clock: Clock, run: str, process: str) -> None:
        self._database = database
        self._clock = clock
        self._run = run
        self._process = process

    def acquire(self, host: str, kind: str, payload: Mapping[str, str]) -> int:
        """Returns once the entry is on disk: also a power failure right after leaves it to be found."""
        with self._database.writing_durably() as connection:
            done = connection.execute(
                insert(journal).values(
                    run=self._run,
                    process=self._process,
                    host=host,
                    kind=kind,
                    payload=json.dumps(dict(payload)),
                    created=to_number(self._clock.now()),
                )
            )
            key = done.inserted_primary_key
            assert key is not None
            return int(key[0])

    def release(self, entry: int) -> None:
        """Losing this in a power failure is harmless: cleaning up twice is."""
        with self._database.writing() as connection:
            connection.execute(delete(journal).where(journal.c.id == entry))


def entry_from(row: Row[tuple[object, ...]]) -> JournalEntry:
    values = row._mapping
    return JournalEntry(
        id=values["id"],
        run=values["run"],
        process=values["process"],
        host=values["host"],
        kind=values["kind"],
        payload=json.loads(values["payload"]),
        created=to_moment(values["created"]),
    )
