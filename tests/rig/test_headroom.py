"""Backups that back off, on the real libvirt: a guest on a slow disk that it shares with its backup."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC
from pathlib import Path

import pytest
from lab.domain import MIB
from lab.guest import Guest
from lab.session import Lab
from lab.waiting import wait_for
from libvirt_bench import Bench, SystemClock
from libvirt_shelf import Shelf
from slow_disk import DISK, Writer, content, guest_on_slow_disk

from vmconsole.events import Event, Throttled
from vmconsole.interfaces import UNHURRIED, Pace
from vmconsole.model.extent import Content
from vmconsole.model.limits import Limits
from vmconsole.runs.allowance import CREDIT, Allowance
from vmconsole.runs.watching import watched

pytestmark = pytest.mark.rig

SIZE = 160 * MIB


@pytest.fixture(scope="module")
def slow(lab: Lab) -> Iterator[Guest]:
    with guest_on_slow_disk(lab, SIZE, rate=16 * MIB) as guest:
        yield guest


@pytest.fixture
def shelf(lab: Lab, tmp_path: Path) -> Shelf:
    return Shelf(Bench(lab.host), tmp_path / "shelf")


def throttled(events: list[Event]) -> list[Throttled]:
    return [event for event in events if isinstance(event, Throttled)]


def watch(
    shelf: Shelf, guest: Guest, events: list[Event], limits: Limits, *, enabled: bool
) -> AbstractContextManager[Pace]:
    clock = SystemClock()
    total = Allowance(Limits(), UTC, clock)
    return watched(shelf.host, [guest.uuid], limits, total, UTC, clock, events.append, "run", enabled=enabled)


def test_the_host_tells_how_long_its_guests_writes_take(slow: Guest, shelf: Shelf) -> None:
    before = shelf.host.vitals([slow.uuid])
    slow.pattern(DISK, SIZE - 4 * MIB, MIB, seed=1)
    after = shelf.host.vitals([slow.uuid, "00000000-0000-4000-8000-000000000009"])
    assert set(after.writes) == {slow.uuid}
    assert after.writes[slow.uuid].requests > before.writes[slow.uuid].requests
    assert after.writes[slow.uuid].seconds > before.writes[slow.uuid].seconds
    assert after.load.cpu is not None


def test_a_backup_backs_off_from_a_guest_that_suffers_and_ends_well(slow: Guest, shelf: Shelf) -> None:
    events: list[Event] = []
    writer = Writer(slow)
    with watch(shelf, slow, events, Limits(), enabled=True) as pace:
        wait_for(lambda: writer.since_last() and writer.count > 100, "the guest to write", 60)
        time.sleep(6)  # it learns what is usual
        shelf.bench.pace = pace
        shelf.backup(slow.uuid)
    writer.stop()
    said = throttled(events)
    assert said, "a disk of 16 MiB/s that is read as fast as it can be"
    assert 0 < said[0].rate < 16 * MIB
    assert said[0].reason
    assert slow.job() == ""
    shelf.bench.pace = UNHURRIED
    shelf.backup(slow.uuid)
    assert shelf.image(DISK).read_bytes() == content(slow)


def test_a_configured_rate_is_never_exceeded(slow: Guest, shelf: Shelf) -> None:
    rate = 8 * MIB
    events: list[Event] = []
    with watch(shelf, slow, events, Limits(rate=rate), enabled=False) as pace:
        shelf.bench.pace = counted = Counted(pace)
        began = time.monotonic()
        shelf.backup(slow.uuid)
        took = time.monotonic() - began
    assert counted.granted == SIZE
    assert counted.granted <= rate * (counted.last - counted.first + CREDIT) + MIB
    assert took < 3 * SIZE / rate, "and it is used"
    assert [(event.rate, event.host) for event in throttled(events)] == [(rate, shelf.host.name)]
    assert shelf.image(DISK).read_bytes() == content(slow)


def test_a_backup_that_is_given_up_in_the_middle_lets_the_guest_go_on(slow: Guest, shelf: Shelf) -> None:
    """Whatever is under way then: QEMU holds the guest until somebody takes it."""
    _, export, _ = shelf.open(slow.uuid)
    (disk,) = export.disks
    pieces = iter(disk.read([extent for extent in disk.extents() if extent.content is Content.DATA]))
    next(pieces)
    time.sleep(2)  # nobody takes what has been asked for
    began = time.monotonic()
    pieces.close()  # type: ignore[attr-defined]  # it is a generator
    export.rollback()
    assert time.monotonic() - began < 20
    assert slow.sh("echo here") == "here\n"
    assert slow.job() == ""


class Counted:
    """A pace, and what it granted."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.granted = 0
        self.first = self.last = 0.0
        self.came, self.took = pace.came, pace.took
        self.largest, self.limit = pace.largest, pace.limit

    def wait(self, length: int) -> float:
        seconds = self._pace.wait(length)
        if not seconds:
            self.last = time.monotonic()
            self.first = self.first or self.last
            self.granted += length
        return seconds
