"""Names that only one run may hold at a time, such as `guest/UUID`. A dead holder loses its claims."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from vmconsole.errors import VmconsoleError
from vmconsole.model.run import RunState
from vmconsole.state.engine import Database
from vmconsole.state.tables import claims, runs

_ATTEMPTS = 50


def claim(database: Database, key: str, run: str, now: int, is_dead: Callable[[str], bool]) -> str:
    """The id of the run that holds the name now: run itself when it got it, or had it already."""
    for _ in range(_ATTEMPTS):
        holder = _holder(database, key)
        if holder is None:
            if _take(database, key, run, now):
                return run
        elif holder[0] == run:
            return run
        elif holder[1] == RunState.RUNNING.value and not is_dead(holder[2]):
            return holder[0]
        elif _take_over(database, key, holder[0], run, now):
            return run
        # somebody was faster: look again
    raise VmconsoleError(f"The claim {key} changes hands too fast.", hint="Start the run again.", subject=key)


def release(database: Database, run: str, key: str | None = None) -> None:
    """One name, or all that the run holds."""
    held = claims.c.run == run if key is None else and_(claims.c.run == run, claims.c.key == key)
    with database.writing() as connection:
        connection.execute(delete(claims).where(held))


def _holder(database: Database, key: str) -> tuple[str, str, str] | None:
    """(run, its state, its process)."""
    with database.reading() as connection:
        row = connection.execute(
            select(claims.c.run, runs.c.state, runs.c.process).join(runs).where(claims.c.key == key)
        ).first()
        return None if row is None else (row[0], row[1], row[2])


def _take(database: Database, key: str, run: str, now: int) -> bool:
    with database.writing() as connection:
        taken = connection.execute(select(claims.c.run).where(claims.c.key == key)).first()
        if taken is not None:
            return False
        return _insert(connection, key, run, now)


def _insert(connection: Connection, key: str, run: str, now: int) -> bool:
    try:
        with connection.begin_nested():
            connection.execute(insert(claims).values(key=key, run=run, taken=now))
    except IntegrityError:
        # only where transactions are not exclusive from the start; an unknown run ends here as well
        if connection.execute(select(runs.c.id).where(runs.c.id == run)).first() is None:
            raise
        return False
    return True


def _take_over(database: Database, key: str, loser: str, run: str, now: int) -> bool:
    """Only from the holder that was found dead; whoever came in between keeps it."""
    with database.writing() as connection:
        done = connection.execute(
            update(claims).where(claims.c.key == key, claims.c.run == loser).values(run=run, taken=now)
        )
        return done.rowcount == 1
