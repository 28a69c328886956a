from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from vmconsole.errors import ConfigError, ToolMissing, VmconsoleError
from vmconsole.model.run import RunState
from vmconsole.state import engine as engine_module
from vmconsole.state.engine import open_database
from vmconsole.state.migrations import STEPS, migrate
from vmconsole.state.store import StateStore
from vmconsole.state.tables import metadata

OpenStore = Callable[..., StateStore]

# A database as version 1 made it. Never edited: it stands for those out there.
VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
INSERT INTO schema_version VALUES (1);
CREATE TABLE runs (id VARCHAR(40) NOT NULL, kind VARCHAR(40) NOT NULL, subject TEXT NOT NULL,
  state VARCHAR(20) NOT NULL, process TEXT NOT NULL, started BIGINT NOT NULL, ended BIGINT,
  error TEXT NOT NULL, exit_code INTEGER, PRIMARY KEY (id));
CREATE INDEX runs_by_start ON runs (started);
CREATE TABLE events (sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, run VARCHAR(40) NOT NULL,
  time BIGINT NOT NULL, kind VARCHAR(40) NOT NULL, topic TEXT NOT NULL, document TEXT NOT NULL,
  FOREIGN KEY(run) REFERENCES runs (id));
CREATE INDEX events_by_run ON events (run, sequence);
CREATE TABLE journal (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, run VARCHAR(40) NOT NULL,
  process TEXT NOT NULL, host TEXT NOT NULL, kind VARCHAR(40) NOT NULL, payload TEXT NOT NULL,
  created BIGINT NOT NULL);
CREATE TABLE claims (key VARCHAR(200) NOT NULL, run VARCHAR(40) NOT NULL, taken BIGINT NOT NULL,
  PRIMARY KEY (key), FOREIGN KEY(run) REFERENCES runs (id));
CREATE TABLE inventories (host VARCHAR(64) NOT NULL, seen BIGINT NOT NULL, document TEXT NOT NULL,
  PRIMARY KEY (host));
CREATE TABLE points (repository VARCHAR(64) NOT NULL, archive VARCHAR(200) NOT NULL,
  archive_id VARCHAR(64) NOT NULL, time BIGINT NOT NULL, document TEXT NOT NULL,
  PRIMARY KEY (repository, archive));
INSERT INTO runs VALUES ('20250101T000000-aaaa', 'backup', 'web', 'done', 'h:1:2', 1735689600000000,
  1735689660000000, '', 0);
INSERT INTO events VALUES (7, '20250101T000000-aaaa', 1735689600000000, 'warned', '', '{"event":"warned"}');
INSERT INTO journal VALUES (3, '20250101T000000-aaaa', 'h:1:2', 'kvm1', 'scratch', '{"path":"/a"}',
  1735689600000000);
"""


def test_a_database_of_version_1_still_opens(open_store: OpenStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection:
        connection.executescript(VERSION_1)
    store = open_store()
    run = store.run("20250101")
    assert (run.state, run.exit_code, run.started.year) == (RunState.DONE, 0, 2025)
    assert store.events(run.id)[0][0] == 7
    assert store.open_entries()[0].payload == {"path": "/a"}
    assert store.journal("r").acquire("h", "k", {}) == 4


def test_the_steps_end_where_the_tables_are(open_store: OpenStore, tmp_path: Path) -> None:
    open_store()
    database = open_database(tmp_path / "state.sqlite")
    with database.reading() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == {*metadata.tables, "schema_version"}
        for name, table in metadata.tables.items():
            columns = {column["name"]: column for column in found.get_columns(name)}
            assert list(columns) == [column.name for column in table.columns], name
            for column in table.columns:
                there = columns[column.name]
                assert str(there["type"]) == column.type.compile(connection.dialect), f"{name}.{column.name}"
                assert there["nullable"] == column.nullable, f"{name}.{column.name}"
            assert {index["name"] for index in found.get_indexes(name)} == {i.name for i in table.indexes}
            assert len(found.get_foreign_keys(name)) == len(table.foreign_keys)
    database.close()


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT 'old'"))


def test_new_steps_run_once_and_keep_the_data(open_store: OpenStore, tmp_path: Path) -> None:
    run = open_store().start_run("backup", "web")
    database = open_database(tmp_path / "state.sqlite")
    steps = (*STEPS, add_column)
    assert migrate(database, steps) == len(steps)
    assert migrate(database, steps) == len(steps)
    with database.reading() as connection:
        assert connection.execute(text("SELECT id, note FROM runs")).all() == [(run.id, "old")]
    database.close()


def test_a_step_that_fails_leaves_nothing_behind(open_store: OpenStore, tmp_path: Path) -> None:
    open_store()
    database = open_database(tmp_path / "state.sqlite")

    def breaks(connection: Connection) -> None:
        add_column(connection)
        raise RuntimeError("power failure")

    with pytest.raises(RuntimeError):
        migrate(database, (*STEPS, breaks))
    with database.reading() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar() == len(STEPS)
        assert "note" not in {column["name"] for column in inspect(connection).get_columns("runs")}
    assert migrate(database, (*STEPS, add_column)) == len(STEPS) + 1
    database.close()


def test_a_newer_database_is_refused(open_store: OpenStore, tmp_path: Path) -> None:
    open_store()
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(VmconsoleError, match=r"version 99, this vmconsole knows \d") as caught:
        open_store()
    assert "newer vmconsole" in caught.value.hint


def test_many_open_a_new_database_at_once(open_store: OpenStore) -> None:
    barrier = threading.Barrier(8)
    failures: list[Exception] = []

    def work() -> None:
        try:
            barrier.wait(30)
            open_store().start_run("backup", "x")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert len(open_store().runs()) == 8


# --- settings ----------------------------------------------------------------------------------


def pragma(connection: Connection, name: str) -> Any:
    return connection.execute(text(f"PRAGMA {name}")).scalar()


def test_what_holds_on_every_connection(tmp_path: Path) -> None:
    database = open_database(tmp_path / "db")
    with database.writing() as normal, database.reading() as reading:
        for connection in (normal, reading):
            assert pragma(connection, "journal_mode") == "wal"
            assert pragma(connection, "foreign_keys") == 1
            assert pragma(connection, "busy_timeout") == 15_000
            assert pragma(connection, "synchronous") == 1
    with database.writing_durably() as durable:
        assert pragma(durable, "synchronous") == 2
        assert pragma(durable, "journal_mode") == "wal"
    database.close()


def test_the_files_are_ours_alone(open_store: OpenStore, tmp_path: Path) -> None:
    open_store(path=tmp_path / "new/folder/state.sqlite").start_run("backup", "x")
    files = list((tmp_path / "new/folder").iterdir())
    assert {path.name for path in files} == {"state.sqlite", "state.sqlite-wal", "state.sqlite-shm"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "new/folder").stat().st_mode & 0o777 == 0o700


def test_a_reader_does_not_wait_for_a_writer(store: StateStore, tmp_path: Path) -> None:
    run = store.start_run("backup", "x")
    other = open_database(tmp_path / "state.sqlite")
    with other.writing() as connection:
        connection.execute(text("DELETE FROM runs"))
        assert store.runs() == [run]
        connection.rollback()
    other.close()


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 100])
def test_a_damaged_database_says_how_to_go_on(open_store: OpenStore, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "it's here" / "state.sqlite"
    open_store(path=path).close()
    for leftover in path.parent.glob("*-*"):
        leftover.unlink()
    content = path.read_bytes()
    path.write_bytes(content[:keep] + b"\xa5" * (len(content) - keep))
    with pytest.raises(VmconsoleError, match="is damaged") as caught:
        open_store(path=path).runs()
    assert "restore points are not" in caught.value.hint
    command = caught.value.hint.removeprefix("Move it away: ").partition(" — ")[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert open_store(path=path).runs() == []


def test_a_locked_database_is_waited_for_and_then_named(
    store: StateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "BUSY_SECONDS", 0.2)
    patient = open_database(tmp_path / "state.sqlite")
    with closing(sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)) as rude:
        rude.execute("BEGIN EXCLUSIVE")
        with pytest.raises(VmconsoleError, match="locked by another process") as caught, patient.writing():
            pass
        rude.execute("ROLLBACK")
    assert "fuser" in caught.value.hint
    patient.close()


def test_a_full_disk_is_said(tmp_path: Path, open_store: OpenStore) -> None:
    open_store()
    database = open_database(tmp_path / "state.sqlite")

    def fill() -> None:
        with database.writing() as connection:
            connection.execute(text("PRAGMA max_page_count = 1"))
            connection.execute(text("CREATE TABLE large AS SELECT randomblob(1000000) AS content"))

    with pytest.raises(VmconsoleError, match="no space left") as caught:
        fill()
    assert caught.value.hint.startswith("Free some: df -h ")
    database.close()


def test_places_that_cannot_hold_a_database(tmp_path: Path, open_store: OpenStore) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file/state.sqlite", tmp_path / "folder", Path("/proc/none/state.sqlite")):
        with pytest.raises(VmconsoleError, match="cannot be opened") as caught:
            open_store(path=path)
        assert caught.value.hint.startswith("Look at owner")


def test_urls(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/by-url")
    with database.writing():
        pass
    database.close()
    assert (tmp_path / "by-url").exists()
    with pytest.raises(ConfigError) as caught:
        open_database("nonsense://user:hunter2@host/db")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_a_missing_driver_is_named() -> None:
    try:
        import psycopg  # noqa: F401 - only whether it is there
    except ImportError:
        with pytest.raises(ToolMissing, match="psycopg"):
            open_database("postgresql+psycopg://user:hunter2@host/db")


def test_the_tables_can_be_made_in_postgresql() -> None:
    for table in metadata.sorted_tables:
        made = str(CreateTable(table).compile(dialect=postgresql.dialect()))
        assert "AUTOINCREMENT" not in made
    assert "sequence BIGSERIAL" in str(
        CreateTable(metadata.tables["events"]).compile(dialect=postgresql.dialect())
    )
