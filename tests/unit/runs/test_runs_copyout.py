"""Names and links from a guest never lead out of the folder they are taken to."""

from __future__ import annotations

import io
import os
import tarfile
from datetime import UTC, datetime

import pytest

from vmconsole.errors import Cancelled, FilesUnreadable, PathNotFound, RestoreFailed, UsageError
from vmconsole.events import Restored, Warned
from vmconsole.interfaces import Cancel, Context
from vmconsole.model.files import FileEntry, FileKind
from vmconsole.model.point import Consistency, RestorePoint
from vmconsole.runs.copyout import Chosen, as_tar, choose, copy_out

POINT = RestorePoint(
    archive="web.1-x", archive_id="1", guest="web", uuid="1", host="kvm1", hypervisor="libvirt", run="r",
    time=datetime(2026, 11, 1, tzinfo=UTC), consistency=Consistency.CRASH, freeze_ms=0, seconds=1.0, disks=(),
)  # fmt: skip


def file(name, content=b"", **values):
    return FileEntry(name, FileKind.FILE, len(content), mode=0o644, **values), content


def folder(name, *inside):
    return FileEntry(name, FileKind.FOLDER, mode=0o755), inside


def link(name, target):
    return FileEntry(name, FileKind.LINK, target=target), None


class Files:
    """A tree; a folder may hold any names, also twice. broken: paths that cannot be read."""

    def __init__(self, *inside, broken=()):
        self._top, self._broken, self.volumes = (FileEntry("/", FileKind.FOLDER), inside), broken, ()

    def _at(self, path):
        found = self._top
        for name in filter(None, path.split("/")):
            found = next((one for one in found[1] or () if one[0].name == name), None)
            if found is None:
                raise PathNotFound(f"There is no {path}.")
        return found

    def entry(self, volume, path, *, follow=False):
        return self._at(path)[0]

    def entries(self, volume, path):
        if path in self._broken:
            raise FilesUnreadable(f"{path} cannot be read: broken.")
        return iter([one[0] for one in self._at(path)[1]])

    def read(self, volume, path, offset, length):
        if path in self._broken:
            yield b"half"
            raise FilesUnreadable(f"{path} cannot be read: broken.")
        yield self._at(path)[1][offset : offset + length]


class Clock:
    def monotonic(self):
        return 0.0


def taken(tmp_path, files, *paths, cancel=None):
    """The folder and what was told."""
    events = []
    context = Context("r1", events.append, cancel or Cancel(), None, Clock())
    tmp_path.mkdir(exist_ok=True)
    copy_out(POINT, files, choose(files, [Chosen("", path) for path in paths]), tmp_path, context)
    return events


def warned(events):
    return [event.message for event in events if isinstance(event, Warned)]


def test_a_folder_with_what_is_in_it(tmp_path):
    shadow = file("shadow", b"secret", changed=86400.0)
    files = Files(folder("etc", file("hosts", b"127.0.0.1"), shadow, folder("empty"), link("alias", "hosts")))
    events = taken(tmp_path, files, "/etc")
    assert (tmp_path / "etc/hosts").read_bytes() == b"127.0.0.1"
    assert (tmp_path / "etc/shadow").stat().st_mtime == 86400
    assert (tmp_path / "etc/alias").readlink().name == "hosts"
    assert (tmp_path / "etc/empty").is_dir()
    assert warned(events) == []
    assert isinstance(events[-1], Restored)
    assert events[-1].bytes_written == 15
    assert sorted(path.name for path in tmp_path.iterdir()) == ["etc"]


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../x", "n\0l"])
def test_names_that_lead_elsewhere_are_left_out(tmp_path, name):
    events = taken(tmp_path / "to", Files(folder("d", file(name, b"x"), file("good", b"y"))), "/d")
    assert [path.name for path in (tmp_path / "to/d").iterdir()] == ["good"]
    assert len(warned(events)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize("target", ["/etc", "../../x", "../..", "a/../../../x"])
def test_links_that_lead_out_are_left_out(tmp_path, target):
    events = taken(tmp_path, Files(folder("d", link("l", target), file("f"))), "/d")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["f"]
    assert "outside" in warned(events)[0]


def test_a_name_that_comes_twice_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    files = Files(folder("d", link("x", "y"), folder("x", file("evil", b"!")), folder("y")))
    taken(tmp_path / "to", files, "/d")
    assert not (tmp_path / "to/d/y/evil").exists()
    assert list(victim.iterdir()) == []


def test_a_second_name_is_a_second_name(tmp_path):
    one = file("one", b"same", identity="7", links=2)
    two = (FileEntry("two", FileKind.FILE, 4, mode=0o644, identity="7", links=2), b"same")
    taken(tmp_path, Files(folder("d", one, two)), "/d")
    assert (tmp_path / "d/one").stat().st_ino == (tmp_path / "d/two").stat().st_ino


def test_permissions_come_without_set_user_id(tmp_path):
    entry = (FileEntry("su", FileKind.FILE, 1, mode=0o4755), b"x")
    taken(tmp_path, Files(entry), "/su")
    assert (tmp_path / "su").stat().st_mode & 0o7777 == 0o755


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    name = os.fsdecode(b"\xff\xfe")
    taken(tmp_path, Files(folder("d", file(name, b"x"))), "/d")
    assert [os.fsencode(path.name) for path in (tmp_path / "d").iterdir()] == [b"\xff\xfe"]


def test_holes_stay_holes(tmp_path):
    taken(tmp_path, Files(file("zeros", bytes(1024 * 1024))), "/zeros")
    assert (tmp_path / "zeros").stat().st_size == 1024 * 1024
    assert (tmp_path / "zeros").stat().st_blocks == 0


def test_what_is_broken_is_left_out_and_told(tmp_path):
    inside = file("bad", b"x"), folder("worse", file("y")), file("good", b"z")
    files = Files(folder("d", *inside), broken=["/d/bad", "/d/worse"])
    events = taken(tmp_path, files, "/d")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["good", "worse"]
    assert len(warned(events)) == 2


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(RestoreFailed, match="exists"):
        taken(tmp_path, Files(file("f", b"theirs")), "/f")
    assert (tmp_path / "f").read_text() == "mine"


def test_two_of_one_name_are_refused():
    files = Files(folder("a", file("f")), folder("b", file("f")))
    with pytest.raises(UsageError, match="each other's way: f"):
        choose(files, [Chosen("", "/a/f"), Chosen("", "/b/f")])


def test_one_that_is_stopped_leaves_nothing(tmp_path):
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        taken(tmp_path, Files(file("f", b"x")), "/f", cancel=cancel)
    assert list(tmp_path.iterdir()) == []


def test_a_tar_has_what_a_folder_has_not(tmp_path):
    owned = (FileEntry("su", FileKind.FILE, 3, 5.0, 0o4755, 33, 44, identity="1", links=2), b"abc")
    again = (FileEntry("again", FileKind.FILE, 3, 5.0, 0o4755, 33, 44, identity="1", links=2), b"abc")
    inside = (
        owned,
        again,
        link("out", "/etc"),
        (FileEntry("null", FileKind.DEVICE), None),
        file("bad", b"1234567"),
    )
    files = Files(folder("d", *inside), broken=["/d/bad"])
    packed, told = io.BytesIO(), []
    as_tar(files, choose(files, [Chosen("", "/d")]), packed.write, told.append)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        members = {member.name: member for member in tar}
        assert (members["d/again"].uid, members["d/again"].mode, members["d/again"].mtime) == (33, 0o4755, 5)
        assert members["d/su"].islnk()
        assert members["d/out"].linkname == "/etc"
        bad = tar.extractfile("d/bad")
        assert bad is not None
        assert bad.read() == b"half\0\0\0"
    assert len(told) == 2
