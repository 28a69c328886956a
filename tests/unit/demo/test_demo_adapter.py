"""The demo host under the real libvirt adapter, where the command line's own tests do not reach."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pytest

from vmconsole.demo.guests import Guest
from vmconsole.demo.shop import Shop
from vmconsole.errors import VmconsoleError
from vmconsole.events import Event
from vmconsole.hypervisors.libvirt.host import LibvirtHost
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.interfaces import Cancel, Context, Export, ExportOptions
from vmconsole.model.extent import Content
from vmconsole.model.guest import GuestState, Tracking
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.remote.ssh import SshMachine

REPOSITORY = "ab" * 32


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class CountingJournal:
    def __init__(self) -> None:
        self.open: set[int] = set()
        self._last = 0

    def acquire(self, host: str, kind: str, payload: Mapping[str, str]) -> int:
        self._last += 1
        self.open.add(self._last)
        return self._last

    def release(self, entry: int) -> None:
        self.open.discard(entry)


def ignore(event: Event, /) -> None:
    """Nobody watches."""


@pytest.fixture
def adapter(shop: Shop, machine: SshMachine) -> Iterator[LibvirtHost]:
    settings = LibvirtSettings(
        uri="qemu:///session", scratch=str(shop.folder / "host" / "scratch"), scratch_min_free=1 << 20
    )
    made = LibvirtHost("kvm1", machine, settings, RealClock())
    yield made
    made.close()


def export(adapter: LibvirtHost, guest: Guest, run: str, points: list[RestorePoint]) -> Export:
    plan = adapter.plan(guest.uuid, REPOSITORY, points, ExportOptions())
    context = Context(run, ignore, Cancel(), CountingJournal(), RealClock())
    return adapter.export(plan, context)


def copy(opened: Export, images: dict[str, bytearray]) -> None:
    """Bring images up to the cut, reading only what must be read."""
    for disk in opened.disks:
        image = images.setdefault(disk.plan.id, bytearray())
        image.extend(bytes(disk.plan.size - len(image)))
        extents = disk.extents()
        for extent in extents:
            if extent.content is Content.ZERO:
                image[extent.offset : extent.end] = bytes(extent.length)
        for offset, piece in disk.read([extent for extent in extents if extent.content is Content.DATA]):
            image[offset : offset + len(piece)] = piece


def check(shop: Shop, guest: Guest, opened: Export, run: str, images: dict[str, bytearray]) -> None:
    for disk in opened.disks:
        wanted = shop.cut_sha256(guest.uuid, disk.plan.id, run=run, time=opened.cut.time)
        assert hashlib.sha256(images[disk.plan.id]).hexdigest() == wanted


def point(guest: Guest, opened: Export, run: str) -> RestorePoint:
    return RestorePoint(
        archive=run,
        guest=guest.name,
        uuid=guest.uuid,
        host="kvm1",
        hypervisor="libvirt",
        time=opened.cut.time,
        consistency=opened.cut.consistency,
        run=run,
        facts=opened.cut.facts,
        disks=tuple(
            DiskPoint(
                id=disk.plan.id,
                path="",
                size=disk.plan.size,
                format=disk.plan.format,
                mode=disk.plan.mode,
                source=disk.plan.source,
                bitmap=disk.bitmap,
                process=disk.process,
            )
            for disk in opened.disks
        ),
    )


def test_the_inventory_tells_what_the_guests_are(adapter: LibvirtHost) -> None:
    guests = {guest.name: guest for guest in adapter.inventory().guests}
    assert guests["build-07"].state is GuestState.OFF
    assert guests["web-01"].tags == ("prod", "web")
    assert [disk.id for disk in guests["web-01"].disks] == ["vda", "vdb"]
    assert guests["mail-02"].disks[0].tracking is Tracking.NONE
    assert not guests['files "old" [archive]'].agent


def test_the_host_is_fit_for_backups(adapter: LibvirtHost) -> None:
    assert [item for item in adapter.check() if not item.ok and not item.warning] == []


def test_a_guest_that_was_switched_off_goes_on_incrementally(shop: Shop, adapter: LibvirtHost) -> None:
    guest = shop.guest("db-01")
    images: dict[str, bytearray] = {}
    opened = export(adapter, guest, "first", [])
    copy(opened, images)
    opened.release()
    opened.advance()
    check(shop, guest, opened, "first", images)
    points = [point(guest, opened, "first")]

    shop.night(2)
    shop.host.shut_off(guest)
    opened = export(adapter, guest, "second", points)
    assert opened.cut.consistency is Consistency.OFFLINE
    assert {disk.plan.mode for disk in opened.disks} == {Mode.INCREMENTAL}
    copy(opened, images)
    opened.release()
    opened.advance()
    check(shop, guest, opened, "second", images)
    points.insert(0, point(guest, opened, "second"))

    shop.host.start(guest)
    shop.night(3)
    opened = export(adapter, guest, "third", points)
    assert {disk.plan.mode for disk in opened.disks} == {Mode.INCREMENTAL}
    copy(opened, images)
    opened.release()
    opened.advance()
    check(shop, guest, opened, "third", images)
    assert len(guest.checkpoints) == 1


def test_a_broken_connection_leaves_the_host_as_it_was(shop: Shop, adapter: LibvirtHost) -> None:
    guest = shop.guest("db-01")
    opened = export(adapter, guest, "lost", [])
    assert shop.host.job(guest) is not None
    assert guest.checkpoints
    shop.ssh.drop_connections()
    deadline = time.monotonic() + 20
    while shop.host.job(guest) is not None or guest.checkpoints:
        assert time.monotonic() < deadline, "the host's own watchman did not clean up"
        time.sleep(0.05)
    with pytest.raises(VmconsoleError):
        copy(opened, {})
    opened.rollback()
    assert not guest.frozen
    assert not list((shop.folder / "host" / "scratch").iterdir())
    assert export_once_more(adapter, guest)


def export_once_more(adapter: LibvirtHost, guest: Guest) -> bool:
    opened = export(adapter, guest, "again", [])
    opened.release()
    opened.rollback()
    return not guest.checkpoints


def test_the_vitals_tell_how_long_its_guests_writes_take(shop: Shop, adapter: LibvirtHost) -> None:
    guest, off = shop.guest("db-01"), shop.guest("build-07")
    before = adapter.vitals([guest.uuid, off.uuid])
    assert before.load.cpu is not None
    assert set(before.writes) == {guest.uuid}
    shop.night(2)
    after = adapter.vitals([guest.uuid])
    assert after.writes[guest.uuid].requests > before.writes[guest.uuid].requests
    assert after.writes[guest.uuid].seconds > before.writes[guest.uuid].seconds
