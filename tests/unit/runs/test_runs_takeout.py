from __future__ import annotations

import io
import os
import stat
import tarfile
from datetime import UTC, datetime

import pytest

from vmconsole.errors import Cancelled, PointNotFound, RestoreFailed, UsageError
from vmconsole.events import Restored, Warned
from vmconsole.interfaces import Cancel, Context
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.runs.takeout import choose, destinations, take_out, tar_of
from vmconsole.runs.tarindex import IndexedStream

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"),
    reason="Python before 3.11.4: nothing is taken out, as it could not be safe",
)


class Member(bytearray):
    bytes_stored, sha256 = 0, ""

    @property
    def size(self):
        return len(self)

    def write(self, data):
        self.extend(data)

    def close(self):
        pass

    def read_at(self, offset, length):
        return bytes(self[offset : offset + length])


class Reader:
    """One archive with a tar and its index. read: the ranges of the tar that were asked for."""

    def __init__(self, fill):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            fill(lambda name, content=b"", **values: add(tar, name, content, **values))
        self.tar, self.index = Member(), Member()
        stream = IndexedStream(self.tar, self.index)
        stream.write(packed.getvalue())
        stream.close()
        self.read = []

    def open_disk(self, archive, path):
        assert archive == "dns.1-x"
        if path.endswith(".zst"):
            return self.index
        reader = self

        class Watched:
            def read_at(self, offset, length):
                reader.read.append((offset, length))
                return reader.tar.read_at(offset, length)

        return Watched()


def add(tar, name, content=b"", **values):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in values.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def files(put):
    put("./etc", type=tarfile.DIRTYPE, mode=0o755)
    put("./etc/shadow", b"secret", mode=0o4640, uid=12345)
    put("./etc/localtime", type=tarfile.SYMTYPE, linkname="zone/here")
    put("./etc/outside", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    put("./etc/null", type=tarfile.CHRTYPE)
    put("./etc/twin", type=tarfile.LNKTYPE, linkname="./etc/shadow")
    put("./big", os.urandom(5 << 20))
    put("./etc/" + "long" * 60, b"a long name")
    put("./var/other", type=tarfile.LNKTYPE, linkname="./etc/shadow")


def point(*disks):
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return RestorePoint("dns.1-x", "dns", "u", "pve", "proxmox", when, Consistency.CRASH, disks)


POINT = point(DiskPoint("rootfs", "container/rootfs.tar", 1, "tar", Mode.FULL))


class Clock:
    def monotonic(self):
        return 0.0


def taken_out(reader, paths, folder, cancel=None):
    events = []
    context = Context("run", events.append, cancel or Cancel(), None, Clock())
    take_out(POINT, choose(POINT, reader, paths), reader, folder, context)
    return events


def test_a_folder_with_all_that_is_safe_in_it(tmp_path):
    reader = Reader(files)
    events = taken_out(reader, ["/etc/"], tmp_path)
    etc = tmp_path / "etc"
    assert (etc / "shadow").read_bytes() == (etc / "twin").read_bytes() == b"secret"
    assert not (etc / "shadow").stat().st_mode & stat.S_ISUID
    assert (etc / "shadow").stat().st_uid == os.getuid()
    assert (etc / "localtime").readlink().as_posix() == "zone/here"
    assert (etc / ("long" * 60)).read_bytes() == b"a long name"
    assert not (etc / "outside").is_symlink()
    assert not (etc / "null").exists()
    warnings = " ".join(event.message for event in events if isinstance(event, Warned))
    assert "etc/outside was left out" in warnings
    assert "etc/null was left out" in warnings
    assert [event.target for event in events if isinstance(event, Restored)] == [str(tmp_path)]
    assert [path.name for path in tmp_path.iterdir()] == ["etc"], "nothing is left beside it"
    assert sum(length for _, length in reader.read) < 64 << 10, "the big file was not read"


def test_single_files_lie_flat(tmp_path):
    taken_out(Reader(files), ["etc/shadow", "big"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "shadow"]


def test_a_hard_link_whose_file_stays_behind_is_told(tmp_path):
    events = taken_out(Reader(files), ["var"], tmp_path)
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert "hard link to ./etc/shadow" in warning.message


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "etc").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RestoreFailed, match="exists"):
        taken_out(Reader(files), ["etc"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["etc"]


def test_a_stopped_one_leaves_nothing(tmp_path):
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        taken_out(Reader(files), ["etc"], tmp_path, cancel)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_tar_leads_nowhere_else(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()

    def evil(put):
        put("a/way", type=tarfile.SYMTYPE, linkname="../../outside")
        put("a/way/file", b"evil")
        put("a/../../outside/file", b"evil")

    (tmp_path / "in").mkdir()
    taken_out(Reader(evil), ["a"], tmp_path / "in")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        (["etc/nothing"], PointNotFound, "has no etc/nothing"),
        (["et"], PointNotFound, "has no et"),
        (["."], UsageError, "the tar itself"),
        (["etc", "etc/shadow"], UsageError, "each other's way"),
        (["etc/x", "var/x"], UsageError, "each other's way: x"),
    ],
)
def test_what_cannot_be_chosen(paths, error, message):
    with pytest.raises(error, match=message):
        choose(POINT, Reader(files), paths)


def test_what_will_be_new(tmp_path):
    taken = choose(POINT, Reader(files), ["etc", "big"])
    assert destinations(taken, tmp_path) == [tmp_path / "etc", tmp_path / "big"]


def test_a_virtual_machine_has_no_tar():
    assert tar_of(point(DiskPoint("vda", "disks/vda.raw", 1, "raw", Mode.FULL))) is None
