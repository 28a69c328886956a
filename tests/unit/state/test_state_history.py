from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.run import RunState
from vmconsole.state.engine import open_database
from vmconsole.state.history import StateHistory
from vmconsole.state.store import StateStore

SLOT = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)


@pytest.fixture
def history(store: StateStore, tmp_path: Path, clock, dead: set[str]) -> Iterator[StateHistory]:
    database = open_database(tmp_path / "state.sqlite")
    yield StateHistory(database, clock, dead.__contains__)
    database.close()


def record(store: StateStore, uuid: str = "u1", **values: object) -> BackupRecord:
    made = BackupRecord(0, store.start_run("backup", uuid).id, uuid, f"name-{uuid}", "kvm1", "main", SLOT)
    return replace(made, **values)  # type: ignore[arg-type]  # the tests name fields


def finished(history: StateHistory, begun: BackupRecord, **values: object) -> BackupRecord:
    number = history.begin(begun)
    done = replace(begun, id=number, state=BackupState.DONE, ended=SLOT + timedelta(minutes=1), **values)  # type: ignore[arg-type]
    history.end(done)
    return done


def test_a_record_comes_back_as_it_was(store: StateStore, history: StateHistory) -> None:
    done = finished(
        history,
        record(store, group="daily", schedule="night", slot=SLOT),
        mode="incremental",
        method="pull",
        bytes_read=1 << 45,
        seconds=12.345,
        archive="a",
        hint="…",
    )
    assert history.of_guest("u1") == [done]
    assert history.of_run(done.run) == [done]
    assert history.of_slot("daily", "night", SLOT) == [done]
    assert history.of_slot("daily", "night", SLOT + timedelta(hours=1)) == []
    assert history.of_slot("daily", "noon", SLOT) == []


def test_the_newest_and_the_newest_good_one(store: StateStore, history: StateHistory) -> None:
    good = finished(history, record(store, group="daily"))
    by_hand = finished(history, record(store))
    failed = replace(record(store, group="daily"), error="no")
    failed = replace(failed, id=history.begin(failed), state=BackupState.FAILED)
    history.end(failed)
    other = finished(history, record(store, "u2"))
    assert history.latest() == {"u1": failed, "u2": other}
    assert history.latest_good() == {("u1", "daily"): good, ("u1", ""): by_hand, ("u2", ""): other}
    assert [found.id for found in history.of_guest("u1", limit=2)] == [failed.id, by_hand.id]


def test_what_a_dead_run_left_unfinished_has_died(
    store: StateStore, history: StateHistory, dead: set[str]
) -> None:
    begun = record(store)
    history.begin(begun)
    assert history.of_guest("u1")[0].state is BackupState.RUNNING
    dead.add("here:1:100")
    assert history.of_guest("u1")[0].state is BackupState.DIED
    assert not history.latest_good()


def test_a_record_without_an_end_of_a_run_that_ended_has_died(
    store: StateStore, history: StateHistory
) -> None:
    begun = record(store)
    history.begin(begun)
    store.finish_run(begun.run, RunState.FAILED, "", 70)
    assert history.of_run(begun.run)[0].state is BackupState.DIED


def test_since(store: StateStore, history: StateHistory) -> None:
    finished(history, record(store, started=SLOT - timedelta(seconds=1)))
    late = finished(history, record(store, started=SLOT))
    assert history.since(SLOT) == [late]


def test_a_schedule_is_followed_from_the_day_it_was_written_down(history: StateHistory, clock) -> None:
    first = history.follow("daily", "night", "daily 22:00")
    clock.seconds += 3600
    assert history.follow("daily", "night", "daily 22:00") == first
    changed = history.follow("daily", "night", "daily 23:00")
    assert changed == first + timedelta(hours=1)
    assert history.follow("daily", "night", "daily 23:00") == changed


def test_notes(history: StateHistory, clock) -> None:
    assert history.noted("digest") is None
    history.note("digest", "one")
    clock.seconds += 60
    history.note("digest", "two")
    value, when = history.noted("digest") or ("", SLOT)
    assert (value, when) == ("two", clock.now())
