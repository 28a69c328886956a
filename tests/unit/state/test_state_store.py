from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from vmconsole.errors import UsageError, VmconsoleError
from vmconsole.events import DiskProgress, StepStarted
from vmconsole.interfaces import Journal, RunStore
from vmconsole.model.guest import (
    Disk,
    Guest,
    GuestKind,
    GuestState,
    HostInventory,
    HostKind,
    HostLoad,
    Tracking,
)
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.model.run import RunState
from vmconsole.state.store import StateStore, random_letters

OpenStore = Callable[..., StateStore]


def test_it_is_what_the_core_asks_for(store: StateStore) -> None:
    as_store: RunStore = store
    as_journal: Journal = store.journal("r")
    assert as_store.runs() == []
    assert as_journal.acquire("h", "k", {}) == 1


# --- runs --------------------------------------------------------------------------------------


def test_run_from_start_to_end(store: StateStore, clock: Any) -> None:
    run = store.start_run("backup", "group daily")
    assert re.fullmatch(r"20261123T020001-t\d{3}", run.id)
    assert store.run(run.id) == run
    assert (run.state, run.process) == (RunState.RUNNING, "here:1:100")
    clock.seconds = 90
    store.finish_run(run.id, RunState.FAILED, "No space.", 1)
    ended = store.run(run.id)
    assert (ended.state, ended.error, ended.exit_code) == (RunState.FAILED, "No space.", 1)
    assert ended.ended == run.started + timedelta(seconds=90)


def test_runs_come_newest_first_and_limited(store: StateStore, clock: Any) -> None:
    made = []
    for _ in range(5):
        made.append(store.start_run("backup", "x").id)
        clock.seconds += 1
    assert [run.id for run in store.runs()] == made[::-1]
    assert sorted(made) == made
    assert [run.id for run in store.runs(limit=2)] == [made[4], made[3]]


def test_a_run_is_found_by_the_beginning_of_its_id(store: StateStore, clock: Any) -> None:
    first = store.start_run("backup", "x")
    clock.seconds = 86_400
    second = store.start_run("backup", "x")
    assert store.run("20261123") == first
    assert store.run(f" {second.id} ") == second
    with pytest.raises(UsageError, match="Several runs begin with '2026'") as caught:
        store.run("2026")
    assert first.id in caught.value.message
    for nothing in ("x", "", "%", "2026112_", first.id.lower()):
        with pytest.raises(UsageError, match="no run"):
            store.run(nothing)


def test_a_dead_process_is_reported_and_an_ended_one_is_not(
    store: StateStore, open_store: OpenStore, dead: set[str]
) -> None:
    running, done = store.start_run("backup", "a"), store.start_run("backup", "b")
    store.finish_run(done.id, RunState.DONE, "", 0)
    dead.add("here:1:100")
    other = open_store("here:2:200")
    assert other.run(running.id).state is RunState.DIED
    assert other.run(done.id).state is RunState.DONE
    assert other.process_is_dead("here:1:100")
    assert not other.process_is_dead("here:2:200")


def test_equal_tokens_do_not_make_equal_ids(tmp_path: Path, clock: Any) -> None:
    tokens = iter(["same", "same", "diff"])
    store = StateStore.open(tmp_path / "s", clock, "p", lambda _: False, token=lambda: next(tokens))
    assert store.start_run("a", "").id.endswith("-same")
    assert store.start_run("b", "").id.endswith("-diff")
    store.close()


def test_random_letters() -> None:
    made = {random_letters() for _ in range(100)}
    assert len(made) > 90
    assert all(re.fullmatch(r"[a-z2-9]{4}", letters) for letters in made)


# --- events ------------------------------------------------------------------------------------


def test_events_are_followed_in_order(store: StateStore, open_store: OpenStore, clock: Any) -> None:
    run, other = store.start_run("backup", "x"), store.start_run("backup", "y")
    store.add_event(run.id, StepStarted(run.id, "web", "freeze").as_json())
    store.add_event(other.id, StepStarted(other.id, "db", "freeze").as_json())
    clock.seconds = 5
    store.add_event(run.id, StepStarted(run.id, "wéb\x00", "cut").as_json())
    follower = open_store("here:2:200")
    seen = follower.events(run.id)
    assert [document["step"] for _, _, document in seen] == ["freeze", "cut"]
    assert seen[1][1] - seen[0][1] == timedelta(seconds=5)
    assert seen[1][2] == {"event": "step_started", "run": run.id, "guest": "wéb\x00", "step": "cut"}
    assert follower.events(run.id, after=seen[0][0]) == seen[1:]
    assert follower.events(run.id, after=seen[1][0]) == []


def progress(run: str, disk: str, done: int, total: int = 100) -> dict[str, Any]:
    return DiskProgress(run, "web", disk, done, total).as_json()


def test_progress_does_not_flood(store: StateStore, clock: Any) -> None:
    run = store.start_run("backup", "x").id
    for step in range(40):
        clock.seconds = step / 10
        store.add_event(run, progress(run, "vda", step))
        store.add_event(run, progress(run, "vdb", step))
    kept = [document for _, _, document in store.events(run)]
    assert [d["done"] for d in kept if d["disk"] == "vda"] == [0, 10, 20, 30]
    assert len(kept) == 8
    store.add_event(run, progress(run, "vda", 100))
    assert store.events(run)[-1][2]["done"] == 100
    store.add_event(run, StepStarted(run, "web", "commit").as_json())
    store.finish_run(run, RunState.DONE, "", 0)
    left = [(d.get("disk"), d.get("done")) for _, _, d in store.events(run)]
    assert left == [("vdb", 30), ("vda", 100), (None, None)]


def test_an_event_of_no_run_is_an_error(store: StateStore) -> None:
    with pytest.raises(VmconsoleError, match="refuses a record"):
        store.add_event("nothing", {"event": "warned"})


def test_many_threads_write_at_once(store: StateStore) -> None:
    run = store.start_run("backup", "x").id
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                store.add_event(run, {"event": "e", "thread": number, "step": step})
                entry = store.journal(run).acquire("h", "k", {"n": str(number)})
                store.journal(run).release(entry)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    seen = [document for _, _, document in store.events(run)]
    assert len(seen) == 160
    for number in range(8):
        assert [d["step"] for d in seen if d["thread"] == number] == list(range(20))
    assert store.open_entries() == []


# --- journal -----------------------------------------------------------------------------------


def test_journal_keeps_what_was_not_released(store: StateStore, open_store: OpenStore) -> None:
    journal = store.journal("run-1")
    first = journal.acquire("kvm1", "checkpoint", {"domain": "wéb", "name": "x\n"})
    second = journal.acquire("kvm1", "scratch", {"path": "/a"})
    journal.release(first)
    journal.release(first)
    third = store.journal("run-2").acquire("kvm2", "scratch", {})
    entries = open_store("here:2:200").open_entries()
    assert [(e.id, e.run, e.host, e.kind) for e in entries] == [
        (second, "run-1", "kvm1", "scratch"),
        (third, "run-2", "kvm2", "scratch"),
    ]
    assert entries[0].payload == {"path": "/a"}
    assert entries[0].process == "here:1:100"
    assert entries[0].created.tzinfo is not None


def test_a_released_entry_is_not_numbered_again(store: StateStore) -> None:
    journal = store.journal("r")
    first = journal.acquire("h", "k", {})
    journal.release(first)
    assert journal.acquire("h", "k", {}) > first


# --- claims ------------------------------------------------------------------------------------


def test_only_one_run_holds_a_name(store: StateStore, open_store: OpenStore) -> None:
    other_store = open_store("here:2:200")
    mine, other = store.start_run("backup", "x").id, other_store.start_run("backup", "x").id
    assert store.claim("guest/1", mine) == mine
    assert store.claim("guest/1", mine) == mine
    assert other_store.claim("guest/1", other) == mine
    assert other_store.claim("guest/2", other) == other
    store.release_claims(mine)
    assert other_store.claim("guest/1", other) == other
    assert store.claim("guest/2", mine) == other


def test_a_dead_holder_loses_its_names(store: StateStore, open_store: OpenStore, dead: set[str]) -> None:
    mine = store.start_run("backup", "x").id
    store.claim("guest/1", mine)
    other_store = open_store("here:2:200")
    other = other_store.start_run("backup", "x").id
    assert other_store.claim("guest/1", other) == mine
    dead.add("here:1:100")
    assert other_store.claim("guest/1", other) == other
    # the one thought dead no longer has it, and does not free it for others
    store.release_claims(mine)
    assert store.claim("guest/1", mine) == other


def test_a_run_that_ended_without_letting_go_loses_its_names(store: StateStore) -> None:
    first, second = store.start_run("backup", "x").id, store.start_run("backup", "x").id
    store.claim("guest/1", first)
    assert store.claim("guest/1", second) == first
    store.finish_run(first, RunState.FAILED, "", 1)
    assert store.claim("guest/1", second) == second


def test_of_many_that_take_over_one_wins(open_store: OpenStore, dead: set[str]) -> None:
    gone = open_store("gone:1:1")
    gone.claim("guest/1", gone.start_run("backup", "x").id)
    dead.add("gone:1:1")
    store = open_store("here:1:100")
    ids = [store.start_run("backup", "x").id for _ in range(8)]
    barrier = threading.Barrier(len(ids))
    answers: list[str] = []

    def work(run: str) -> None:
        barrier.wait(30)
        answers.append(store.claim("guest/1", run))

    threads = [threading.Thread(target=work, args=(run,)) for run in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 8
    assert len(set(answers)) == 1


# --- caches ------------------------------------------------------------------------------------


def inventory(name: str = "kvm1") -> HostInventory:
    disk = Disk("vda", 1 << 40, "qcow2", "/a b", included=False, reason="shared", tracking=Tracking.BITMAP)
    guest = Guest(
        "u-1", "7", "wéb", name, GuestKind.VM, GuestState.RUNNING, True, ("prod",), "pool", (disk,), ("old",)
    )
    return HostInventory(name, HostKind.LIBVIRT, True, "", HostLoad(0.5, None, 0.1), (guest,))


def test_inventory_comes_back_as_it_was(store: StateStore, open_store: OpenStore) -> None:
    when = datetime(2026, 11, 23, 3, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    store.save_inventory(HostInventory("kvm1", HostKind.PROXMOX, False, "gone"), when)
    store.save_inventory(inventory(), when)
    store.save_inventory(inventory("kvm2"), when)
    assert open_store("p:2:2").inventories() == {
        "kvm1": (inventory(), when),
        "kvm2": (inventory("kvm2"), when),
    }


def point(number: int, **changes: Any) -> RestorePoint:
    values: dict[str, Any] = {
        "archive": f"web.11112222-2026110{number}T000000Z",
        "guest": "web",
        "uuid": "11112222-0000",
        "host": "kvm1",
        "hypervisor": "libvirt",
        "time": datetime(2026, 11, number, tzinfo=UTC),
        "consistency": Consistency.APPLICATION,
        "disks": (DiskPoint("vda", "disks/vda.raw", 1 << 40, "qcow2", Mode.INCREMENTAL, parent="ab"),),
        "warnings": ("one",),
        "facts": {"a": [1, {"b": None}]},
        "archive_id": f"{number:064x}",
    }
    return RestorePoint(**(values | changes))


def test_points_come_back_newest_first(store: StateStore, open_store: OpenStore) -> None:
    store.save_points("main", [point(1), point(3), point(2)])
    store.save_points("second", [point(1)])
    other = open_store("p:2:2")
    assert other.points("main") == [point(3), point(2), point(1)]
    store.save_points("main", [point(2)])
    assert other.points("main") == [point(2)]
    assert other.points("second") == [point(1)]
    store.save_points("main", [])
    assert other.points("main") == []
    assert other.points("unknown") == []


def test_what_a_newer_version_cached_is_left_out(store: StateStore, tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    store.save_points("main", [point(1), point(2)])
    store.save_inventory(inventory(), datetime(2026, 1, 1, tzinfo=UTC))
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as connection, connection:
        connection.execute("""UPDATE points SET document = '{"schema": 99}' WHERE archive LIKE '%1101%'""")
        connection.execute("""UPDATE inventories SET document = '{"name": "kvm1", "kind": "xen"}'""")
    assert store.points("main") == [point(2)]
    assert store.inventories() == {}
