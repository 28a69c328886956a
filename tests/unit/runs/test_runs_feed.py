"""Backups whose disks come in one stream."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import zstandard
from fakes import MIB, Diary, FakeDisk, FakeExport, FakeHypervisor, FakeRepository, context, guest

from vmconsole.errors import BackupFailed, Cancelled, GuestStopped, ProtocolError
from vmconsole.events import DiskProgress
from vmconsole.interfaces import Cancel, ExportOptions, Fed
from vmconsole.model.export import DiskPlan, ExportPlan
from vmconsole.model.point import Mode
from vmconsole.runs.backup import back_up
from vmconsole.runs.restore import choose_disks, file_destinations
from vmconsole.runs.work import Target


def tar(files):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5
            writer.addfile(info, io.BytesIO(content))
    return made.getvalue()


class Disks:
    """Two disks, mixed and out of order."""

    def __init__(self):
        self.contents = {"scsi0": b"a" * MIB + bytes(MIB), "scsi1": b"b" * MIB}
        self.fail = None

    def run(self, sinks, report, cancel):
        cancel.check()
        sinks["scsi0"].zero(MIB, MIB)
        sinks["scsi1"].data(0, b"b" * MIB)
        report("scsi1", MIB)
        if self.fail:
            raise self.fail
        sinks["scsi0"].data(0, b"a" * MIB)
        report("scsi0", 2 * MIB)
        return {"scsi0": Fed(MIB, MIB), "scsi1": Fed(MIB, MIB)}


class Tar:
    def __init__(self, content):
        self.content = content

    def run(self, sinks, report, cancel):
        for start in range(0, len(self.content), 700):
            sinks["rootfs"].write(self.content[start : start + 700])
            report("rootfs", start)
        return {"rootfs": Fed(len(self.content), len(self.content))}


class FeedHypervisor(FakeHypervisor):
    def __init__(self, diary, feed, plans):
        super().__init__(diary)
        self.feed, self.plans = feed, plans

    def plan(self, uuid, repository, points, options):
        return ExportPlan(guest(uuid=uuid), self.plans, "vzdump", "", options)

    def export(self, plan, context):
        disks = [FakeDisk(disk, b"", []) for disk in plan.disks if disk.mode is not Mode.SKIPPED]
        export = FakeExport(self.diary, disks, self.clock)
        export.feed = self.feed
        export.files = {"config/pct.conf": b"arch"}
        self.prepare(export)
        return export


def vm(diary, feed):
    plans = (
        DiskPlan("scsi0", 2 * MIB, "raw", "local:0", Mode.FULL, "first"),
        DiskPlan("scsi1", MIB, "raw", "local:1", Mode.FULL, "first"),
        DiskPlan("scsi2", MIB, "raw", "local:2", Mode.SKIPPED, "backup=0"),
    )
    return FeedHypervisor(diary, feed, plans)


def container(diary, content):
    plan = DiskPlan("rootfs", 8 * MIB, "tar", "local:1", Mode.FULL, "always", "", 3000)
    return FeedHypervisor(diary, Tar(content), (plan,))


@pytest.fixture
def diary():
    return Diary()


@pytest.fixture
def repository(diary):
    return FakeRepository(diary)


def make(host, repository, events=None, cancel=None):
    options = ExportOptions()
    target = Target(guest(), host, repository, options)
    return back_up(target, repository.id(), repository, context(events, cancel))


def test_all_disks_are_written_at_once(diary, repository):
    feed, events = Disks(), []
    point = make(vm(diary, feed), repository, events)
    assert diary == ["release", "commit", "advance"]
    for key, content in feed.contents.items():
        assert repository.disks[point.archive, f"disks/{key}.raw"] == content
    assert [(disk.id, disk.mode, disk.bytes_read, disk.sha256) for disk in point.disks] == [
        ("scsi0", Mode.FULL, MIB, ""),
        ("scsi1", Mode.FULL, MIB, ""),
        ("scsi2", Mode.SKIPPED, 0, ""),
    ]
    progress = [(event.disk, event.done, event.total) for event in events if isinstance(event, DiskProgress)]
    assert progress[0] == ("all disks", 0, 3 * MIB)
    assert progress[-1] == ("all disks", 3 * MIB, 3 * MIB)


def test_a_container_becomes_a_tar_with_an_index(diary, repository):
    content, events = tar({"etc/hostname": b"ct\n", "big": b"x" * 3000}), []
    point = make(container(diary, content), repository, events)
    (disk,) = point.disks
    assert (disk.id, disk.path, disk.format) == ("rootfs", "container/rootfs.tar", "tar")
    assert disk.size == disk.bytes_read == len(content)
    assert len(disk.sha256) == 64
    assert repository.disks[point.archive, disk.path] == content
    index = repository.disks[point.archive, "container/index.jsonl.zst"]
    first, *lines = zstandard.ZstdDecompressor().decompressobj().decompress(index).splitlines()
    assert json.loads(first)["version"] == 1
    members = {line["path"]: line for line in map(json.loads, lines)}
    assert list(members) == ["etc/hostname", "big"]
    found = members["etc/hostname"]
    assert content[found["data"] : found["data"] + found["size"]] == b"ct\n"
    assert found["mtime"] == 1.5
    progress = [(event.done, event.total) for event in events if isinstance(event, DiskProgress)]
    assert all(done <= total for done, total in progress)
    assert progress[-1][0] == progress[-1][1] > 0


def test_its_restore_goes_to_a_tar(diary, repository, tmp_path):
    point = make(container(diary, tar({"a": b"b"})), repository)
    ((_, place),) = file_destinations(point, choose_disks(point, []), tmp_path)
    assert place == tmp_path / "rootfs.tar"


@pytest.mark.parametrize("content", [b"", tar({"a": b"b" * 9000})[:5000], b"no tar" * 1000])
def test_a_tar_that_is_not_whole_is_not_committed(diary, repository, content):
    with pytest.raises((BackupFailed, ProtocolError), match="tar"):
        make(container(diary, content), repository)
    assert diary[-2:] == ["abort", "rollback"]
    assert repository.saved == []


@pytest.mark.parametrize("error", [BackupFailed("cut short"), KeyboardInterrupt(), Cancelled("stopped")])
def test_a_stream_that_breaks_leaves_nothing(diary, repository, error):
    feed = Disks()
    feed.fail = error
    with pytest.raises(type(error)):
        make(vm(diary, feed), repository)
    assert diary == ["abort", "rollback"]


def test_the_host_knows_better_why(diary, repository):
    feed = Disks()
    feed.fail = ProtocolError("the stream is damaged")
    host = vm(diary, feed)
    host.prepare = lambda export: export.fail.update(check=GuestStopped("powered off"))
    with pytest.raises(GuestStopped):
        make(host, repository)


def test_a_cancelled_run_reads_nothing(diary, repository):
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        make(vm(diary, Disks()), repository, cancel=cancel)
    assert diary == ["abort", "rollback"]


def test_a_disk_that_does_not_come_fails_the_backup(diary, repository):
    feed = Disks()
    host = vm(diary, feed)
    host.feed = type("Short", (), {"run": lambda self, *arguments: {"scsi0": Fed(1)}})()
    with pytest.raises((BackupFailed, AssertionError)):
        make(host, repository)
    assert repository.saved == []
