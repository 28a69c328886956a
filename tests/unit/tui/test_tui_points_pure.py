"""Days, comparisons, curves and states: what the places of points and repositories are made from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from vmconsole.config.schema import RepositoryConfig
from vmconsole.errors import RepositoryLocked, RepositoryMissing, WrongPassphrase
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.ledger import Mark, Vanished
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.model.run import Run, RunState
from vmconsole.tui.month import WIDTH, month_text
from vmconsole.tui.picture import Picture
from vmconsole.tui.plot import daily_bars, growth_plot
from vmconsole.tui.points import Day, PointRow, compare, days_of
from vmconsole.tui.repositories import Answer, Known, days_left, pace, passphrase_source, row_of
from vmconsole.tui.screens.prune import judged_from
from vmconsole.tui.states import State

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
DAY = timedelta(days=1)


def a_disk(name="vda", size=100, stored=10):
    return DiskPoint(
        name, f"{name}.raw", size, "raw", Mode.FULL, bytes_dirty=5, bytes_read=7, bytes_stored=stored
    )


def a_row(days_ago=0, uuid="u", disks=None, mark=None, **values):
    moment = NOW - days_ago * DAY
    point = RestorePoint(f"a-{uuid}-{days_ago}", "web", uuid, "kvm1", "libvirt", moment, Consistency.CRASH,
                         tuple(disks or [a_disk()]), **values)  # fmt: skip
    return PointRow(point, "main", mark)


def a_record(state, days_ago=0):
    return BackupRecord(0, "r", "u", "web", "kvm1", "main", NOW - days_ago * DAY, state)


def test_a_day_is_what_matters_most_of_it():
    mark = Mark("main", "a", "b", NOW)
    rows = [a_row(0), a_row(1, pinned=True), a_row(2, warnings=("!",)), a_row(3, mark=mark)]
    records = [
        a_record(BackupState.FAILED, 0),
        a_record(BackupState.DIED, 4),
        a_record(BackupState.CANCELLED, 5),
    ]
    days = days_of(rows, records, UTC)
    told = {(NOW.date() - day).days: found.what for day, found in days.items()}
    assert told == {0: "ok", 1: "pinned", 2: "warning", 3: "pruned", 4: "failed"}
    assert Day().what == "none"


def test_days_begin_where_the_shop_is():
    late = replace(a_row().point, time=datetime(2026, 11, 21, 23, 30, tzinfo=UTC))
    assert list(days_of([PointRow(late, "main")], [], ZoneInfo("Europe/Berlin"))) == [date(2026, 11, 22)]


@pytest.mark.parametrize(("year", "month"), [(2026, 2), (2027, 5), (2024, 2), (2026, 11)])
def test_a_month_has_all_its_days_in_lines_of_one_width(year, month):
    first = date(year, month, 1)
    text = month_text({}, year, month, first, date(2030, 1, 1), ascii_only=True).plain
    lines = text.rstrip("\n").split("\n")[2:]
    assert {len(line) for line in lines} == {WIDTH}
    numbers = [
        int(word.strip("[].")) for word in text.replace("[ ", "[").split() if word.strip("[].").isdigit()
    ]
    last = (date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)).day
    assert [number for number in numbers if number != year] == list(range(1, last + 1))


def test_days_to_come_are_empty():
    text = month_text({}, 2026, 11, date(2026, 11, 20), date(2026, 11, 21), ascii_only=True).plain
    assert "[20.]" in text
    assert " 21. " in text
    assert " 22  " in text


def test_a_comparison_puts_the_older_first_and_counts_what_is_between():
    older = a_row(3, disks=[a_disk("vda", 100), a_disk("vdb", 50), a_disk("vdc", 10)])
    newer = a_row(1, disks=[a_disk("vda", 200), a_disk("vdc", 10), a_disk("vdd", 1)])
    rows = [a_row(0), newer, a_row(2), older, a_row(2, uuid="other"), a_row(4)]
    found = compare(newer, older, rows)
    assert (found.older, found.newer) == (older, newer)
    assert [(disk.id, disk.what) for disk in found.disks] == [
        ("vda", "grown"), ("vdb", "removed"), ("vdc", "same size"), ("vdd", "added"),
    ]  # fmt: skip
    assert [row.key for row in found.between] == ["main/a-u-1", "main/a-u-2"]
    assert found.total("bytes_stored") == 40
    other = compare(a_row(0), a_row(1, uuid="other"), rows)
    assert not other.same_guest
    assert other.between == ()


def test_a_curve_fits_and_ends_at_the_sum():
    days = [(date(2026, 9, 1) + timedelta(number), number << 30) for number in range(40)]
    for ascii_only in (False, True):
        text = growth_plot(days, 120, 12, ascii_only=ascii_only).plain
        lines = text.rstrip("\n").split("\n")
        assert len(lines) == 12
        assert max(len(line) for line in lines) <= 120
        assert "780 GiB" in lines[0]
        assert "01 Sep" in lines[-1]
        assert "10 Oct" in lines[-1]
        assert text.isascii() == ascii_only


def test_without_room_or_days_there_is_no_curve():
    days = [(date(2026, 9, 1), 1), (date(2026, 9, 2), 8)]
    assert growth_plot(days, 20, 12).plain == ""
    assert growth_plot(days[:1], 100, 12).plain == ""
    assert growth_plot(days, 40, 3, ascii_only=True).plain == "18\n"
    assert daily_bars([*days, (date(2026, 9, 3), 0)], 2).plain == "█·\n"


def settings(**values):
    open_one = {} if "passphrase" in values else {"encryption": "none"}
    return RepositoryConfig.model_validate({"location": "/srv/main"} | open_one | values)


def a_run(state, error=""):
    return Run("r", "check", "main", state, "h:1:1", NOW, NOW, error)


GONE = Vanished("main", "a", "b", "web", NOW, NOW)


@pytest.mark.parametrize(
    ("known", "error", "expected"),
    [
        (Known(points=3), None, (State.OK, "ok")),
        (Known(), None, (State.NEVER, "empty")),
        (Known(points=3), RepositoryMissing("gone"), (State.FAILED, "missing")),
        (Known(points=3), WrongPassphrase("no"), (State.FAILED, "no key")),
        (Known(points=3), RepositoryLocked("by nas"), (State.RUNNING, "in use")),
        (Known(points=3, vanished=(GONE,)), RepositoryLocked("by nas"), (State.FAILED, "vanished")),
        (Known(points=3, check=a_run(RunState.FAILED, "2 problems")), None, (State.FAILED, "damaged")),
        (Known(points=3, check=a_run(RunState.DONE)), None, (State.OK, "ok")),
        (Known(points=3, check=a_run(RunState.CANCELLED)), None, (State.OK, "ok")),
    ],
)
def test_the_worst_is_told_first(known, error, expected):
    row = row_of("main", settings(), known, Picture(NOW), Answer(NOW, None, error))
    assert (row.state, row.word) == expected
    assert bool(row.why) == (row.state is not State.OK)


def test_where_the_passphrase_comes_from_is_told_and_never_what_it_is():
    assert passphrase_source(settings()).startswith("none is needed")
    command = settings(passphrase={"command": ["pass", "show", "borg/secret"]})
    assert passphrase_source(command) == "what pass prints"
    assert passphrase_source(settings(passphrase={"env": "VM_PASS"})) == "environment variable VM_PASS"


def test_the_pace_says_how_long_the_space_lasts():
    from vmconsole.model.repository import RepositorySpace

    days = tuple((date(2026, 11, number), 10) for number in range(1, 11))
    assert pace(days) == 10
    assert pace(()) == 0
    known = Known(added=days, space=RepositorySpace("main", 1000, 300))
    assert days_left(known) == 30
    assert days_left(replace(known, added=days[:3])) is None, "three days say nothing yet"
    assert days_left(replace(known, space=None)) is None


def test_verdicts_that_make_no_sense_are_none():
    assert judged_from(None) == []
    assert judged_from({}) == []
