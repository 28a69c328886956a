from __future__ import annotations

import pytest
from fakes import MIB, Diary, FakeHypervisor, FakeRepository, context, guest

from vmconsole.errors import Cancelled, PointNotFound, RestoreFailed, UsageError
from vmconsole.events import Restored, Warned
from vmconsole.interfaces import GuestRestore
from vmconsole.runs.backup import back_up
from vmconsole.runs.restore import choose_disks, file_destinations, restore_files, restore_guest
from vmconsole.runs.work import Target


@pytest.fixture
def repository():
    return FakeRepository(Diary())


@pytest.fixture
def point(repository):
    host = FakeHypervisor(repository.diary)
    return back_up(Target(guest(), host, repository), repository.id(), repository, context())


class FakeFile:
    def __init__(self, path, size):
        self.path = path
        self.content = bytearray(size)
        self.ended = ""

    def write(self, offset, data):
        self.content[offset : offset + len(data)] = data

    def close(self):
        self.path.write_bytes(self.content)
        self.ended = "close"

    def abort(self):
        self.ended = "abort"


def test_a_disk_comes_back_as_it_was(repository, point, tmp_path):
    events = []
    places = file_destinations(point, choose_disks(point, []), tmp_path)
    restore_files(point, places, repository, FakeFile, context(events))
    assert (tmp_path / "vda.raw").read_bytes() == repository.disks[point.archive, "disks/vda.raw"]
    done = [event for event in events if isinstance(event, Restored)]
    assert done[0].bytes_written == 3 * MIB, "zeros are not written"


def test_nothing_is_overwritten(point, tmp_path):
    (tmp_path / "vda.raw").write_text("mine")
    with pytest.raises(RestoreFailed, match="never overwrites"):
        file_destinations(point, choose_disks(point, []), tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RestoreFailed):
        file_destinations(point, choose_disks(point, []), tmp_path / "link")


def test_several_disks_need_a_folder(point, tmp_path):
    disk = point.disks[0]
    with pytest.raises(UsageError) as caught:
        file_destinations(point, [disk, disk], tmp_path / "one.raw")
    assert "--disk" in caught.value.hint


def test_an_unknown_disk_lists_the_known_ones(point):
    with pytest.raises(PointNotFound, match="vda"):
        choose_disks(point, ["vdz"])


def test_a_stopped_restore_leaves_no_file(repository, point, tmp_path):
    made = []

    def create(path, size):
        made.append(FakeFile(path, size))
        return made[-1]

    stopped = context()
    stopped.cancel.set("stop")
    with pytest.raises(Cancelled):
        restore_files(point, [(point.disks[0], tmp_path / "a.raw")], repository, create, stopped)
    assert made[0].ended == "abort"


def test_an_archive_that_lies_about_a_size_is_refused(repository, point, tmp_path):
    repository.disks[point.archive, "disks/vda.raw"] += b"more"
    with pytest.raises(RestoreFailed, match="its record says"):
        restore_files(point, [(point.disks[0], tmp_path / "a")], repository, FakeFile, context())


class FakeTarget:
    def __init__(self):
        self.notes = ("the network lan is not there",)
        self.diary = []
        self.disk = None

    def open_disk(self, disk):
        self.disk = FakeFile(None, disk.size)
        self.disk.close = lambda: self.diary.append("close")
        return self.disk

    def finish(self):
        self.diary.append("finish")

    def rollback(self):
        self.diary.append("rollback")


class FakeHost:
    name = "kvm2"

    def __init__(self):
        self.target = FakeTarget()

    def create(self, point, files, request, context):
        assert "config/libvirt.xml" in files
        return self.target


def test_a_guest_is_defined_only_when_its_disks_are_whole(repository, point):
    host, events, seen = FakeHost(), [], []
    restore_guest(point, host, GuestRestore("copy"), repository, context(events), seen.append)
    assert host.target.diary == ["close", "finish"]
    assert bytes(host.target.disk.content) == repository.disks[point.archive, "disks/vda.raw"]
    assert seen == [host.target.notes]
    assert any(isinstance(event, Warned) for event in events)


def test_a_refused_restore_leaves_no_trace(repository, point):

    def refuse(notes):
        raise Cancelled("no")

    host = FakeHost()
    with pytest.raises(Cancelled):
        restore_guest(point, host, GuestRestore("copy"), repository, context(), refuse)
    assert host.target.diary == ["rollback"]
    assert host.target.disk is None
