"""Where restored disks go: formats and space."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmconsole.errors import HostError, RestoreFailed
from vmconsole.hypervisors.libvirt.storage import Storage, check_space, format_for
from vmconsole.hypervisors.libvirt.target import Making
from vmconsole.model.point import DiskPoint, Mode

GIB = 1024**3
DISK = DiskPoint("vda", "disks/vda.raw", 100 * GIB, "qcow2", Mode.FULL, bytes_dirty=10 * GIB)
FOLDER, VOLUMES = Storage("/images"), Storage("", "vg", "/dev/vg", 50 * GIB)


def test_a_full_point_says_how_much_is_needed() -> None:
    assert check_space("h", "/images", 11 * GIB, [DISK]) == []
    with pytest.raises(RestoreFailed, match=r"9\.0 GiB free.*at least 10\.0 GiB"):
        check_space("h", "/images", 9 * GIB, [DISK])


def test_an_increment_says_only_what_had_changed_so_that_a_doubt_is_a_note() -> None:
    disk = replace(DISK, mode=Mode.INCREMENTAL, bytes_dirty=GIB)
    assert "between 1.0 GiB and 100.0 GiB" in check_space("h", "/images", 20 * GIB, [disk])[0]
    with pytest.raises(RestoreFailed):
        check_space("h", "/images", GIB // 2, [disk])
    assert check_space("h", "/images", 200 * GIB, [disk]) == []


def test_unknown_space_is_a_note() -> None:
    assert "could not be found out" in check_space("h", "/images", 0, [DISK])[0]


@pytest.mark.parametrize(
    ("image_format", "place", "expected", "noted"),
    [
        ("qcow2", FOLDER, "qcow2", False),
        ("raw", FOLDER, "raw", False),
        ("vmdk", FOLDER, "qcow2", True),
        ("", FOLDER, "qcow2", True),
        ("raw", VOLUMES, "raw", False),
        ("qcow2", VOLUMES, "raw", True),
    ],
)
def test_formats(image_format: str, place: Storage, expected: str, noted: bool) -> None:
    found, note = format_for(replace(DISK, format=image_format), place)
    assert found == expected
    assert bool(note) is noted


def test_the_journal_gives_back_what_was_written_down() -> None:
    making = Making(
        "qemu:///system",
        "a name\n'with' everything",
        "11111111-2222-4333-8444-555555555555",
        (("/x/.hidden", "/x/final"),),
        "vg",
        ("v-1",),
    )
    assert Making.read(making.payload()) == making


@pytest.mark.parametrize("field", ["uri", "uuid", "files", "volumes"])
def test_a_journal_entry_that_is_damaged_is_refused(field: str) -> None:
    payload = Making("u", "n", "11111111-2222-4333-8444-555555555555", ()).payload()
    with pytest.raises(HostError):
        Making.read({key: value for key, value in payload.items() if key != field})
    if field != "uri":
        with pytest.raises(HostError):
            Making.read({**payload, field: "{"})
