"""`vmconsole --run-schedule` as a process of its own, on the open demo shop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from open_shop import SLOW, open_shop
from sqlalchemy import delete

from vmconsole.__main__ import main
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.remote.process import identity, is_dead
from vmconsole.state.history import StateHistory
from vmconsole.state.store import StateStore
from vmconsole.state.tables import backups
from vmconsole.wiring.clock import SystemClock

MIB = 1 << 20
GROUPS = """
[groups.all]
guests = ["web-01", "db-01", "build-07", "wiki-01"]
when = "every 30 min"

[limits]
parallel = 3
per_host = 2
per_storage = 4
"""


class LastWeek(SystemClock):
    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=7)


class Shop:
    def __init__(self, folder: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.config, self._capsys = folder, str(config), capsys

    def ask(self, *words: str, code: int = 0) -> list[dict]:
        self._capsys.readouterr()
        assert main(["--config", self.config, "--json", *words]) == code
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]

    def schedule(self, *words: str, code: int = 0) -> list[dict]:
        return self.ask("--run-schedule", *words, code=code)

    @contextmanager
    def running(self, *words: str):
        command = [sys.executable, "-m", "vmconsole", "--config", self.config, "--json", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def history(self, clock: SystemClock):
        store = StateStore.open(self.folder / "state" / "state.sqlite", clock, identity(), is_dead)
        try:
            yield StateHistory(store.database, clock, is_dead)
        finally:
            store.close()

    def forget(self) -> None:
        """The schedule was written down a week ago, and nothing was done since."""
        with self.history(LastWeek()) as history:
            history.note("slot/all/main", "2020-01-01T00:00:00+00:00")
            with history._database.writing() as connection:
                connection.execute(delete(backups))
            history.follow("all", "main", "another rule")
            history.follow("all", "main", "every 30 min")


def made(events: list[dict]) -> set[str]:
    return {event["guest"] for event in events if event.get("event") == "point_made"}


def until(process: subprocess.Popen[str], kind: str, **wanted: object) -> dict:
    for line in process.stdout or ():
        event = json.loads(line)
        if event.get("event") == kind and wanted.items() <= event.items():
            return event
    raise AssertionError(f"{kind} never came")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("schedule")
    with open_shop(folder, GROUPS, slow=True) as config:
        yield folder, config


@pytest.fixture
def shop(opened, capsys: pytest.CaptureFixture[str]) -> Shop:
    found = Shop(*opened, capsys)
    found.forget()
    return found


def test_a_new_schedule_is_not_due_before_its_next_time(opened, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(*opened, capsys)
    shop.ask("runs")  # makes the state
    assert shop.schedule() == [{"run": None, "due": []}]


def test_everything_due_is_backed_up_once(shop: Shop) -> None:
    (plan,) = shop.schedule("--dry-run")
    assert {item["guest"] for item in plan["plan"]} == {"web-01", "db-01", "build-07", "wiki-01"}
    assert all(
        item["start"] <= item["end"] and item["mode"] in ("full", "incremental") for item in plan["plan"]
    )
    assert shop.ask("points")[0]["points"] == []

    events = shop.schedule()
    assert made(events) == {"web-01", "db-01", "build-07", "wiki-01"}
    # Several at a time: one began before another had ended.
    order = [
        (event["event"], event["guest"])
        for event in events
        if event.get("event") in ("guest_planned", "point_made")
    ]
    assert order[1][0] == "guest_planned"
    points = shop.ask("points")[0]["points"]
    assert {(point["group"], point["schedule"]) for point in points} == {("all", "main")}
    assert shop.schedule() == [{"run": None, "due": []}]


def test_after_kill_9_the_next_start_does_what_is_left(shop: Shop) -> None:
    with shop.running("--run-schedule") as process:
        until(process, "point_made")
        process.kill()
        process.wait()
    before = {point["archive"] for point in shop.ask("points")[0]["points"]}
    events = shop.schedule()
    done = made(events)
    assert SLOW in done
    assert 1 <= len(done) < 4
    slot = [point for point in shop.ask("points")[0]["points"] if point["archive"] not in before]
    assert {point["guest"] for point in slot} == done
    assert shop.schedule() == [{"run": None, "due": []}]
    shop.ask("repo", "check")


def test_two_at_once_do_no_guest_twice(shop: Shop) -> None:
    before = len(shop.ask("points")[0]["points"])
    with shop.running("--run-schedule") as process:
        until(process, "run_started")
        (said,) = shop.schedule()
        assert (said["run"], said["due"]) == (None, ["all/main"])
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert len(shop.ask("points")[0]["points"]) == before + 4


def test_sigterm_stops_cleanly_and_the_next_start_goes_on(shop: Shop) -> None:
    with shop.running("--run-schedule") as process:
        until(process, "step_started", guest=SLOW, step="read")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1])["exit_code"] == 130
    assert shop.ask("runs", "--limit", "1")[0]["runs"][0]["state"] == "cancelled"
    assert SLOW in made(shop.schedule())
    assert not any(check["name"].startswith("left") for check in shop.ask("doctor")[0].get("checks", []))


def test_loop_stays_until_it_is_stopped(shop: Shop) -> None:
    with shop.running("--run-schedule", "--loop") as process:
        until(process, "run_finished")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130


def test_wrong_combinations_are_said(shop: Shop) -> None:
    assert "needs --dry-run" in shop.schedule("--at", "2026-12-24 22:00", code=2)[0]["message"]
    assert "is not a time" in shop.schedule("--dry-run", "--at", "christmas", code=2)[0]["message"]
    assert "of no use together" in shop.schedule("--dry-run", "--loop", code=2)[0]["message"]


def test_the_plan_of_another_time(shop: Shop) -> None:
    shop.schedule()
    assert shop.schedule("--dry-run")[0]["plan"] == []
    later = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
    (plan,) = shop.schedule("--dry-run", "--at", later)
    assert len(plan["plan"]) == 4
    assert {item["mode"] for item in plan["plan"] if item["guest"] in ("web-01", SLOW)} == {"incremental"}


class Inbox(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    got: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def good_a_week_ago(history: StateHistory, guest: dict, host: str) -> None:
    when = LastWeek().now()
    record = BackupRecord(0, "old", guest["uuid"], guest["name"], host, "backup", when, group="all")
    number = history.begin(record)
    history.end(replace(record, id=number, state=BackupState.DONE, ended=when, archive="old"))


def test_overdue_is_told_when_nothing_ran_at_all(shop: Shop) -> None:
    """The scheduler was off for a week, and now nothing is due: the guests are late all the same."""
    (seen,) = shop.ask("inventory", "--refresh")
    server = HTTPServer(("127.0.0.1", 0), Inbox)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = Path(shop.config)
    before = path.read_text()
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    window = f'when = "daily {hour:02}:30"\nwindow = "{hour:02}:00-{hour:02}:59"\n'
    path.write_text(
        'timezone = "UTC"\n'
        + before.replace('when = "every 30 min"\n', window)
        + f'\n[notify.channels.web]\nurl = "json://127.0.0.1:{server.server_port}/"\n'
    )
    try:
        with shop.history(LastWeek()) as history:
            for host in seen["hosts"]:
                for guest in host["guests"]:
                    good_a_week_ago(history, guest, host["name"])
            history.follow("all", "main", f"daily {hour:02}:30 within {hour:02}:00-{hour:02}:59")
        assert shop.schedule() == [{"run": None, "due": []}]
        told = " ".join(message["message"] + message["title"] for message in Inbox.got)
        for guest in ("web-01", SLOW, "build-07", "wiki-01"):
            assert guest in told
        assert "overdue" in told
        count = len(Inbox.got)
        shop.schedule()
        assert len(Inbox.got) == count, "once, not every five minutes"
    finally:
        path.write_text(before)
        server.shutdown()
        server.server_close()
