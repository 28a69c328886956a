"""Runs as rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from vmconsole.model.guest import Guest, GuestKind, GuestState
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.run import Run, RunState
from vmconsole.tui.following import Following, follow
from vmconsole.tui.picture import GuestRow
from vmconsole.tui.rundetail import bar
from vmconsole.tui.runrows import DIED, run_row, started, waiting_guests
from vmconsole.tui.states import Glyphs, State

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def run(
    state: RunState = RunState.RUNNING, kind: str = "backup", subject: str = "group daily", error: str = ""
) -> Run:
    ended = None if state is RunState.RUNNING else NOW
    return Run("r1", kind, subject, state, "here:1:1", NOW - timedelta(minutes=2), ended, error)


def record(guest: str, state: BackupState = BackupState.DONE, **values: object) -> BackupRecord:
    return BackupRecord(0, "r1", f"u-{guest}", guest, "kvm1", "main", NOW, state, **values)  # type: ignore[arg-type]


def guest(name: str, *groups: str, template: bool = False) -> GuestRow:
    return GuestRow(
        Guest(f"u-{name}", "1", name, "kvm1", GuestKind.VM, GuestState.RUNNING, template=template),
        State.OK,
        groups=groups,
    )


def test_a_guest_that_was_tried_twice_counts_once():
    row = run_row(
        run(RunState.DONE),
        [record("a", BackupState.POSTPONED), record("a"), record("b")],
        Following(),
        [],
        NOW,
    )
    assert (row.done, row.of) == (2, 2)


def test_how_a_run_went_in_one_line():
    def told(state: RunState, *records: BackupRecord, error: str = "") -> str:
        return run_row(run(state, error=error), records, Following(), [], NOW).told

    failed = record("b", BackupState.FAILED, error="It is full.")
    assert told(RunState.FAILED, record("a"), failed) == "1 of 2 failed. b: It is full."
    assert told(RunState.FAILED, failed) == "b: It is full."
    assert told(RunState.FAILED, error="The repository is locked.") == "The repository is locked."
    assert told(RunState.DIED) == DIED
    assert told(RunState.WARNINGS, record("a", BackupState.WARNINGS)) == "with warnings: a"
    assert told(RunState.CANCELLED) == "stopped by hand"
    assert told(RunState.DONE, record("a", bytes_stored=2048)) == "stored 2 KiB"


def test_who_is_to_come():
    guests = [
        guest("a", "daily"),
        guest("b", "daily"),
        guest("c", "hourly"),
        guest("t", "daily", template=True),
    ]
    assert waiting_guests(run(), [record("a", BackupState.RUNNING)], guests) == ("b",)
    assert waiting_guests(run(subject="a, c"), [], guests) == ("a", "c")
    assert waiting_guests(run(subject="all guests"), [record("a")], guests) == ("b", "c")
    assert waiting_guests(run(kind="schedule", subject="hourly/when"), [], guests) == ("c",)
    assert waiting_guests(run(kind="restore", subject="a"), [], guests) == ()


def test_time_left_is_not_promised_while_guests_are_to_come():
    progress = [
        (n, NOW - timedelta(seconds=10 - n), {"event": "disk_progress", "run": "r1", "guest": "a", "disk": "vda",
         "done": n * 10, "total": 1000})
        for n in range(1, 11)
    ]  # fmt: skip
    following = follow(Following(), progress)
    alone = run_row(run(), [record("a", BackupState.RUNNING)], following, [guest("a", "daily")], NOW)
    assert alone.left == "1 m 30 s left"
    assert (alone.done, alone.of, alone.read) == (0, 1, 100)
    both = run_row(
        run(), [record("a", BackupState.RUNNING)], following, [guest("a", "daily"), guest("b", "daily")], NOW
    )
    assert both.left == ""
    assert (both.of, both.waits) == (2, ("b",))


def test_many_names_are_counted():
    assert run_row(run(subject="a, b"), [], Following(), [], NOW).what == "backup a, b"
    assert run_row(run(subject="a, b, c"), [], Following(), [], NOW).what == "backup 3 guests (a …)"


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (timedelta(hours=6), "02:00"),
        (timedelta(days=1), "Fri 08:00"),
        (timedelta(days=6), "Sun 08:00"),
        (timedelta(days=7), "11-14 08:00"),
        (timedelta(days=400), "2025-10-17"),
    ],
)
def test_when_it_began(ago, shown):
    assert started(NOW - ago, NOW, UTC) == shown


def test_days_are_those_of_the_configured_zone():
    assert started(NOW - timedelta(hours=9), NOW, timezone(timedelta(hours=2))) == "01:00"


@pytest.mark.parametrize(("share", "filled"), [(0.0, 0), (0.5, 5), (0.999, 9), (1.0, 10)])
def test_a_bar_is_full_when_it_is_all(share, filled):
    assert bar(share, 10, Glyphs(ascii=True)).plain == "#" * filled + "-" * (10 - filled)
