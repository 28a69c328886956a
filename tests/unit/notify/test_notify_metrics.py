from __future__ import annotations

import re
import stat
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from vmconsole.interfaces import Metrics
from vmconsole.model.alert import AlertKind
from vmconsole.model.figures import Figures, GuestFigures
from vmconsole.model.repository import RepositorySpace
from vmconsole.notify.metrics import MetricsFile, text_of

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
WEB = GuestFigures("u1", "web", "kvm1", "daily", NOW, False, False, 12.5, 1 << 30, 4096, 7)
NEVER = GuestFigures("u2", "db", "kvm1", "daily", None, True, True)
FIGURES = Figures(NOW, (WEB, NEVER), (RepositorySpace("main", 100, 25),), 3, {AlertKind.OVERDUE: 1})

_SAMPLE = re.compile(r"(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\n"])*)"(?:,|$)')


def parse(text):
    """{(name, labels): value}, as the collector reads it; asserts what it insists on."""
    assert text.endswith("\n")
    found, typed, names = {}, set(), []
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
            continue
        if line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        assert match["name"] in typed
        labels, rest = [], match["labels"] or ""
        while rest:
            label = _LABEL.match(rest)
            assert label, rest
            plain = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], label[2])
            labels.append((label[1], plain))
            rest = rest[label.end() :]
        if not names or names[-1] != match["name"]:
            assert match["name"] not in names, "samples of a name stand together"
            names.append(match["name"])
        key = (match["name"], tuple(labels))
        assert key not in found
        found[key] = float(match["value"])
    return found


def labels(guest, uuid):
    return (("guest", guest), ("uuid", uuid), ("host", "kvm1"), ("group", "daily"))


def test_every_figure_is_there():
    found = parse(text_of(FIGURES))
    web, db = labels("web", "u1"), labels("db", "u2")
    assert found["vmconsole_guest_last_good_timestamp_seconds", web] == NOW.timestamp()
    assert ("vmconsole_guest_last_good_timestamp_seconds", db) not in found
    assert (found["vmconsole_guest_overdue", web], found["vmconsole_guest_overdue", db]) == (0, 1)
    assert (found["vmconsole_backup_failed", web], found["vmconsole_backup_failed", db]) == (0, 1)
    assert found["vmconsole_backup_seconds", web] == 12.5
    assert found["vmconsole_backup_bytes_read", web] == 1 << 30
    assert found["vmconsole_backup_bytes_stored", web] == 4096
    assert (found["vmconsole_restore_points", web], found["vmconsole_restore_points", db]) == (7, 0)
    assert found["vmconsole_repository_size_bytes", (("repository", "main"),)] == 100
    assert found["vmconsole_repository_free_bytes", (("repository", "main"),)] == 25
    assert found["vmconsole_unprotected_guests", ()] == 3
    assert found["vmconsole_scheduler_last_run_timestamp_seconds", ()] == NOW.timestamp()
    assert found["vmconsole_alerts", (("kind", "overdue"),)] == 1
    assert found["vmconsole_alerts", (("kind", "failure"),)] == 0


@given(st.lists(st.text(), max_size=4))
def test_names_come_back_as_they_were(names):
    guests = tuple(GuestFigures(f"u{n}", name, "kvm1", "daily", NOW) for n, name in enumerate(names))
    found = parse(text_of(Figures(NOW, guests)))
    for number, name in enumerate(names):
        assert found["vmconsole_guest_overdue", labels(name, f"u{number}")] == 0


def test_names_that_are_no_text_and_guests_that_are_there_twice():
    odd = GuestFigures("u1", "a\udc80", "kvm1", "daily", NOW)
    text = text_of(Figures(NOW, (odd, odd)))
    assert parse(text)["vmconsole_guest_overdue", labels("a?", "u1")] == 0
    text.encode()


def test_the_file_is_replaced_whole_and_readable_by_all(tmp_path):
    path = tmp_path / "vmconsole.prom"
    made: Metrics = MetricsFile(path)
    assert made.write(Figures(NOW)).ok
    assert made.write(FIGURES).ok
    assert parse(path.read_text()) == parse(text_of(FIGURES))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path):
    done = MetricsFile(tmp_path / "no" / "vmconsole.prom").write(FIGURES)
    assert "No such file" in done.problem
    assert "[notify]" in done.hint


def test_nothing_stays_when_the_name_is_taken_by_a_folder(tmp_path):
    path = tmp_path / "vmconsole.prom"
    path.mkdir()
    assert not MetricsFile(path).write(FIGURES).ok
    assert list(tmp_path.iterdir()) == [path]
