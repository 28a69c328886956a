"""How a libvirt host and its guests are doing: what virsh prints, real shells, hosts that fail."""

from __future__ import annotations

import pytest
from libvirt_fake import UUID, VIRSH, FakeHost

from vmconsole.errors import CommandFailed, ProtocolError
from vmconsole.hypervisors.libvirt import vitals
from vmconsole.hypervisors.libvirt.sections import Section
from vmconsole.hypervisors.libvirt.vitals import take_vitals, writes
from vmconsole.model.vitals import WriteCounters

OTHER = "00000000-0000-4000-8000-000000000009"
STATS = """\
Domain: 'a guest'
  block.count=2
  block.0.name=vda
  block.0.rd.reqs=318
  block.0.rd.times=174243246
  block.0.wr.reqs=11
  block.0.wr.bytes=45056
  block.0.wr.times=4000000000
  block.0.fl.reqs=4
  block.0.fl.times=500000000
  block.1.name=vdb
  block.1.wr.reqs=5
  block.1.wr.times=1500000000
"""


def test_writes_and_flushes_of_all_disks() -> None:
    assert writes(Section(STATS, 0, "")) == WriteCounters(20, 6.0)


@pytest.mark.parametrize(
    "section",
    [
        Section("", 0, ""),
        Section("Domain: 'off'\n  block.count=1\n  block.0.name=vda\n", 0, ""),
        Section(STATS, 124, ""),
        Section("Domain: 'x block.0.wr.reqs=7'\n", 0, ""),
        Section("  block.0.wr.reqs=-7\n  block.0.wr.times=x\n", 0, ""),
    ],
)
def test_nothing_that_can_be_used(section: Section) -> None:
    assert writes(section) is None


@pytest.fixture
def stats(host: FakeHost) -> FakeHost:
    """The fake virsh, which also knows domstats, of one guest."""
    program = host.root / "bin" / "virsh"
    if not program.exists():
        (program,) = host.root.parent.rglob("virsh")
    told = (
        f'domstats) [ "$4" = {UUID} ] && cat stats || {{ echo "error: no domain" >&2; exit 1; }} ;;\n*) echo'
    )
    program.write_text(VIRSH.replace("*) echo", told))
    host.write("stats", STATS)
    return host


def test_one_look(stats: FakeHost) -> None:
    found = take_vitals(stats.machine, "qemu:///system", [UUID, OTHER])
    assert found.writes == {UUID: WriteCounters(20, 6.0)}
    assert found.load.cpu is not None
    assert [line for line in stats.log if line.startswith("domstats")] == [
        f"domstats --block --nowait {UUID}",
        f"domstats --block --nowait {OTHER}",
    ]


def test_without_guests_no_virsh_is_needed(stats: FakeHost) -> None:
    assert take_vitals(stats.machine, "qemu:///system", []).writes == {}
    assert stats.log == []


def test_a_host_that_does_not_answer_in_time(stats: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "TIMEOUT", 0.3)
    stats.write("hang.domstats", "5")
    with pytest.raises(CommandFailed, match="did not end"):
        take_vitals(stats.machine, "qemu:///system", [UUID])


def test_an_answer_that_breaks_off(stats: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "_LOOK", "part nproc nproc\n")
    with pytest.raises(ProtocolError):
        take_vitals(stats.machine, "qemu:///system", [])
