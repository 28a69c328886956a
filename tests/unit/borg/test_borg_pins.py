"""Pins live in the repository, seen by nobody as a guest's archive; deleting and compacting with real borg."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from borg_lab import CHUNK, DISK, Lab, name, noise, wait_until

from vmconsole.borg import pinlist
from vmconsole.borg.repository import _freed
from vmconsole.errors import Cancelled, RepositoryDamaged, RepositoryLocked
from vmconsole.events import Waiting

MADE = datetime(2026, 11, 23, 2, 0, 1, 5, tzinfo=UTC)


def made(lab: Lab, *days: int) -> list[str]:
    """Ids of archives of four chunks each, in the order given."""
    return [
        lab.write(name(day), 4 * CHUNK, lambda disk, day=day: disk.data(0, noise(4 * CHUNK, day)))[0]
        for day in days
    ]


# --- the list ------------------------------------------------------------------------------------


def test_a_list_has_a_name_no_guest_can_have() -> None:
    first = pinlist.next_name(MADE, [])
    assert first == "vmconsole.pins-20261123T020001000005Z"
    assert pinlist.is_pinlist(first)
    assert not pinlist.is_pinlist(name(0, "vmconsole"))
    assert not pinlist.is_pinlist("vmconsole.12345678-20261123T020001Z")
    assert not pinlist.is_pinlist(first + ".checkpoint")
    assert pinlist.next_name(MADE, ["zzz", first]) == "vmconsole.pins-20261123T020001000006Z"
    assert pinlist.next_name(MADE - timedelta(days=9), [first]) > first, "the clock was set back"
    with pytest.raises(RepositoryDamaged, match="impossible time"):
        pinlist.next_name(MADE, ["vmconsole.pins-99999999T999999999999Z"])


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are many, and nobody tells them apart
        pinlist.from_bytes(data)
    assert pinlist.from_bytes(pinlist.to_bytes({"a": "b"})) == {"a": "b"}


@pytest.mark.slow
def test_pins_are_kept_in_the_repository(lab: Lab) -> None:
    repository = lab.repository
    first, second = made(lab, 1, 2)
    assert repository.pins() == {}
    repository.set_pins({name(1): first, "gone": "ab"})
    assert repository.pins() == {name(1): first, "gone": "ab"}
    with repository.reader() as reader:
        assert [(p.archive, p.pinned) for p in reader.points()] == [(name(2), False), (name(1), True)]
    with repository.writer(lab.context) as writer:
        assert [p.pinned for p in writer.points()] == [False, True]
    assert repository.info().archives == 2, "the list is no restore point"
    repository.set_pins({name(2): second})
    assert repository.pins() == {name(2): second}
    assert sum(map(pinlist.is_pinlist, lab.archives())) == 1
    repository.set_pins({})
    assert lab.archives() == [name(1), name(2)]
    repository.set_pins({})
    lab.assert_clean()


@pytest.mark.slow
def test_the_newest_list_that_can_be_read_counts(lab: Lab) -> None:
    (first,) = made(lab, 1)
    lab.repository.set_pins({name(1): first})
    (good,) = filter(pinlist.is_pinlist, lab.archives())
    newer = pinlist.next_name(MADE, [good])
    lab.borg("create", "--stdin-name", "pins.json", f"::{newer}", "-")  # empty: no list
    newest = pinlist.next_name(MADE, [newer])
    lab.borg("create", "--stdin-name", "other", f"::{newest}", "-")
    assert lab.repository.pins() == {name(1): first}
    lab.borg("delete", f"::{good}")
    with pytest.raises(RepositoryDamaged, match=newer):
        lab.repository.pins()
    with lab.repository.reader() as reader:
        assert [p.archive for p in reader.points()] == [name(1)], "the points can still be listed"
    lab.repository.set_pins({name(1): first})
    assert lab.repository.pins() == {name(1): first}
    assert len(lab.archives()) == 2, "what could not be read is gone with the old ones"


@pytest.mark.slow
def test_a_pin_survives_a_new_id_and_a_new_name(lab: Lab) -> None:
    first, second = made(lab, 1, 2)
    lab.repository.set_pins({name(1): first, "an older name": second})
    lab.borg("rename", f"::{name(1)}", "moved")
    lab.borg("rename", "::moved", name(1))
    with lab.repository.reader() as reader:
        points = reader.points()
    assert first not in [p.archive_id for p in points]
    assert all(p.pinned for p in points)


# --- deleting and compacting ---------------------------------------------------------------------


@pytest.mark.slow
def test_deleted_and_compacted(lab: Lab) -> None:
    made(lab, 1, 2, 3)
    before = sum(path.stat().st_size for path in lab.path.rglob("*") if path.is_file())
    lab.repository.delete([name(1), name(2), "never there"], lab.context)
    assert lab.archives() == [name(3)]
    freed = lab.repository.compact(lab.context)
    after = sum(path.stat().st_size for path in lab.path.rglob("*") if path.is_file())
    assert freed is not None
    assert 7 * CHUNK < freed < 9 * CHUNK
    assert before - after > 7 * CHUNK
    lab.assert_clean()
    space = lab.repository.space()
    assert space is not None
    assert 0 < space[0] < space[1]
    lab.write(name(4), 4 * CHUNK, lambda disk: disk.reuse(0, 4 * CHUNK), parent=name(3))
    assert lab.read(name(4)) == noise(4 * CHUNK, 3)
    assert lab.extracted(name(4), DISK) == noise(4 * CHUNK, 3)
    lab.assert_clean()


def test_a_whole_repository_is_never_deleted(lab: Lab) -> None:
    for nothing in ([], [""], ["a", ""]):
        with pytest.raises(ValueError, match="name the archives"):
            lab.repository.delete(nothing, lab.context)
    assert lab.repository.id()


def test_space_is_not_known_of_what_is_far_or_gone(lab: Lab) -> None:
    assert lab.with_settings(location="ssh://root@kvm1/x").repository.space() is None
    assert lab.with_settings(location="/nonexistent/x").repository.space() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("compaction freed about 55.08 kB repository space.", 55_080),
        ("Remote: compaction freed about 1.50 GB repository space.", 1_500_000_000),
        ("compaction freed about 12 B repository space.", 12),
        ("compaction freed about -3 B repository space.", 0),
        ("compaction freed about 1..5 GB repository space.", None),
        ("something else", None),
    ],
)
def test_what_compact_says(text: str, expected: int | None) -> None:
    assert _freed(text) == expected


@pytest.mark.slow
@pytest.mark.parametrize("act", ["delete", "compact"])
def test_who_waits_for_the_lock_says_so_and_can_be_stopped(lab: Lab, act: str) -> None:
    (lab.path / "lock.exclusive").mkdir()
    (lab.path / "lock.exclusive" / "elsewhere.example@123.4242-0").touch()
    doing: dict[str, Callable[[Lab], object]] = {
        "delete": lambda lab: lab.repository.delete([name(1)], lab.context),
        "compact": lambda lab: lab.repository.compact(lab.context),
    }
    lab = lab.with_settings(lock_wait=60.0)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            doing[act](lab)
        except Cancelled as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: any(isinstance(event, Waiting) for event in lab.events))
    lab.cancel.set()
    thread.join(20)
    assert caught
    (waiting,) = lab.events
    assert isinstance(waiting, Waiting)
    assert "locked" in waiting.reason
    with pytest.raises(RepositoryLocked):
        doing[act](lab.with_settings(lock_wait=1.0))
