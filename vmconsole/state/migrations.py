"""How the database came to be: an ordered list of steps, each in a transaction of its own.

A step is never changed once it was released: databases out there have run it. To change a table,
change tables.py and append a step. Steps do not use tables.py, which moves on without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)

from vmconsole.errors import VmconsoleError
from vmconsole.state.engine import Database

Step = Callable[[Connection], None]

_version = Table(
    "schema_version", MetaData(), Column("version", Integer, primary_key=True, autoincrement=False)
)


def _first_tables(connection: Connection) -> None:
    number = BigInteger().with_variant(Integer(), "sqlite")
    metadata = MetaData()
    Table(
        "runs",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("kind", String(40), nullable=False),
        Column("subject", Text, nullable=False),
        Column("state", String(20), nullable=False),
        Column("process", Text, nullable=False),
        Column("started", BigInteger, nullable=False),
        Column("ended", BigInteger),
        Column("error", Text, nullable=False),
        Column("exit_code", Integer),
        Index("runs_by_start", "started"),
    )
    Table(
        "events",
        metadata,
        Column("sequence", number, primary_key=True, autoincrement=True),
        Column("run", String(40), ForeignKey("runs.id"), nullable=False),
        Column("time", BigInteger, nullable=False),
        Column("kind", String(40), nullable=False),
        Column("topic", Text, nullable=False),
        Column("document", Text, nullable=False),
        Index("events_by_run", "run", "sequence"),
        sqlite_autoincrement=True,
    )
    Table(
        "journal",
        metadata,
        Column("id", number, primary_key=True, autoincrement=True),
        Column("run", String(40), nullable=False),
        Column("process", Text, nullable=False),
        Column("host", Text, nullable=False),
        Column("kind", String(40), nullable=False),
        Column("payload", Text, nullable=False),
        Column("created", BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    Table(
        "claims",
        metadata,
        Column("key", String(200), primary_key=True),
        Column("run", String(40), ForeignKey("runs.id"), nullable=False),
        Column("taken", BigInteger, nullable=False),
    )
    Table(
        "inventories",
        metadata,
        Column("host", String(64), primary_key=True),
        Column("seen", BigInteger, nullable=False),
        Column("document", Text, nullable=False),
    )
    Table(
        "points",
        metadata,
        Column("repository", String(64), primary_key=True),
        Column("archive", String(200), primary_key=True),
        Column("archive_id", String(64), nullable=False),
        Column("time", BigInteger, nullable=False),
        Column("document", Text, nullable=False),
    )
    metadata.create_all(connection, checkfirst=False)


def _schedules_and_history(connection: Connection) -> None:
    number = BigInteger().with_variant(Integer(), "sqlite")
    metadata = MetaData()
    Table(
        "backups",
        metadata,
        Column("id", number, primary_key=True, autoincrement=True),
        Column("run", String(40), nullable=False),
        Column("uuid", String(200), nullable=False),
        Column("guest", Text, nullable=False),
        Column("host", String(64), nullable=False),
        Column("repository", String(64), nullable=False),
        Column("group", String(64), nullable=False),
        Column("schedule", String(64), nullable=False),
        Column("slot", BigInteger),
        Column("started", BigInteger, nullable=False),
        Column("ended", BigInteger),
        Column("state", String(20), nullable=False),
        Column("mode", String(20), nullable=False),
        Column("method", String(20), nullable=False),
        Column("reason", Text, nullable=False),
        Column("consistency", String(20), nullable=False),
        Column("archive", String(200), nullable=False),
        Column("bytes_expected", BigInteger, nullable=False),
        Column("bytes_dirty", BigInteger, nullable=False),
        Column("bytes_read", BigInteger, nullable=False),
        Column("bytes_stored", BigInteger, nullable=False),
        Column("milliseconds", BigInteger, nullable=False),
        Column("code", String(64), nullable=False),
        Column("error", Text, nullable=False),
        Column("hint", Text, nullable=False),
        Index("backups_by_guest", "uuid", "started"),
        Index("backups_by_run", "run"),
        Index("backups_by_start", "started"),
    )
    Table(
        "schedules",
        metadata,
        Column("group", String(64), primary_key=True),
        Column("schedule", String(64), primary_key=True),
        Column("rule", Text, nullable=False),
        Column("since", BigInteger, nullable=False),
    )
    Table(
        "marks",
        metadata,
        Column("repository", String(64), primary_key=True),
        Column("archive", String(200), primary_key=True),
        Column("archive_id", String(64), nullable=False),
        Column("marked", BigInteger, nullable=False),
        Column("reason", Text, nullable=False),
    )
    Table(
        "deletions",
        metadata,
        Column("repository", String(64), primary_key=True),
        Column("archive_id", String(64), primary_key=True),
        Column("archive", String(200), nullable=False),
        Column("deleted", BigInteger, nullable=False),
    )
    Table(
        "vanished",
        metadata,
        Column("repository", String(64), primary_key=True),
        Column("archive_id", String(64), primary_key=True),
        Column("archive", String(200), nullable=False),
        Column("guest", Text, nullable=False),
        Column("time", BigInteger, nullable=False),
        Column("noticed", BigInteger, nullable=False),
        Column("accepted", BigInteger),
    )
    Table(
        "alerts",
        metadata,
        Column("kind", String(20), primary_key=True),
        Column("key", String(200), primary_key=True),
        Column("text", Text, nullable=False),
        Column("hint", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("group", String(64), nullable=False),
        Column("since", BigInteger, nullable=False),
        Column("sent", BigInteger),
        Column("ended", BigInteger),
    )
    Table(
        "notes",
        metadata,
        Column("key", String(200), primary_key=True),
        Column("value", Text, nullable=False),
        Column("time", BigInteger, nullable=False),
    )
    metadata.create_all(connection, checkfirst=False)


STEPS: tuple[Step, ...] = (_first_tables, _schedules_and_history)


def migrate(database: Database, steps: Sequence[Step] = STEPS) -> int:
    """Bring the database to the newest version and return it.

    Of several processes at it, one runs a step and the others find it done. Raises VmconsoleError
    when the database is newer than the steps.
    """
    while True:
        with database.changing_tables() as connection:
            _version.create(connection, checkfirst=True)
            version = connection.execute(select(_version.c.version)).scalar()
            if version is None:
                connection.execute(insert(_version).values(version=0))
                version = 0
            if version > len(steps):
                raise VmconsoleError(
                    f"The state database {database.place} is of version {version}, "
                    f"this vmconsole knows {len(steps)}.",
                    hint="Use the newer vmconsole that made it, or configure another state_dir.",
                    subject=database.place,
                )
            if version == len(steps):
                return version
            steps[version](connection)
            connection.execute(update(_version).values(version=version + 1))
