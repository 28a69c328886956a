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

backups = Table(
    "backups",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("run", String(40), nullable=False),
    Column("uuid", String(200), nullable=False),
    Column("guest", Text, nullable=False),
    Column("host", String(64), nullable=False),
    Column("repository", String(64), nullable=False),
    Column("group", String(64), nullable=False),
    Column("schedule", String(64), nullable=False),
    Column("slot", BigInteger),  # the scheduled time; none for a backup by hand
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

# What the scheduler knows of each schedule: since when it has followed this rule.
schedules = Table(
    "schedules",
    metadata,
    Column("group", String(64), primary_key=True),
    Column("schedule", String(64), primary_key=True),
    Column("rule", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
)

marks = Table(
    "marks",
    metadata,
    Column("repository", String(64), primary_key=True),
    Column("archive", String(200), primary_key=True),
    Column("archive_id", String(64), nullable=False),
    Column("marked", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

# Archives that were deleted from here, so that their absence is not taken for somebody else's doing.
deletions = Table(
    "deletions",
    metadata,
    Column("repository", String(64), primary_key=True),
    Column("archive_id", String(64), primary_key=True),
    Column("archive", String(200), nullable=False),
    Column("deleted", BigInteger, nullable=False),
)

vanished = Table(
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

alerts = Table(
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

# Small things to remember: when the scheduler was last there, when the last digest was sent …
notes = Table(
    "notes",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("value", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_number(moment: datetime) -> int:
    """A time with zone as it is stored."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def to_moment(number: int) -> datetime:
    return _EPOCH + timedelta(microseconds=number)
