"""Looking at a host through a virsh with canned answers: inventory, facts, checks, clean-up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libvirt_fake import JOB, UUID, FakeHost, make_fake_host
from libvirt_samples import RECORDED

from vmconsole.errors import (
    GuestBusy,
    GuestNotFound,
    HostError,
    NotPermitted,
    ProtocolError,
    ToolMissing,
    VmconsoleError,
)
from vmconsole.hypervisors.libvirt import journal
from vmconsole.hypervisors.libvirt.checkpoints import drop_checkpoint, drop_checkpoints
from vmconsole.hypervisors.libvirt.gather import free_bytes, gather, job_name, state
from vmconsole.hypervisors.libvirt.host import LibvirtHost
from vmconsole.hypervisors.libvirt.inventory import load
from vmconsole.hypervisors.libvirt.sections import Section
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh, failure, reason
from vmconsole.model.guest import GuestState, Tracking
from vmconsole.model.run import JournalEntry


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return 0.0


QEMU_IMG = """#!/bin/sh
for path; do :; done
case $path in
*-a.qcow2) cat "$FAKE/image" ;;
*) echo "qemu-img: Could not open '$path': Permission denied" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    host = make_fake_host(tmp_path, monkeypatch.setenv)
    program = tmp_path / "bin/qemu-img"
    program.write_text(QEMU_IMG)
    program.chmod(0o755)
    host.write("image", (RECORDED / "qemu-img.json").read_text())
    host.write(f"xml.{UUID}", recorded_domain())
    return host


def recorded_domain() -> str:
    text = (RECORDED / "domain.xml").read_text()
    own = text.partition("<uuid>")[2].partition("</uuid>")[0]
    return text.replace(own, UUID)


def libvirt(fake: FakeHost, **settings: object) -> LibvirtHost:
    chosen = LibvirtSettings(scratch=str(fake.folder), scratch_min_free=1, **settings)  # type: ignore[arg-type]  # handed on
    return LibvirtHost("kvm1", fake.machine, chosen, SystemClock())


# --- inventory ---


def test_inventory(fake: FakeHost) -> None:
    inventory = libvirt(fake).inventory()

    assert (inventory.name, inventory.reachable) == ("kvm1", True)
    (guest,) = inventory.guests
    assert (guest.uuid, guest.name, guest.host, guest.state) == (UUID, "labA1", "kvm1", GuestState.RUNNING)
    assert guest.agent
    assert guest.tags == ("a", "b", "prod", "web")
    vda, vdb, vdc, cdrom = guest.disks
    assert (vda.size, vda.tracking) == (256 * 1024**2, Tracking.BITMAP)
    # The image cannot be read: libvirt is asked instead.
    assert (vdb.size, vdb.tracking) == (1048576, Tracking.BITMAP)
    assert (vdc.tracking, vdc.included) == (Tracking.NONE, True)
    assert (cdrom.included, cdrom.reason) == (False, "CD-ROM")


def test_warnings_of_virsh_before_and_after_its_output_do_no_harm(fake: FakeHost) -> None:
    fake.write(f"xml.{UUID}", f"libvirt: warning: something\n{recorded_domain()}\nanother warning\n")
    fake.write("list", f"warning: 00000000-no-uuid\n\n{UUID}\n")
    assert [guest.name for guest in libvirt(fake).inventory().guests] == ["labA1"]


def test_one_unreadable_guest_does_not_hide_the_others(fake: FakeHost) -> None:
    broken = "11111111-2222-3333-4444-555555555555"
    gone = "99999999-2222-3333-4444-555555555555"
    fake.write("list", f"{broken}\n{UUID}\n{gone}\n")
    fake.write(f"xml.{broken}", "<domain><name>x</name>")
    guests = {guest.uuid: guest for guest in libvirt(fake).inventory().guests}
    assert guests[UUID].name == "labA1"
    assert "cannot be read" in guests[broken].warnings[0]
    assert "Domain not found" in guests[gone].warnings[0]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/x'",
            HostError,
        ),
        ("error: authentication unavailable: no polkit agent available to authenticate action", NotPermitted),
    ],
)
def test_a_host_whose_libvirt_does_not_answer(
    fake: FakeHost, words: str, error: type[VmconsoleError]
) -> None:
    (fake.root / "list").unlink()
    virsh = fake.root.parent / "bin/virsh"
    virsh.write_text(f"#!/bin/sh\ncat >&2 <<'E'\n{words}\nE\nexit 1\n")
    with pytest.raises(error) as caught:
        libvirt(fake).inventory()
    assert caught.value.hint
    assert not libvirt(fake).check()[0].ok


def test_a_host_without_virsh(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = fake.root.parent / "few"
    programs.mkdir()
    for name in ("sh", "cat", "timeout", "nproc", "id", "stat"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(ToolMissing):
        libvirt(fake).inventory()
    (check,) = libvirt(fake).check()
    assert check.remedy == "apt install libvirt-clients"


# --- facts ---


def test_facts_of_a_running_guest(fake: FakeHost) -> None:
    name = "vmconsole-deadbeef-1"
    fake.write("checkpoints", f"foreign\n{name}\n")
    fake.write(f"checkpoint.{name}", (RECORDED / "checkpoint.xml").read_text())
    fake.write(
        f"sized.{name}", (RECORDED / "checkpoint.xml").read_text().replace("size='0'", "size='65536'", 1)
    )
    fake.write("snapshots", "\nbefore upgrade\n")
    found = gather(fake.machine, LibvirtSettings(scratch=str(fake.folder)), UUID)

    guest = found.guest
    assert (guest.state, guest.domain_id, guest.agent, guest.transient) == (
        GuestState.RUNNING,
        3,
        True,
        False,
    )
    assert guest.snapshots == ("before upgrade",)
    (checkpoint,) = guest.checkpoints
    assert checkpoint.dirty == {"vda": 65536, "vdb": 0}
    assert "size=" not in checkpoint.xml
    assert guest.run_folder == "/var/lib/libvirt/qemu/domain-3-labA1"
    assert guest.process == ""
    assert guest.job == guest.job_xml == ""
    assert found.scratch_free > 0
    assert not any("foreign" in line for line in fake.log)


def test_facts_about_a_job(fake: FakeHost) -> None:
    fake.write("job", JOB)
    fake.write("operation", "Operation:        Backup\n")
    guest = gather(fake.machine, LibvirtSettings(scratch=str(fake.folder)), UUID).guest
    assert guest.job == "Backup"
    assert guest.job_xml.strip() == JOB


def test_an_unknown_guest_and_a_uuid_that_is_none(fake: FakeHost) -> None:
    with pytest.raises(GuestNotFound):
        gather(fake.machine, LibvirtSettings(), "11111111-2222-3333-4444-555555555555")
    before = len(fake.log)
    with pytest.raises(GuestNotFound):
        gather(fake.machine, LibvirtSettings(), "$(reboot)")
    assert len(fake.log) == before


@pytest.mark.parametrize("command", ["domstate", "domjobinfo", "checkpoint-list", "snapshot-list"])
def test_what_libvirt_does_not_answer_is_not_taken_for_none(fake: FakeHost, command: str) -> None:
    """An empty list of checkpoints would mean terabytes read for nothing, a lost job two at once."""
    settings = LibvirtSettings(scratch=str(fake.folder))
    fake.write(f"fail.{command}", "error: Timed out during operation: cannot acquire state change lock\n")
    with pytest.raises(GuestBusy):
        gather(fake.machine, settings, UUID)
    fake.write(f"fail.{command}", "error: End of file while reading data: Input/output error\n")
    with pytest.raises(HostError):
        gather(fake.machine, settings, UUID)


def test_a_checkpoint_that_cannot_be_sized_now_is_not_called_broken(fake: FakeHost) -> None:
    name = "vmconsole-deadbeef-1"
    fake.write("checkpoints", f"{name}\n")
    fake.write(f"checkpoint.{name}", (RECORDED / "checkpoint.xml").read_text())
    settings = LibvirtSettings(scratch=str(fake.folder))
    # Its file is missing: libvirt answers, and has no size.
    assert gather(fake.machine, settings, UUID).guest.checkpoints[0].dirty == {}
    fake.write("fail.checkpoint-dumpxml", "\nerror: cannot acquire state change lock\n")
    with pytest.raises(GuestBusy):
        gather(fake.machine, settings, UUID)


def test_libvirt_drivers_without_snapshots_have_none(fake: FakeHost) -> None:
    words = "error: this function is not supported by the connection driver: virDomainSnapshotNum\n"
    fake.write("fail.snapshot-list", words)
    assert gather(fake.machine, LibvirtSettings(scratch=str(fake.folder)), UUID).guest.snapshots == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("running (booted)\n", GuestState.RUNNING),
        ("paused (I/O error)", GuestState.PAUSED),
        ("shut off (crashed)", GuestState.OFF),
        ("in shutdown (user)", GuestState.OTHER),
        ("pmsuspended (disk)", GuestState.OTHER),
        ("", GuestState.OTHER),
    ],
)
def test_states(text: str, expected: GuestState) -> None:
    assert state(text) is expected


def test_jobs() -> None:
    assert job_name((RECORDED / "domjobinfo.txt").read_text()) == "Backup"
    assert job_name("Job type:         None        \n") == ""
    assert job_name("Job type:         Unbounded\n") == "Unbounded"


@given(st.text())
def test_short_answers_of_any_kind_are_read_without_failing(text: str) -> None:
    assert isinstance(state(text), GuestState)
    assert free_bytes(text) >= -1
    job_name(text)
    reason(text)
    assert failure(text, host="h", what="virsh x").message
    section = {"cpu": Section(text, 0, ""), "loadavg": Section(text, 0, ""), "nproc": Section(text, 0, "")}
    load(section)


def test_load_from_pressure_or_from_the_load_average() -> None:
    def said(**texts: str) -> Mapping[str, Section]:
        return {key: Section(text, 0, "") for key, text in texts.items()}

    pressure = (
        "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    assert load(said(cpu=pressure, io=pressure, loadavg="4.00 1 1 1/1 1", nproc="2")).cpu == 0.125
    assert load(said(loadavg="4.00 1 1 1/1 1\n", nproc="2\n")).cpu == 2.0
    assert load(said(loadavg="4.00", nproc="0")).cpu is None


# --- checks ---


def test_checks(fake: FakeHost) -> None:
    checks = {check.name: check for check in libvirt(fake).check()}
    assert checks["libvirt"].detail == "version 9.0"
    assert checks["backup jobs"].ok
    assert checks["scratch space"].ok


# --- checkpoints ---


def test_old_checkpoints_of_this_repository_go_and_no_others(fake: FakeHost) -> None:
    fake.write("checkpoints", "vmconsole-deadbeef-1\nvmconsole-deadbeef-2\nvmconsole-ffffffff-1\nforeign\n")
    virsh = Virsh(fake.machine, "qemu:///system")
    assert drop_checkpoints(virsh, UUID, "deadbeef" * 8, ["vmconsole-deadbeef-2"]) == []
    assert fake.read("checkpoints").split() == ["vmconsole-deadbeef-2", "vmconsole-ffffffff-1", "foreign"]


def test_what_cannot_be_dropped_is_said_and_stops_nothing(fake: FakeHost) -> None:
    fake.write("checkpoints", "vmconsole-deadbeef-1\nvmconsole-deadbeef-2\n")
    fake.write("fail.checkpoint-delete", "error: internal error: no\n")
    (problem,) = drop_checkpoints(Virsh(fake.machine, "qemu:///system"), UUID, "deadbeef" * 8, [])
    assert "no" in problem
    assert fake.read("checkpoints").split() == ["vmconsole-deadbeef-1"]


def test_a_damaged_checkpoint_is_described_anew_so_that_no_bitmap_stays(fake: FakeHost) -> None:
    name = "vmconsole-deadbeef-1"
    fake.write("checkpoints", f"{name}\n")
    fake.write("fail.checkpoint-delete", "error: bitmap 'v' not found in backing chain of 'vda'\n")
    fake.write(f"sized.{name}", (RECORDED / "checkpoint.xml").read_text().replace(" size='0'", "", 1))
    drop_checkpoint(Virsh(fake.machine, "qemu:///system"), UUID, name)

    assert "vdb" in fake.read("redefined")
    assert "vda" not in fake.read("redefined")
    assert "size=" not in fake.read("redefined")
    assert [line.replace(f"{UUID} ", "") for line in fake.log][-3:] == [
        f"checkpoint-delete {name} --metadata",
        "checkpoint-create /dev/stdin --redefine",
        f"checkpoint-delete {name}",
    ]
    assert fake.read("checkpoints") == ""


# --- clean-up ---


def entry(kind: str, payload: Mapping[str, str]) -> JournalEntry:
    return JournalEntry(
        1, "run", "h:1:1", "kvm1", kind, json.loads(json.dumps(dict(payload))), datetime.now(UTC)
    )


def test_clean_of_an_export(fake: FakeHost) -> None:
    watched = fake.watched(freeze=True)
    left = entry(journal.KIND, journal.payload("pull", "web", watched))
    fake.write("job", JOB)
    assert journal.watched(left.payload).arguments("clean")[:9] == [
        *watched.arguments("clean")[:6], "0", "yes", "10",
    ]  # fmt: skip
    assert "Cleaned up after the backup of web" in libvirt(fake).clean(left)
    assert not fake.exists("job")
    fake.write("fail.checkpoint-delete", "error: not now\n")
    with pytest.raises(HostError, match="not now"):
        libvirt(fake).clean(left)


@pytest.mark.parametrize("kind", [journal.KIND, journal.FREEZE_KIND])
def test_clean_of_an_entry_that_makes_no_sense(fake: FakeHost, kind: str) -> None:
    with pytest.raises(ProtocolError):
        libvirt(fake).clean(entry(kind, {"uuid": UUID}))


def test_clean_of_a_freeze(fake: FakeHost) -> None:
    left = entry(journal.FREEZE_KIND, {"uri": "qemu:///system", "uuid": UUID, "name": "web"})
    fake.write("frozen", "")
    fake.write("state", "running\n")
    fake.write("fail.domfsthaw", "error: Guest agent is not responding: timeout\n")
    with pytest.raises(HostError):
        libvirt(fake).clean(left)
    assert "thawed" in libvirt(fake).clean(left)
    assert not fake.exists("frozen")
    fake.write("state", "shut off\n")
    assert "not run" in libvirt(fake).clean(left)
    fake.write("fail.domstate", "error: failed to get domain 'x'\nerror: Domain not found\n")
    assert "gone" in libvirt(fake).clean(left)
