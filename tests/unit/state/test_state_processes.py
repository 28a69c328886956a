from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from vmconsole.model.run import RunState
from vmconsole.state.store import StateStore

OpenStore = Callable[..., StateStore]
WORKER = Path(__file__).with_name("state_worker.py")


def start(path: Path, kind: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, WORKER, path, kind, name], stdout=subprocess.PIPE, text=True)


def test_processes_that_start_together_share_one_database(tmp_path: Path, open_store: OpenStore) -> None:
    path = tmp_path / "state.sqlite"
    workers = [start(path, "hammer", name) for name in ("one", "two", "three")]
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sum(map(int, outputs)) > 0
    store = open_store()
    assert {run.subject for run in store.runs()} == {"one", "two", "three"}
    for run in store.runs():
        assert [document["step"] for _, _, document in store.events(run.id)] == list(range(60))
        left = [entry for entry in store.open_entries() if entry.run == run.id]
        assert [entry.payload["step"] for entry in left] == [str(step) for step in range(0, 60, 10)]


def test_kill_9_in_the_middle_loses_no_announced_entry(
    tmp_path: Path, open_store: OpenStore, dead: set[str]
) -> None:
    path = tmp_path / "state.sqlite"
    for round_number in range(4):
        worker = start(path, "until_killed", f"round{round_number}")
        assert worker.stdout is not None
        run = worker.stdout.readline().strip()
        announced = {int(worker.stdout.readline()) for _ in range(5 + 7 * round_number)}
        worker.kill()
        announced |= {
            int(line) for line in worker.stdout.read().splitlines(keepends=True) if line.endswith("\n")
        }
        worker.stdout.close()
        worker.wait(30)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        dead.add(f"test:round{round_number}")
        store = open_store("here:2:200")
        assert announced <= {entry.id for entry in store.open_entries() if entry.run == run}
        assert store.run(run).state is RunState.DIED
        # every event reported before the last announced entry is there
        assert len(store.events(run)) >= len(announced) - 1
