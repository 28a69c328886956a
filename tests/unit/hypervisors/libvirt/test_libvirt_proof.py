"""An increment is proven or refused: every single fact that does not fit makes it a full read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libvirt_samples import (
    CHECKPOINT,
    GIB,
    GUEST,
    MIB,
    OFF,
    POINT,
    RAW,
    REPOSITORY,
    VDA,
    disk_point,
    with_checkpoint,
    with_disk,
)

from vmconsole.hypervisors.libvirt.facts import (
    CheckpointFacts,
    GuestFacts,
    ImageBitmap,
    PointFacts,
    point_facts,
)
from vmconsole.hypervisors.libvirt.proof import judge
from vmconsole.model.point import Mode, RestorePoint


def reason(guest: GuestFacts = GUEST, points: tuple[RestorePoint, ...] = (POINT,), disk: str = "vda") -> str:
    return judge(guest, guest.disk(disk), points, REPOSITORY).reason


def test_when_everything_fits_the_increment_is_proven() -> None:
    verdict = judge(GUEST, VDA, (POINT,), REPOSITORY)
    assert verdict.proven
    assert (verdict.parent, verdict.base) == (POINT.archive, CHECKPOINT.name)
    assert (verdict.old_size, verdict.expected) == (10 * GIB, 5 * MIB)


def test_facts_survive_being_stored() -> None:
    point = RestorePoint.from_json(json.loads(json.dumps(POINT.to_json())))
    assert judge(GUEST, VDA, (point,), REPOSITORY).proven


@pytest.mark.parametrize(
    ("guest", "why"),
    [
        (replace(GUEST, checkpoints=()), "gone from the host"),
        (with_checkpoint(GUEST, created=1001), "not the one"),
        (with_checkpoint(GUEST, disks=("vdb",)), "does not cover"),
        (with_checkpoint(GUEST, dirty={"vdb": 0}), "broken or missing"),
        (replace(GUEST, snapshots=("before-upgrade",)), "snapshots"),
        (with_disk(GUEST, replace(VDA, internal_snapshots=1)), "snapshots"),
        (with_disk(GUEST, replace(VDA, source="/i/other.qcow2")), "another image"),
        (with_disk(GUEST, replace(VDA, kind="block")), "another image"),
        (with_disk(GUEST, replace(VDA, size=GIB)), "smaller"),
        (with_disk(OFF, replace(OFF.disk("vda"), bitmaps=())), "missing from the image"),
        (
            with_disk(OFF, replace(OFF.disk("vda"), bitmaps=(ImageBitmap(CHECKPOINT.name, in_use=True),))),
            "broken",
        ),
        (
            with_disk(
                OFF, replace(OFF.disk("vda"), bitmaps=(ImageBitmap(CHECKPOINT.name, inconsistent=True),))
            ),
            "broken",
        ),
    ],
)
def test_one_fact_of_the_host_that_does_not_fit(guest: GuestFacts, why: str) -> None:
    assert why in reason(guest)


def without_fact(*path: str) -> RestorePoint:
    facts: dict[str, Any] = json.loads(json.dumps(POINT.facts))
    inner = facts
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return replace(POINT, facts=facts)


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (replace(POINT, disks=(disk_point(VDA, bitmap=""),)), "left no bitmap"),
        (replace(POINT, disks=(disk_point(VDA, bitmap="vmconsole-00000000-run1"),)), "another repository"),
        (replace(POINT, disks=(disk_point(VDA, bitmap="foreign"),)), "another repository"),
        (replace(POINT, disks=()), "disk was added"),
        (replace(POINT, disks=(replace(disk_point(VDA), mode=Mode.SKIPPED),)), "disk was added"),
        (replace(POINT, facts={}), "does not say where"),
        (replace(POINT, facts={**POINT.facts, "libvirt": 2}), "does not say where"),
        (without_fact("disks", "vda"), "does not say where"),
        (without_fact("checkpoints", CHECKPOINT.name), "not the one"),
        (without_fact("checkpoints", CHECKPOINT.name, "created"), "not the one"),
    ],
)
def test_one_fact_of_the_point_that_does_not_fit(point: RestorePoint, why: str) -> None:
    assert why in reason(points=(point,))


def test_no_point_and_no_tracking() -> None:
    assert reason(points=()) == "no restore point yet"
    assert reason(disk="vdc") == RAW.reason


def test_a_grown_disk_counts_what_it_grew_by() -> None:
    verdict = judge(
        with_disk(GUEST, replace(VDA, size=11 * GIB)), replace(VDA, size=11 * GIB), (POINT,), REPOSITORY
    )
    assert verdict.proven
    assert verdict.old_size == 10 * GIB
    assert verdict.expected == GIB + 5 * MIB


def test_an_overlay_on_the_recorded_image_is_the_same_disk() -> None:
    overlay = replace(VDA, source="/i/snap.qcow2", chain=("/i/vda.qcow2",))
    assert reason(with_disk(GUEST, overlay)) == ""


def test_a_restart_of_qemu_alone_changes_nothing() -> None:
    assert reason(replace(GUEST, process="99:99")) == ""


def test_an_off_guest_is_judged_by_the_image() -> None:
    assert reason(OFF) == ""


def test_a_point_made_while_off_goes_on_with_the_older_bitmap() -> None:
    offline = replace(POINT, archive="offline", facts=point_facts("offline", OFF, OFF.checkpoints))
    verdict = judge(GUEST, VDA, (offline, POINT), REPOSITORY)
    assert (verdict.parent, verdict.base) == ("offline", CHECKPOINT.name)


def test_when_the_newest_points_checkpoint_is_lost_the_one_before_still_serves() -> None:
    newer = CheckpointFacts("vmconsole-deadbeef-run2", 2000, ("vda",), {}, "")
    newest = replace(
        POINT,
        archive="newest",
        disks=(disk_point(VDA, bitmap=newer.name),),
        facts=point_facts("pull", GUEST, (newer,)),
    )
    verdict = judge(GUEST, VDA, (newest, POINT), REPOSITORY)
    assert (verdict.parent, verdict.base) == (POINT.archive, CHECKPOINT.name)
    assert "gone" in reason(points=(newest,))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["libvirt", "checkpoints", "disks", "vda", "created", "kind"]), inner
            )
        ),
    )
)
def test_any_facts_are_read_and_prove_nothing_by_accident(document: Any) -> None:
    facts = (
        document if isinstance(document, dict) else {"libvirt": 1, "checkpoints": document, "disks": document}
    )
    PointFacts.read(facts)
    assert reason(points=(replace(POINT, facts=facts),)) != ""
