"""Opening the database. All that is SQLite's own, and how its errors read to the user, is here."""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from vmconsole.errors import ConfigError, ToolMissing, VmconsoleError

BUSY_SECONDS = 15.0
_MIGRATION_LOCK = 0x766D636F6E  # any number that nobody else uses
_POOL: dict[str, Any] = {"pool_size": 4, "max_overflow": 60, "pool_timeout": 30}


class Database:
    """A database and the two promises a write can make. Thread-safe.

    Every call raises VmconsoleError with what to do, whatever the driver says.
    """

    def __init__(self, url: URL, place: str) -> None:
        self.place = place
        self._path = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
        if self._path:
            self._engine = create_engine(url, **_POOL)
            self._durable = create_engine(url, **_POOL)
            _set_up_sqlite(self._engine, "NORMAL")
            _set_up_sqlite(self._durable, "FULL")
        else:
            self._engine = self._durable = create_engine(url, **_POOL)

    def prepare(self) -> None:
        """Make the file, for our eyes only, when it is not there yet."""
        if self._path is None:
            return
        with self.errors():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its -wal and -shm files the mode of the database
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.errors(), self._engine.connect().execution_options(reading=True) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that survives the end of the process; a power failure may take the last ones."""
        with self.errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing_durably(self) -> Iterator[Connection]:
        """A transaction that is on the disk, with all before it, when the block ends."""
        with self.errors(), self._durable.begin() as connection:
            yield connection

    @contextmanager
    def changing_tables(self) -> Iterator[Connection]:
        """A transaction that no other process has at the same time."""
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                # SQLite's transactions are exclusive as they are
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            yield connection

    def close(self) -> None:
        self._engine.dispose()
        self._durable.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, OSError, PoolTimeout) as error:
            raise _translate(error, self.place, self._path) from error


def open_database(path_or_url: Path | str) -> Database:
    """A file for SQLite, or an SQLAlchemy URL."""
    if isinstance(path_or_url, Path) or "://" not in path_or_url:
        path = Path(path_or_url)
        return Database(URL.create("sqlite", database=str(path)), str(path))
    try:
        url = make_url(path_or_url)
        return Database(url, url.render_as_string(hide_password=True))
    except (ArgumentError, NoSuchModuleError):
        # not `from error`: the URL may hold a password
        raise ConfigError(
            "The state database's URL is not one that can be opened.",
            hint="Write it as postgresql+psycopg://USER@HOST/DATABASE, or name a file.",
        ) from None
    except ImportError as error:
        raise ToolMissing(
            f"The driver of the state database is not installed: {error}.",
            hint="pipx inject vmconsole 'psycopg[binary]'",
        ) from error


def _set_up_sqlite(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        # transactions are begun below; the driver's own idea of them leaves DDL outside
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
        _switch_to_wal(connection)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA synchronous={synchronous}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # taking the write lock at the start waits its turn; taking it later fails at once when
        # somebody else wrote in between (SQLITE_BUSY_SNAPSHOT)
        wanted = "BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE"
        connection.exec_driver_sql(wanted)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """The first process to open a new file switches; SQLite does not wait for another that is at it too."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _translate(error: Exception, place: str, path: Path | None) -> VmconsoleError:
    if isinstance(error, IntegrityError):
        return VmconsoleError(
            f"The state database {place} refuses a record: {error.orig}.",
            hint="This is a mistake in vmconsole; please report it.",
            subject=place,
        )
    if path is None:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return VmconsoleError(
            f"The state database {place} does not work: {cause}.",
            hint="Look at whether the database server runs and lets this user in.",
            subject=place,
        )
    if isinstance(error, OSError):
        return VmconsoleError(
            f"The state database {path} cannot be opened: {error.strerror}.", hint=_look(path), subject=place
        )
    reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, reason, place)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or isinstance(error, PoolTimeout):
        return VmconsoleError(
            f"The state database {path} stayed locked by another process for {BUSY_SECONDS:.0f} s.",
            hint=f"See who has it open: fuser -v {shlex.quote(str(path))}",
            subject=place,
        )
    if code == sqlite3.SQLITE_FULL:
        return VmconsoleError(
            f"There is no space left for the state database {path}.",
            hint=f"Free some: df -h {shlex.quote(str(path.parent))}",
            subject=place,
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
        return VmconsoleError(
            f"The state database {path} cannot be written: {reason}.", hint=_look(path), subject=place
        )
    if "no such table" in reason or "no such column" in reason:
        return _damaged(path, reason, place)
    return VmconsoleError(
        f"The state database {path} does not work: {reason}.", hint=_look(path), subject=place
    )


def _look(path: Path) -> str:
    return f"Look at owner, mode and free space: ls -la {shlex.quote(str(path.parent))}"


def _damaged(path: Path, reason: str, place: str) -> VmconsoleError:
    away = shlex.quote(str(path.parent / "damaged"))
    pattern = shlex.quote(str(path)) + "*"
    return VmconsoleError(
        f"The state database {path} is damaged: {reason}.",
        hint=f"Move it away: mkdir -p {away} && mv {pattern} {away}/ — a new one is made by itself. "
        "The history of runs is lost, restore points are not. Then look for leftovers: vmconsole doctor",
        subject=place,
    )
