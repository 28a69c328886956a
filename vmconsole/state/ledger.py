"""What became of restore points besides their making: marked, deleted by us, gone without us."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice

from sqlalchemy import Connection, Row, Table, delete, insert, select, update

from vmconsole.interfaces import Clock
from vmconsole.model.ledger import Mark, Vanished
from vmconsole.model.point import RestorePoint
from vmconsole.state.engine import Database
from vmconsole.state.tables import deletions, marks, points, to_moment, to_number, vanished

NOTE_HOLDS = timedelta(days=1)
"""An archive still there so long after we said that we would delete it, was not deleted. Not sooner: whoever
compares may have come between the note and the deletion."""
NOTE_KEPT = timedelta(days=400)
_AT_ONCE = 500
"""Names in one statement; databases limit how many there may be."""


class StateLedger:
    """Implements interfaces.Ledger. Archives are told apart by their ids: a name may be used again."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def marks(self, repository: str) -> list[Mark]:
        with self._database.reading() as connection:
            rows = connection.execute(
                select(marks).where(marks.c.repository == repository).order_by(marks.c.archive)
            ).all()
        return [
            Mark(row.repository, row.archive, row.archive_id, to_moment(row.marked), row.reason)
            for row in rows
        ]

    def mark(self, new: Sequence[Mark]) -> None:
        """A point that is marked already keeps the time of its first mark."""
        with self._database.writing() as connection:
            for mark in new:
                same = (marks.c.repository == mark.repository) & (marks.c.archive == mark.archive)
                known = connection.execute(select(marks.c.archive_id).where(same)).scalar()
                if known == mark.archive_id:
                    continue
                connection.execute(delete(marks).where(same))
                connection.execute(
                    insert(marks).values(
                        repository=mark.repository,
                        archive=mark.archive,
                        archive_id=mark.archive_id,
                        marked=to_number(mark.marked),
                        reason=mark.reason,
                    )
                )

    def unmark(self, repository: str, archives: Collection[str]) -> None:
        with self._database.writing() as connection:
            for names in _in_pieces(archives):
                connection.execute(
                    delete(marks).where(marks.c.repository == repository, marks.c.archive.in_(names))
                )

    def deleting(self, repository: str, archives: Mapping[str, str]) -> None:
        """Returns once it is on disk: also after a power failure nobody else is blamed for our deletions."""
        now = to_number(self._clock.now())
        with self._database.writing_durably() as connection:
            _drop_notes(connection, repository, archives.values())
            if archives:
                connection.execute(
                    insert(deletions),
                    [
                        {"repository": repository, "archive_id": id_, "archive": name, "deleted": now}
                        for name, id_ in archives.items()
                    ],
                )

    def compare(self, repository: str, points_now: Sequence[RestorePoint]) -> list[Vanished]:
        there = {point.archive_id for point in points_now}
        with self._database.writing() as connection:
            self._settle(connection, repository, there)
            explained = set(_ids(connection, repository, deletions)) | set(
                _ids(connection, repository, vanished)
            )
            last_seen = connection.execute(select(points).where(points.c.repository == repository))
            gone = [row for row in last_seen if row.archive_id and row.archive_id not in there | explained]
            if gone:
                noticed = to_number(self._clock.now())
                connection.execute(insert(vanished), [_gone(row, noticed) for row in gone])
            return _not_accepted(connection, repository)

    def _settle(self, connection: Connection, repository: str, there: set[str]) -> None:
        """Forget what the list of archives has overtaken."""
        done = [id_ for id_ in _ids(connection, repository, marks) if id_ not in there]
        for ids in _in_pieces(done):
            connection.execute(
                delete(marks).where(marks.c.repository == repository, marks.c.archive_id.in_(ids))
            )
        back = [id_ for id_ in _ids(connection, repository, vanished) if id_ in there]
        for ids in _in_pieces(back):
            connection.execute(
                delete(vanished).where(vanished.c.repository == repository, vanished.c.archive_id.in_(ids))
            )
        now = self._clock.now()
        unfulfilled, ancient = to_number(now - NOTE_HOLDS), to_number(now - NOTE_KEPT)
        notes = connection.execute(select(deletions).where(deletions.c.repository == repository)).all()
        over = [
            row.archive_id
            for row in notes
            if row.deleted < (unfulfilled if row.archive_id in there else ancient)
        ]
        _drop_notes(connection, repository, over)

    def vanished(self, repository: str) -> list[Vanished]:
        with self._database.reading() as connection:
            return _not_accepted(connection, repository)

    def accept(self, repository: str) -> int:
        with self._database.writing() as connection:
            done = connection.execute(
                update(vanished)
                .where(vanished.c.repository == repository, vanished.c.accepted.is_(None))
                .values(accepted=to_number(self._clock.now()))
            )
            return done.rowcount


def _ids(connection: Connection, repository: str, table: Table) -> list[str]:
    rows = connection.execute(select(table.c.archive_id).where(table.c.repository == repository))
    return [row.archive_id for row in rows]


def _drop_notes(connection: Connection, repository: str, ids: Iterable[str]) -> None:
    for piece in _in_pieces(ids):
        connection.execute(
            delete(deletions).where(deletions.c.repository == repository, deletions.c.archive_id.in_(piece))
        )


def _not_accepted(connection: Connection, repository: str) -> list[Vanished]:
    rows = connection.execute(
        select(vanished)
        .where(vanished.c.repository == repository, vanished.c.accepted.is_(None))
        .order_by(vanished.c.time.desc(), vanished.c.archive)
    )
    return [
        Vanished(
            row.repository,
            row.archive,
            row.archive_id,
            row.guest,
            to_moment(row.time),
            to_moment(row.noticed),
        )
        for row in rows
    ]


def _gone(row: Row[tuple[object, ...]], noticed: int) -> dict[str, object]:
    """row: of the points that were last seen."""
    values = row._mapping
    try:
        guest = str(json.loads(values["document"])["guest"])
    except (ValueError, KeyError, TypeError):
        guest = values["archive"].partition(".")[0]
    return {
        "repository": values["repository"],
        "archive": values["archive"],
        "archive_id": values["archive_id"],
        "guest": guest,
        "time": values["time"],
        "noticed": noticed,
    }


def _in_pieces(names: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while piece := list(islice(rest, _AT_ONCE)):
        yield piece
