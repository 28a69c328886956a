"""What became of restore points: marks, our own deletions, and what went without us."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vmconsole.interfaces import Ledger
from vmconsole.model.ledger import Mark
from vmconsole.model.point import Consistency, RestorePoint
from vmconsole.state.ledger import StateLedger
from vmconsole.state.store import StateStore

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def point(number: int, **changes: Any) -> RestorePoint:
    made = RestorePoint(
        f"web.11112222-{number:04}",
        "web\x1b",
        "11112222-0000",
        "kvm1",
        "libvirt",
        NOW + timedelta(days=number),
        Consistency.CRASH,
        (),
        archive_id=f"{number:064x}",
    )
    return replace(made, **changes)


def mark(number: int, repository: str = "main", when: datetime = NOW) -> Mark:
    made = point(number)
    return Mark(repository, made.archive, made.archive_id, when, "not kept by any rule")


POINTS = [point(number) for number in (3, 2, 1)]


@pytest.fixture
def ledger(store: StateStore, clock: Any) -> StateLedger:
    return StateLedger(store.database, clock)


@pytest.fixture
def seen(ledger: StateLedger, store: StateStore) -> Callable[[Sequence[RestorePoint]], list[str]]:
    """Compare and remember, as everybody who lists a repository does; the numbers of what vanished."""

    def look(points: Sequence[RestorePoint]) -> list[str]:
        gone = ledger.compare("main", points)
        store.save_points("main", points)
        assert ledger.vanished("main") == gone
        return [item.archive[-1] for item in gone]

    return look


Look = Callable[[Sequence[RestorePoint]], list[str]]


def test_it_is_what_the_core_asks_for(ledger: StateLedger) -> None:
    as_ledger: Ledger = ledger
    assert as_ledger.marks("main") == []


def test_marks_are_kept_per_repository_and_taken_back(
    ledger: StateLedger, store: StateStore, clock: Any
) -> None:
    ledger.mark([mark(1), mark(2), mark(1, "second")])
    ledger.mark([mark(2, when=NOW + timedelta(days=3)), mark(3)])
    assert ledger.marks("main") == [mark(1), mark(2), mark(3)], "marked again keeps its first time"
    assert StateLedger(store.database, clock).marks("second") == [mark(1, "second")]
    ledger.unmark("main", [mark(1).archive, mark(3).archive, "unknown"])
    assert ledger.marks("main") == [mark(2)]
    ledger.unmark("main", [])
    ledger.mark([])
    assert [item.repository for item in ledger.marks("second")] == ["second"]


def test_a_mark_is_of_the_archive_not_of_its_name(ledger: StateLedger, seen: Look) -> None:
    ledger.mark([mark(1)])
    again = replace(mark(1), archive_id="f" * 64, marked=NOW + timedelta(days=1))
    ledger.mark([again])
    assert ledger.marks("main") == [again]
    seen(POINTS)
    assert ledger.marks("main") == [], "no such archive is there"


def test_what_goes_without_us_is_noticed_until_it_is_accepted(
    ledger: StateLedger, seen: Look, clock: Any
) -> None:
    assert seen(POINTS) == []
    clock.seconds = 60
    assert seen([point(3)]) == ["2", "1"]
    (first, _) = ledger.vanished("main")
    assert (first.guest, first.time, first.noticed) == ("web\x1b", point(2).time, clock.now())
    clock.seconds = 120
    assert seen([point(3)]) == ["2", "1"], "also when the list is remembered"
    assert ledger.vanished("main")[0].noticed < clock.now(), "when it was noticed first"
    assert ledger.vanished("second") == []
    assert ledger.accept("second") == 0
    assert ledger.accept("main") == 2
    assert ledger.accept("main") == 0
    assert seen([point(3)]) == []
    assert seen([]) == ["3"]


def test_it_is_noticed_also_when_the_list_was_not_remembered(ledger: StateLedger, store: StateStore) -> None:
    store.save_points("main", POINTS)
    assert len(ledger.compare("main", [])) == 3
    assert ledger.accept("main") == 3
    assert ledger.compare("main", []) == [], "accepted once is accepted"


def test_what_comes_back_is_forgiven_and_missed_again(ledger: StateLedger, seen: Look) -> None:
    seen(POINTS)
    assert seen([point(3)]) == ["2", "1"]
    assert seen(POINTS) == []
    seen([point(3)])
    ledger.accept("main")
    assert seen(POINTS) == []
    assert seen([point(3)]) == ["2", "1"]


def test_another_archive_under_the_same_name_hides_nothing(seen: Look) -> None:
    seen(POINTS)
    assert seen([*POINTS[:2], point(1, archive_id="e" * 64)]) == ["1"]


def test_what_we_delete_is_not_missed(ledger: StateLedger, seen: Look) -> None:
    seen(POINTS)
    ledger.mark([mark(1), mark(2)])
    ledger.deleting("main", {point(1).archive: point(1).archive_id})
    ledger.deleting("main", {})
    assert len(ledger.marks("main")) == 2, "a deletion may still fail"
    assert seen(POINTS[:2]) == []
    assert ledger.marks("main") == [mark(2)]
    assert seen([point(3)]) == ["2"]


def test_a_deletion_that_never_came_about(ledger: StateLedger, seen: Look, clock: Any) -> None:
    """Killed between the note and borg: nothing is hidden, nobody is blamed, and the note does not hold for ever."""
    seen(POINTS)
    ledger.mark([mark(1)])
    ledger.deleting("main", {point(1).archive: point(1).archive_id})
    clock.seconds = 3600
    assert seen(POINTS) == []
    assert ledger.marks("main") == [mark(1)], "it can still be had back, or deleted by the next compact"
    ledger.deleting("main", {point(1).archive: point(1).archive_id})
    clock.seconds += 23 * 3600
    assert seen(POINTS) == []
    assert seen(POINTS[:2]) == [], "the deletion came late"
    assert seen(POINTS) == []
    clock.seconds += 25 * 3600
    assert seen(POINTS) == []
    assert seen(POINTS[:2]) == ["1"], "somebody else's doing by now"


def test_a_point_without_an_id_is_never_missed(ledger: StateLedger, seen: Look) -> None:
    assert seen([point(1, archive_id="")]) == []
    assert seen([]) == [], "what has no id cannot be told from others"


def test_many_archives_at_once(ledger: StateLedger, store: StateStore) -> None:
    many = [point(number) for number in range(1700)]
    store.save_points("main", many)
    ledger.mark([mark(number) for number in range(1700)])
    ledger.deleting("main", {item.archive: item.archive_id for item in many[:1200]})
    assert len(ledger.compare("main", [])) == 500
    ledger.mark([mark(number) for number in range(1700)])
    ledger.unmark("main", [item.archive for item in many])
    assert ledger.marks("main") == []
    assert len(ledger.compare("main", many)) == 0


def test_several_at_the_same_time_notice_once(store: StateStore, clock: Any) -> None:
    store.save_points("main", POINTS)
    found: list[int] = []

    def compare() -> None:
        found.append(len(StateLedger(store.database, clock).compare("main", POINTS[:1])))

    threads = [threading.Thread(target=compare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2] * 8


def test_pins_are_remembered_with_the_points(store: StateStore) -> None:
    store.save_points("main", [point(2, pinned=True), point(1)])
    assert [item.pinned for item in store.points("main")] == [True, False]
