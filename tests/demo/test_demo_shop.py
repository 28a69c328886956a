"""The commands on the demo shop: what a newcomer types, and the JSON that scripts read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from vmconsole.__main__ import main

BORG = Path(sys.executable).with_name("borg")
QUOTED = 'files "old" [archive]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo that ran its two nights; its host is gone again."""
    place = tmp_path_factory.mktemp("demo") / "shop"
    code = main(["demo", "--headless", "--dir", str(place), "--json"])
    assert code == 0
    return place


@pytest.fixture
def vmconsole(folder, capsys):
    def call(*args, code=0):
        capsys.readouterr()
        assert main(["--config", str(folder / "config.toml"), *args]) == code
        return capsys.readouterr().out

    return call


@pytest.fixture
def document(vmconsole):
    return lambda *args, code=0: json.loads(vmconsole(*args, "--json", code=code))


def borg(folder, *args, into=None):
    passphrase = (folder / "passphrase").read_text().strip()
    environment = os.environ | {"BORG_PASSPHRASE": passphrase}
    return subprocess.run([BORG, *args], env=environment, cwd=into, capture_output=True, check=True)


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_report_holds_two_nights_of_every_guest(folder):
    points = json.loads((folder / "report.json").read_text())["points"]
    guests = {point["guest"] for point in points}
    assert len(guests) >= 4
    assert QUOTED in guests
    assert any(len(point["disks"]) == 2 for point in points)
    assert {point["consistency"] for point in points} == {"application", "crash", "offline"}
    for guest in guests:
        assert len([point for point in points if point["guest"] == guest]) == 2
    second = [point for point in points if point["mode"] == "incremental"]
    assert len(second) >= 3
    for point in second:
        assert (
            sum(disk["bytes_read"] for disk in point["disks"]) < sum(d["size"] for d in point["disks"]) / 10
        )


def test_stock_borg_extracts_what_the_host_had_at_the_cut(folder, tmp_path):
    points = json.loads((folder / "report.json").read_text())["points"]
    for point in points:
        place = tmp_path / point["archive"]
        place.mkdir()
        borg(folder, "extract", "--sparse", f"{folder}/repository::{point['archive']}", into=place)
        for disk in point["disks"]:
            assert (place / disk["path"]).stat().st_size == disk["size"]
            assert sha256(place / disk["path"]) == disk["sha256"], (point["archive"], disk["id"])
    borg(folder, "check", "--verify-data", str(folder / "repository"))


def points_of(folder, guest):
    points = json.loads((folder / "report.json").read_text())["points"]
    return [point for point in points if point["guest"] == guest]


def test_the_cluster_is_backed_up_every_way(folder, document):
    assert [point["mode"] for point in points_of(folder, "crm-01")] == ["full", "incremental"]
    for point in points_of(folder, "crm-01"):
        assert (point["host"], point["hypervisor"]) == ("pve", "proxmox")
        assert [disk["id"] for disk in point["disks"]] == ["scsi0", "virtio1"]
    assert {point["consistency"] for point in points_of(folder, "till-09")} == {"offline"}
    last, first = document("points", "wiki-01")["points"]
    assert (first["mode"], last["mode"]) == ("full", "full")
    assert "moved to another node" in last["reason"]


def test_the_containers_archive_is_a_tar(folder, tmp_path):
    first, last = points_of(folder, "dns-01")
    for point, serial in ((first, b" 1 3600"), (last, b" 2 3600")):
        (disk,) = point["disks"]
        assert (disk["id"], disk["path"]) == ("rootfs", "container/rootfs.tar")
        borg(folder, "extract", f"{folder}/repository::{point['archive']}", disk["path"], into=tmp_path)
        with tarfile.open(tmp_path / disk["path"]) as tar:
            members = {member.name: member for member in tar}
            assert members["./etc/shadow"].mode == 0o600
            assert members["./etc/localtime"].issym()
            assert members["./var/log/queries.log"].uid == 105
            assert serial in tar.extractfile("./etc/bind/zone.example").read()
            assert b"rootfs: fast:110" in tar.extractfile("./etc/vzdump/pct.conf").read()


def test_points_as_json(document):
    points = document("points")["points"]
    assert len(points) == 18
    assert points == sorted(points, key=lambda point: point["time"], reverse=True)
    assert {"archive", "uuid", "time", "mode", "reason", "freeze_ms", "bytes_stored", "disks"} <= points[
        0
    ].keys()
    only = document("points", "web-01")["points"]
    assert [point["mode"] for point in only] == ["incremental", "full"]
    assert only[0]["disks"][0]["parent"] == only[1]["archive_id"]


def test_points_of_nobody_is_an_error_with_a_hint(vmconsole, capsys):
    assert vmconsole("points", "nobody", code=2) == ""


@pytest.mark.parametrize("name", ["web-01@latest", "web-01@-1", f"{QUOTED}@latest"])
def test_disks_come_back_as_files(folder, vmconsole, document, tmp_path, name):
    guest = name.rpartition("@")[0]
    back = 1 if name.endswith("-1") else 0
    point = document("points", guest)["points"][back]
    vmconsole("restore", name, "--to", str(tmp_path))
    report = json.loads((folder / "report.json").read_text())["points"]
    expected = next(item for item in report if item["archive"] == point["archive"])
    for disk in expected["disks"]:
        restored = tmp_path / f"{disk['id']}.raw"
        assert sha256(restored) == disk["sha256"]
        assert restored.stat().st_blocks * 512 < disk["size"] / 2, "sparse"
    vmconsole("restore", name, "--to", str(tmp_path), code=1)


def test_a_dry_run_of_a_restore_writes_nothing(vmconsole, tmp_path):
    assert "vda" in vmconsole("restore", "web-01@latest", "--to", str(tmp_path), "--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_is_gone_is_exit_code_20(document):
    for host in document("inventory", "--refresh", code=20)["hosts"]:
        assert host["reachable"] is False
        assert host["error"]
    assert document("backup", "web-01", code=20)["error"] == "HostUnreachable"


def test_repo_commands(document):
    info = document("repo", "info")["repositories"][0]
    assert info["archives"] == 18
    assert info["encryption"] == "repokey-blake2"
    assert [repository["name"] for repository in document("repo", "list")["repositories"]] == ["backup"]


def test_runs_are_remembered(document, vmconsole):
    runs = document("runs")["runs"]
    backups = [run for run in runs if run["kind"] == "backup"]
    assert len(backups) == 2
    log = vmconsole("runs", backups[0]["run"])
    assert "web-01" in log
    assert "commit" in log


def test_a_wrong_passphrase_is_exit_code_12(folder, tmp_path):
    config = (folder / "config.toml").read_text()
    wrong = tmp_path / "passphrase"
    wrong.write_text("no\n")
    wrong.chmod(0o600)
    other = folder / "wrong.toml"
    other.write_text(config.replace('"passphrase"', json.dumps(str(wrong))))
    assert main(["--config", str(other), "points"]) == 12


def test_a_missing_repository_is_exit_code_10(folder):
    other = folder / "missing.toml"
    other.write_text((folder / "config.toml").read_text().replace('"repository"', '"nowhere"'))
    assert main(["--config", str(other), "points"]) == 10


def test_a_used_folder_is_refused(folder, capsys):
    assert main(["demo", "--headless", "--dir", str(folder)]) == 2
    assert "never overwrites" in capsys.readouterr().err


# --- files inside ------------------------------------------------------------------------------


def test_the_volumes_of_a_guest(document):
    volumes = document("ls", "web-01@latest")["volumes"]
    assert [(one["name"], one["kind"], one["label"], one["mounted"]) for one in volumes] == [
        ("vda1", "ext4", "web-root", "/"),
        ("vdb", "ext4", "uploads", "/srv/uploads"),
    ]


@pytest.mark.parametrize("place", ["web-01@latest:/etc/", "web-01@latest:vda1:/etc", "web-01@-1:etc/"])
def test_a_folder_of_a_guest(document, place):
    entries = {entry["name"]: entry for entry in document("ls", place)["entries"]}
    assert entries["hostname"]["size"] == 7
    assert entries["shadow"]["mode"] == 0o600
    assert entries["localtime"]["target"] == "../usr/share/zoneinfo/Etc/UTC"


def test_the_guest_s_tree_goes_on_in_its_other_disks(document):
    entries = document("ls", "web-01@latest:/srv/uploads/2026")["entries"]
    assert "scan 0.pdf" in [entry["name"] for entry in entries]


def test_a_file_as_it_is(vmconsole):
    assert vmconsole("cat", "web-01@latest:/etc/hostname") == "web-01\n"
    # A link is followed as in the guest.
    assert "<title>Item 3<" in vmconsole("cat", "web-01@latest:/var/www/current/item-003.html")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ls", "web-01@latest:/nothing/there"), "There is no /nothing."),
        (("ls", "web-01@latest:vdq:/"), "There is no volume vdq; there are: vda1, vdb."),
        (("cat", "web-01@latest:/etc"), "/etc is not a file but a folder."),
        (("cat", "web-01@latest"), "Say which file: POINT:/PATH."),
        (("ls", "web-01@latest:/etc/hostname/x"), "/etc/hostname is not a folder."),
        (
            ("get", "web-01@latest:/etc", "web-01@-1:/etc", "/nowhere"),
            "All of it must be of one restore point.",
        ),
    ],
)
def test_what_is_not_there_is_told(folder, capsys, words, sentence):
    assert main(["--config", str(folder / "config.toml"), *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("form", ["contract", "to"])
def test_files_and_folders_are_taken_out(vmconsole, document, tmp_path, form):
    to = tmp_path / "new"
    if form == "contract":
        vmconsole("get", "web-01@latest:/var/www/shop", "web-01@latest:/etc/shadow", str(to))
    else:
        vmconsole("get", "web-01@latest", "var/www/shop", "/etc/shadow", "--to", str(to))
    listed = document("ls", "web-01@latest:/var/www/shop")["entries"]
    assert sorted(path.name for path in (to / "shop").iterdir()) == sorted(entry["name"] for entry in listed)
    assert (to / "shadow").stat().st_mode & 0o777 == 0o600
    assert (to / "shop/item-003.html").read_bytes().startswith(b"<!doctype html>")
    vmconsole("get", "web-01@latest:/etc/shadow", str(to), code=1)  # nothing is overwritten


def test_a_dry_run_of_get_writes_nothing(document, tmp_path):
    told = document("get", "web-01@latest:/var/www/shop", "-n", str(tmp_path))
    assert told["members"] > 40
    assert list(tmp_path.iterdir()) == []


def test_a_tar_of_a_folder(folder):
    argv = [sys.executable, "-m", "vmconsole", "--config", str(folder / "config.toml")]
    packed = subprocess.run(
        [*argv, "get", "web-01@latest:/var/www", "-"], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = {member.name: member for member in tar}
        assert members["www/shop/item-000.html"].uid == 33
        assert members["www/current"].linkname == "shop"
        content = tar.extractfile("www/shop/item-003.html")
        assert content is not None
        assert content.read().startswith(b"<!doctype html>")
        assert members["www/shop/pictures/03.jpg"].size == 300_003


def test_a_container_s_files_are_listed_alike(document, vmconsole):
    names = [entry["name"] for entry in document("ls", "dns-01@latest:/etc")["entries"]]
    assert "hostname" in names
    assert vmconsole("cat", "dns-01@latest:/etc/hostname") == "dns-01\n"
