"""What the tests of several processes start: python state_worker.py PATH KIND NAME."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from vmconsole.state.store import StateStore


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def hammer(store: StateStore, name: str) -> None:
    """Everything a runner does, fast; says how often it held the contended name."""
    run = store.start_run("backup", name).id
    held = 0
    for step in range(60):
        store.add_event(run, {"event": "e", "name": name, "step": step})
        entry = store.journal(run).acquire("kvm1", "scratch", {"step": str(step)})
        if store.claim("guest/1", run) == run:
            held += 1
            store.release_claims(run)
        if step % 10:
            store.journal(run).release(entry)
    print(held, flush=True)


def until_killed(store: StateStore, name: str) -> None:
    """Announce each journal entry once acquire returned, then keep writing."""
    run = store.start_run("backup", name).id
    print(run, flush=True)
    for step in range(1_000_000):
        entry = store.journal(run).acquire("kvm1", "scratch", {"step": str(step)})
        print(entry, flush=True)
        store.add_event(run, {"event": "e", "step": step, "padding": "x" * 5000})


if __name__ == "__main__":
    opened = StateStore.open(Path(sys.argv[1]), RealClock(), f"test:{sys.argv[3]}", lambda _: False)
    {"hammer": hammer, "until_killed": until_killed}[sys.argv[2]](opened, sys.argv[3])
    opened.close()
