"""vzdump's stream, told how fast it may go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import context
from proxmox_samples import CONTAINER, GUEST
from vzdump_lab import OneNode, Vzdump, plan_of, tar, vma

from vmconsole.hypervisors.proxmox.facts import PveDisk, PveGuest
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.vzdump import open_vzdump_export
from vmconsole.hypervisors.proxmox.vzdumpjob import command

MIB = 1 << 20


class Strict:
    """Refuses every second request for a moment. diary: what it was told, in order."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.granted = self.taken = 0

    def wait(self, length: int) -> float:
        if self.diary[-1:] != ["held"]:
            self.diary.append("held")
            return 0.001
        self.diary.append("granted")
        self.granted += length
        return 0.0

    def came(self, length: int, seconds: float) -> None:
        assert seconds == 0.0
        self.diary.append("came")

    def took(self, length: int) -> None:
        self.taken += length

    def largest(self) -> int:
        return 0

    def limit(self) -> int:
        return 5 * MIB


@pytest.fixture
def vzdump(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Vzdump:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return Vzdump(tmp_path)


class Sink:
    def __init__(self) -> None:
        self.got = 0

    def write(self, data: bytes) -> None:
        self.got += len(data)

    def data(self, offset: int, data: bytes) -> None:
        self.got += len(data)

    def zero(self, offset: int, length: int) -> None:
        pass


def read(guest: PveGuest, pace: Strict) -> Sink:
    told = replace(context(), pace=pace)
    export = open_vzdump_export(OneNode(), ProxmoxSettings(), plan_of(guest), told)  # type: ignore[arg-type]
    sink = Sink()
    assert export.feed is not None
    try:
        export.feed.run({disk.plan.id: sink for disk in export.disks}, lambda disk, done: None, told.cancel)  # type: ignore[dict-item]
        export.release()
    except BaseException:
        export.rollback()
        raise
    return sink


def test_a_container_s_stream_waits_in_the_pipe(vzdump: Vzdump) -> None:
    stream = tar({"./etc/vzdump/pct.conf": b"hostname: dns\n", "./big": bytes(3 * MIB)})
    vzdump.prints(stream)
    pace = Strict()
    assert read(CONTAINER, pace).got == len(stream)
    assert pace.granted == len(stream)
    assert pace.taken == 0
    assert pace.diary[:3] == ["held", "granted", "came"]
    assert "--bwlimit 5120" in vzdump.called()[0]


def test_a_machine_s_stream_is_never_held_up(vzdump: Vzdump) -> None:
    """QEMU would hold up the guest's writes; vzdump's own limit does not."""
    disks = {"scsi0": b"x" * 3 * MIB}
    guest = replace(GUEST, disks=(PveDisk("scsi0", "local:scsi0", 3 * MIB, "raw"),))
    stream = vma(disks, {})
    vzdump.prints(stream)
    pace = Strict()
    assert read(guest, pace).got == 3 * MIB
    assert pace.diary == []
    assert pace.taken == len(stream)
    assert "--bwlimit 5120" in vzdump.called()[0]


@pytest.mark.parametrize(
    ("limit", "words"), [(0, []), (100, ["--bwlimit", "1"]), (MIB, ["--bwlimit", "1024"])]
)
def test_a_limit_is_told_in_kib(limit: int, words: list[str]) -> None:
    assert command(GUEST, limit)[-2:] == (words or ["--compress", "0"])
