from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vmconsole.model.point import TAR, Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.runs.tarindex import clean
from vmconsole.tui.browsing.tree import Kind, make_tree, mode_text, readable


def point(path: str, kind: str) -> RestorePoint:
    disk = DiskPoint("d0", path, 1 << 20, kind, Mode.FULL)
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return RestorePoint("x.1-y", "x", "u", "h", "libvirt", when, Consistency.CRASH, (disk,))


def names(tree, folder):
    return [entry.name for entry in tree.inside(folder)]


def test_a_virtual_machine():
    files = {"guest.json": b"{}", "config/libvirt.xml": b"<domain/>", "firmware/nvram.fd": b"\0" * 9}
    tree = make_tree(point("disks/vda.raw", "qcow2"), files, ())
    assert names(tree, "") == ["config", "disks", "firmware", "guest.json"]
    (disk,) = tree.inside("disks")
    assert (disk.path, disk.kind, disk.size) == ("disks/vda.raw", Kind.DISK, 1 << 20)
    assert tree.inside("config")[0].kind is Kind.TEXT
    assert tree.inside("nowhere") == []


def test_a_container_has_its_files_in_folders_even_in_those_its_tar_does_not_name():
    members = [
        {"path": "./etc/", "type": "dir", "mode": 0o755, "mtime": 5},
        {"path": "./etc/shadow", "type": "file", "size": 7, "mode": 0o600, "data": 512},
        {"path": "usr/share/doc/x", "type": "symlink", "link": "../y"},
        {"path": "../../root/evil", "type": "file", "size": 1},
        {"path": "dev/null", "type": "chardev"},
        {"path": ".", "type": "dir"},
        {"path": "etc/shadow", "type": "file", "size": 8},
    ]
    tree = make_tree(point("container/rootfs.tar", TAR), {}, members)
    assert names(tree, "") == ["container", "files"]
    assert names(tree, "files") == ["..", "dev", "etc", "usr"]
    (shadow,) = tree.inside("files/etc")
    assert shadow.size == 8, "the later one is what tar would leave"
    assert tree.inside("files")[2].changed == 5, "a folder that comes with its own line keeps it"
    assert tree.inside("files/usr/share/doc")[0].note == "→ ../y"
    assert names(tree, "files/../..") == ["root"], "a name like any other"
    assert tree.inside("files/dev")[0].kind is Kind.OTHER


def test_a_file_that_comes_before_its_folders_line_stays_in_it():
    members = [{"path": "a/b", "type": "file"}, {"path": "a", "type": "dir", "mode": 0o700}]
    tree = make_tree(point("container/rootfs.tar", TAR), {}, members)
    assert names(tree, "files") == ["a"]
    assert names(tree, "files/a") == ["b"]
    assert mode_text(tree.inside("files")[0].member) == "rwx------"


def test_a_guest_cannot_make_folders_without_end():
    members = [{"path": "a/" * 4000 + "b", "type": "file"}, {"path": "a/" * 400_000, "type": "dir"}]
    tree = make_tree(point("container/rootfs.tar", TAR), {}, members)
    assert names(tree, "files/" + "a/" * 3999 + "a") == ["b"]
    assert len(tree.folders) < 5000


@pytest.mark.parametrize(
    ("path", "cleaned"), [("./a//b/", "a/b"), ("/a", "a"), (".", ""), ("../a", "../a"), ("", "")]
)
def test_paths(path, cleaned):
    assert clean(path) == cleaned


def test_modes():
    assert mode_text({"mode": 0o640}) == "rw-r-----"
    assert mode_text({"mode": 0o4755}) == "rwxr-xr-x"
    assert mode_text({}) == ""


def test_what_is_text():
    assert readable("Grüße\n".encode()) == "Grüße\n"
    assert readable("Grüße an alle, die hier lesen\n".encode("latin-1")) == "Grüße an alle, die hier lesen\n"
    assert readable(b"\0\1\2") is None
    assert readable(bytes(range(1, 32)) * 20 + b"\xff") is None
