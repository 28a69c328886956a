"""The tables as they are now. How they came to be: migrations.py; the two are compared in a test.

Times are whole microseconds since 1970 in UTC: exact, sortable, the same in every database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

# SQLite hands out row numbers only for a column it calls INTEGER
Number = BigInteger().with_variant(Integer(), "sqlite")

runs = Table(
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

events = Table(
    "events",
    metadata,
    Column("sequence", Number, primary_key=True, autoincrement=True),
    Column("run", String(40), ForeignKey("runs.id"), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("topic", Text, nullable=False),  # of progress: what makes progress; else empty
    Column("document", Text, nullable=False),
    Index("events_by_run", "run", "sequence"),
    sqlite_autoincrement=True,  # a follower's place in the log is never handed out again
)

# No foreign key: what was left on a host must be known even when its run is not.
journal = Table(
    "journal",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("run", String(40), nullable=False),
    Column("process", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("payload", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

claims = Table(
    "claims",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("run", String(40), ForeignKey("runs.id"), nullable=False),
    Column("taken", BigInteger, nullable=False),
)

inventories = Table(
    "inventories",
    metadata,
    Column("host", String(64), primary_key=True),
    Column("seen", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

points = Table(
    "points",
    metadata,
    Column("repository", String(64), primary_key=True),
    Column("archive", String(200), primary_key=True),
    Column("archive_id", String(64), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_number(moment: datetime) -> int:
    """A time with zone as it is stored."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def to_moment(number: int) -> datetime:
    return _EPOCH + timedelta(microseconds=number)
