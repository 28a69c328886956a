from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.tui.restoring.place import Looked, absolute, common_start, complete, look_at

DISKS = [DiskPoint(name, f"disks/{name}.raw", 1 << 30, "raw", Mode.FULL) for name in ("vda", "vdb")]
POINT = RestorePoint(
    "x.1-y", "x", "u", "h", "libvirt", datetime(2026, 1, 2, tzinfo=UTC), Consistency.CRASH, tuple(DISKS)
)


def look(text, disks=DISKS):
    return look_at(str(text), POINT, disks)


def test_a_new_folder_is_made_for_all_disks(tmp_path):
    found = look(f"{tmp_path}/a/b/")
    assert (found.refusal, found.new_folder, found.mount) == ("", True, str(tmp_path))
    assert found.files == (("vda", tmp_path / "a/b/vda.raw"), ("vdb", tmp_path / "a/b/vdb.raw"))
    assert found.free > 0
    assert not (tmp_path / "a").exists()


def test_a_folder_that_is_there_and_a_file_for_one_disk(tmp_path):
    assert look(tmp_path).files[1] == ("vdb", tmp_path / "vdb.raw")
    assert not look(tmp_path).new_folder
    assert look(tmp_path / "boot.raw", DISKS[:1]).files == (("vda", tmp_path / "boot.raw"),)


def test_refusals_name_what_is_in_the_way(tmp_path):
    (tmp_path / "vdb.raw").touch()
    (tmp_path / "link.raw").symlink_to(tmp_path / "nowhere")
    assert f"{tmp_path}/vdb.raw exists" in look(tmp_path).refusal
    assert f"{tmp_path}/link.raw exists" in look(tmp_path / "link.raw", DISKS[:1]).refusal
    assert "is not a folder" in look(tmp_path / "one.raw").refusal, "two disks do not fit into a file"
    assert "does not exist" in look(tmp_path / "no/where.raw", DISKS[:1]).refusal
    assert "is not a folder" in look(f"{tmp_path}/vdb.raw/x/").refusal
    assert "Say where" in look("  ").refusal


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "permission denied" in look(tmp_path).refusal


def test_strange_paths_are_refused_and_raise_nothing():
    assert look("/tmp/\0x/").refusal
    assert "~nobody-of-that-name/x/vda.raw" in str(look("~nobody-of-that-name/x/").files), "as shells do"
    assert look("/" + "x" * 5000).refusal


def test_commands_run_from_the_top_so_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("a/../b/") == f"{tmp_path}/b/"
    assert absolute(" b ") == f"{tmp_path}/b"
    assert absolute("~/b") == "/home/me/b"
    assert absolute("/") == "/"
    assert absolute(" ") == ""


def test_completion(tmp_path, monkeypatch):
    for name in ("srv-a", "srv-b", ".hidden", "bad\x1bname"):
        (tmp_path / name).mkdir()
    (tmp_path / "srv-file").touch()
    assert complete(f"{tmp_path}/") == [f"{tmp_path}/srv-a/", f"{tmp_path}/srv-b/"]
    assert complete(f"{tmp_path}/srv-b") == [f"{tmp_path}/srv-b/"]
    assert complete(f"{tmp_path}/.") == [f"{tmp_path}/.hidden/"]
    assert complete(f"{tmp_path}/no/") == []
    monkeypatch.chdir(tmp_path)
    assert complete("srv-a") == ["srv-a/"]
    assert complete("~") == ["~/"]


@pytest.mark.parametrize(
    ("folders", "text", "completed"),
    [
        (("/a/srv-a/", "/a/srv-b/"), "/a/s", "/a/srv-"),
        (("/a/srv-a/",), "/a/s", "/a/srv-a/"),
        (("/a/srv-a/", "/a/srv-b/"), "/a/srv-", "/a/srv-"),
        (("/a/x/", "/a/x/y/"), "/a/", "/a/x/"),
        ((), "/a/s", "/a/s"),
    ],
)
def test_tab_completes_as_far_as_all_agree(folders, text, completed):
    assert common_start(folders, text) == completed


def test_the_note_on_space():
    assert "only when much of the disks is empty" in Looked("x", free=5).note(6)
    assert "only when" not in Looked("x", free=6).note(6)
    assert Looked("x").note(6) == ""
    assert Path("/")  # the type of files
