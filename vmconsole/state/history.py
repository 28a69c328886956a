"""What became of each guest in each run, and small things to remember."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, func, insert, select, update

from vmconsole.interfaces import Clock
from vmconsole.model.history import BackupRecord, BackupState, Glance
from vmconsole.state.engine import Database
from vmconsole.state.tables import backups, notes, runs, schedules, to_moment, to_number

_GOOD = (BackupState.DONE.value, BackupState.WARNINGS.value)
_PLAIN = (
    "run",
    "uuid",
    "guest",
    "host",
    "repository",
    "group",
    "schedule",
    "mode",
    "method",
    "reason",
    "consistency",
    "archive",
    "bytes_expected",
    "bytes_dirty",
    "bytes_read",
    "bytes_stored",
    "code",
    "error",
    "hint",
)


class StateHistory:
    """Implements interfaces.History. Every call may raise VmconsoleError: disk full, locked, damaged."""

    def __init__(self, database: Database, clock: Clock, process_is_dead: Callable[[str], bool]) -> None:
        self._database = database
        self._clock = clock
        self._is_dead = process_is_dead

    # --- backups -------------------------------------------------------------------------------

    def begin(self, record: BackupRecord) -> int:
        with self._database.writing() as connection:
            made = connection.execute(insert(backups).values(**_values(record)))
            return int(made.inserted_primary_key[0])  # type: ignore[index]  # None only without a key

    def end(self, record: BackupRecord) -> None:
        with self._database.writing() as connection:
            connection.execute(update(backups).where(backups.c.id == record.id).values(**_values(record)))

    def of_guest(self, uuid: str, limit: int = 100) -> list[BackupRecord]:
        return self._read(_newest_first().where(backups.c.uuid == uuid).limit(limit))

    def of_run(self, run: str) -> list[BackupRecord]:
        return self._read(select(backups).where(backups.c.run == run).order_by(backups.c.id))

    def since(self, moment: datetime) -> list[BackupRecord]:
        return self._read(_newest_first().where(backups.c.started >= to_number(moment)))

    def glances(self, moment: datetime) -> Iterator[Glance]:
        columns = backups.c
        asked = (
            select(
                columns.uuid,
                columns.started,
                columns.ended,
                columns.state,
                columns.bytes_dirty,
                columns.bytes_read,
                columns.bytes_stored,
            )
            .where(columns.started >= to_number(moment))
            .order_by(columns.id.desc())
        )
        with self._database.reading() as connection:
            for row in connection.execution_options(yield_per=1000).execute(asked):
                uuid, started, ended, state, dirty, read, stored = row
                finished = None if ended is None else to_moment(ended)
                yield Glance(uuid, to_moment(started), finished, BackupState(state), dirty, read, stored)

    def latest(self) -> dict[str, BackupRecord]:
        newest = select(func.max(backups.c.id)).group_by(backups.c.uuid)
        return {record.uuid: record for record in self._read(select(backups).where(backups.c.id.in_(newest)))}

    def latest_good(self) -> dict[tuple[str, str], BackupRecord]:
        newest = (
            select(func.max(backups.c.id))
            .where(backups.c.state.in_(_GOOD))
            .group_by(backups.c.uuid, backups.c.group)
        )
        found = self._read(select(backups).where(backups.c.id.in_(newest)))
        return {(record.uuid, record.group): record for record in found}

    def of_slot(self, group: str, schedule: str, slot: datetime) -> list[BackupRecord]:
        return self._read(
            _newest_first().where(
                backups.c.group == group,
                backups.c.schedule == schedule,
                backups.c.slot == to_number(slot),
            )
        )

    def _read(self, query: Select[Any]) -> list[BackupRecord]:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            running = {row.run for row in rows if row.state == BackupState.RUNNING.value}
            known = select(runs.c.id, runs.c.state, runs.c.process).where(runs.c.id.in_(running))
            alive = {row.id: row for row in connection.execute(known)} if running else {}
        records = [_record(row) for row in rows]
        dead = {
            run
            for run in running
            if run not in alive or alive[run].state != "running" or self._is_dead(alive[run].process)
        }
        return [
            replace(record, state=BackupState.DIED)
            if record.state is BackupState.RUNNING and record.run in dead
            else record
            for record in records
        ]

    # --- schedules and notes -------------------------------------------------------------------

    def follow(self, group: str, schedule: str, rule: str) -> datetime:
        now = to_number(self._clock.now())
        this = and_(schedules.c.group == group, schedules.c.schedule == schedule)
        with self._database.writing() as connection:
            known = connection.execute(select(schedules).where(this)).first()
            if known is None:
                values = {"group": group, "schedule": schedule, "rule": rule, "since": now}
                connection.execute(insert(schedules).values(values))
            elif known.rule != rule:
                connection.execute(update(schedules).where(this).values(rule=rule, since=now))
            else:
                now = known.since
        return to_moment(now)

    def note(self, key: str, value: str) -> None:
        values = {"value": value, "time": to_number(self._clock.now())}
        with self._database.writing() as connection:
            done = connection.execute(update(notes).where(notes.c.key == key).values(**values))
            if not done.rowcount:
                connection.execute(insert(notes).values(key=key, **values))

    def noted(self, key: str) -> tuple[str, datetime] | None:
        with self._database.reading() as connection:
            row = connection.execute(select(notes).where(notes.c.key == key)).first()
        return None if row is None else (row.value, to_moment(row.time))


def _newest_first() -> Select[Any]:
    return select(backups).order_by(backups.c.id.desc())


def _values(record: BackupRecord) -> dict[str, Any]:
    return {
        **{name: getattr(record, name) for name in _PLAIN},
        "slot": None if record.slot is None else to_number(record.slot),
        "started": to_number(record.started),
        "ended": None if record.ended is None else to_number(record.ended),
        "state": record.state.value,
        "milliseconds": round(record.seconds * 1000),
    }


def _record(row: Row[Any]) -> BackupRecord:
    return BackupRecord(
        id=row.id,
        **{name: getattr(row, name) for name in _PLAIN},
        slot=None if row.slot is None else to_moment(row.slot),
        started=to_moment(row.started),
        ended=None if row.ended is None else to_moment(row.ended),
        state=BackupState(row.state),
        seconds=row.milliseconds / 1000,
    )
