from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import RepositoryDamaged
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint, archive_name, slug

POINT = RestorePoint(
    archive="web-01.aaaa1111-20261120T020000Z",
    guest='we"b\n[markup]',
    uuid="aaaa1111-0000-4000-8000-000000000001",
    host="kvm1",
    hypervisor="libvirt",
    time=datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=UTC),
    consistency=Consistency.APPLICATION,
    disks=(
        DiskPoint("vda", "disks/vda.raw", 1 << 30, "qcow2", Mode.INCREMENTAL, bytes_read=5, parent="ab"),
        DiskPoint("vdb", "", 1 << 20, "raw", Mode.SKIPPED, "left out"),
    ),
    freeze_ms=120,
    warnings=("one",),
    facts={"checkpoint": {"name": "x"}},
)


def test_guest_json_comes_back_as_it_was():
    document = json.loads(json.dumps(POINT.to_json()))
    assert RestorePoint.from_json(document) == POINT
    assert document["mode"] == "incremental"
    assert document["schema"] == 1


def test_unknown_keys_of_a_later_minor_change_are_ignored():
    document = POINT.to_json() | {"colour": "blue"}
    document["disks"][0]["shape"] = "round"
    assert RestorePoint.from_json(document) == POINT


def test_a_newer_schema_is_refused_with_a_way_out():
    with pytest.raises(RepositoryDamaged, match="schema version 2") as caught:
        RestorePoint.from_json(POINT.to_json() | {"schema": 2})
    assert "borg extract" in caught.value.hint


@pytest.mark.parametrize("broken", [None, [], {}, {"schema": 1}, {"schema": "x"}, {"schema": 1, "disks": 5}])
def test_what_is_not_a_guest_json_is_said_so(broken):
    with pytest.raises(RepositoryDamaged):
        RestorePoint.from_json(broken)


@given(st.text(), st.uuids())
def test_archive_names_are_safe_for_borg_and_shells(name, uuid):
    made = archive_name(name, str(uuid), POINT.time)
    stem, _, rest = made.partition(".")
    assert stem
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert rest == f"{str(uuid)[:8]}-20261120T020000Z"


def test_slugs_of_usual_names():
    assert slug("Web-01.example.com") == "web-01-example-com"
    assert slug("Büro") == "buro"
    assert slug("///") == "guest"
