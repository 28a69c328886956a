from __future__ import annotations

from dataclasses import replace

import pytest
from libvirt_samples import GIB, GUEST, MIB, OFF, POINT, RECORDED, REPOSITORY, VDA, gathered, with_disk

from vmconsole.errors import BackupFailed, GuestBusy, OutOfSpace
from vmconsole.hypervisors.libvirt.facts import GuestFacts
from vmconsole.hypervisors.libvirt.plan import make_plan
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.interfaces import ExportOptions, ExportPlan
from vmconsole.model.guest import GuestState
from vmconsole.model.point import Mode, RestorePoint


def plan(
    guest: GuestFacts = GUEST,
    points: tuple[RestorePoint, ...] = (POINT,),
    options: ExportOptions | None = None,
    free: int = 100 * GIB,
    **settings: object,
) -> ExportPlan:
    return make_plan(
        gathered(guest, free),
        "kvm1",
        LibvirtSettings(**settings),  # type: ignore[arg-type]  # handed on as they are
        REPOSITORY,
        points,
        options or ExportOptions(),
    )


def test_incremental_full_and_skipped_side_by_side() -> None:
    found = plan()
    assert [(disk.id, disk.mode, disk.bytes_expected) for disk in found.disks] == [
        ("vda", Mode.INCREMENTAL, 5 * MIB),
        ("vdb", Mode.INCREMENTAL, 0),
        ("vdc", Mode.FULL, GIB),
        ("sda", Mode.SKIPPED, 0),
    ]
    assert found.disks[3].reason == "CD-ROM"
    assert found.method == "pull"
    assert found.facts.bases == dict.fromkeys(("vda", "vdb"), "vmconsole-deadbeef-run1")
    assert found.facts.old_sizes == dict.fromkeys(("vda", "vdb"), 10 * GIB)
    assert found.guest.host == "kvm1"


def test_a_wish_for_a_full_read_and_excluded_disks() -> None:
    found = plan(options=ExportOptions(full_reason="asked for", exclude_disks=("vdb",)))
    assert [disk.mode for disk in found.disks] == [Mode.FULL, Mode.SKIPPED, Mode.FULL, Mode.SKIPPED]
    assert found.disks[0].reason == "asked for"
    assert "excluded" in found.disks[1].reason
    assert not found.facts.bases
    assert found.disks[0].bytes_expected == VDA.allocated


def test_nothing_to_back_up_and_sizes_nobody_knows() -> None:
    with pytest.raises(BackupFailed, match="no disk"):
        plan(options=ExportOptions(exclude_disks=("vda", "vdb", "vdc")))
    with pytest.raises(BackupFailed, match="size of disk vda"):
        plan(with_disk(GUEST, replace(VDA, size=0)))


@pytest.mark.parametrize(
    ("guest", "words"),
    [
        (replace(GUEST, job="Outgoing migration"), "Outgoing migration"),
        (replace(GUEST, state=GuestState.OTHER), "neither running"),
        (
            replace(GUEST, job="Backup", job_xml=(RECORDED / "backup.xml").read_text()),
            "another run of vmconsole",
        ),
        (
            replace(GUEST, job="Backup", job_xml="<domainbackup><server socket='/run/v.1'/></domainbackup>"),
            r"another program \(through /run/v.1\)",
        ),
        (replace(GUEST, job="Backup", job_xml="<rubbish"), "another program"),
    ],
)
def test_a_guest_that_is_held(guest: GuestFacts, words: str) -> None:
    with pytest.raises(GuestBusy, match=words) as caught:
        plan(guest)
    assert caught.value.hint


THREADED = with_disk(GUEST, replace(VDA, iothread=True))


@pytest.mark.parametrize(
    ("guest", "settings", "method"),
    [
        (GUEST, {}, "pull"),
        (GUEST, {"method": "push"}, "push"),
        (GUEST, {"method": "snapshot"}, "snapshot"),
        (OFF, {}, "offline"),
        (OFF, {"method": "pull"}, "offline"),
        (replace(GUEST, state=GuestState.PAUSED), {}, "pull"),
        (THREADED, {}, "push"),
        (THREADED, {"method": "pull"}, "push"),
        (THREADED, {"scratch_min_free": 99 * GIB}, "snapshot"),
        (THREADED, {"method": "snapshot"}, "snapshot"),
        (replace(THREADED, qemu=None), {}, "push"),
        (replace(THREADED, qemu=(8, 2, 2)), {}, "push"),
        (replace(THREADED, qemu=(9, 0)), {}, "pull"),
        (replace(THREADED, qemu=(10, 1, 0)), {"method": "auto"}, "pull"),
    ],
)
def test_the_method(guest: GuestFacts, settings: dict[str, object], method: str) -> None:
    found = plan(guest, **settings)
    assert found.method == method
    assert found.method_reason


def test_an_excluded_iothread_disk_does_not_count() -> None:
    assert plan(THREADED, options=ExportOptions(exclude_disks=("vda",))).method == "pull"


def test_offline_is_refused_for_a_running_guest() -> None:
    with pytest.raises(BackupFailed, match="is running"):
        plan(method="offline")


def test_scratch_space() -> None:
    with pytest.raises(OutOfSpace, match=r"/i on kvm1 has 1\.0 MiB free; .* needs 1\.0 GiB") as caught:
        plan(free=MIB)
    assert "scratch" in caught.value.hint
    with pytest.raises(BackupFailed, match="cannot be looked at"):
        plan(free=-1)
    assert plan(OFF, free=-1).method == "offline"
    assert any("only" in warning for warning in plan(points=(), free=GIB + MIB).warnings)
    with pytest.raises(OutOfSpace, match="needs 10"):
        plan(points=(), free=9 * GIB, method="push")


def test_warnings() -> None:
    assert plan().warnings == ()
    assert any("crash-consistent" in text for text in plan(replace(GUEST, agent=False)).warnings)
    assert plan(replace(GUEST, agent=False), options=ExportOptions(freeze=False)).warnings == ()
    assert any("I/O error" in text for text in plan(replace(GUEST, paused_by_error=True)).warnings)
    assert any("TPM" in text for text in plan(replace(GUEST, tpm=True)).warnings)
