"""From a vzdump on a node to a Borg archive and back, with stock borg as the judge."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Diary, FakeHypervisor, context
from proxmox_samples import CONTAINER, GUEST
from vzdump_lab import MIB, OneNode, Vzdump, plan_of, tar, vma

from vmconsole.borg.repository import BorgRepository, BorgSettings
from vmconsole.disks.sparse import SparseFile
from vmconsole.errors import BackupFailed
from vmconsole.hypervisors.proxmox.facts import PveDisk, PveGuest
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.vzdump import open_vzdump_export
from vmconsole.interfaces import Context, ExportPlan
from vmconsole.model.point import RestorePoint
from vmconsole.remote.local import LocalMachine
from vmconsole.runs.backup import back_up
from vmconsole.runs.restore import choose_disks, file_destinations, restore_files
from vmconsole.runs.work import Target

PASSPHRASE = "correct horse"
VMID = 10**6 + os.getpid()
DISKS = {
    "scsi0": random.Random(1).randbytes(9 * MIB) + bytes(6 * MIB) + random.Random(2).randbytes(MIB + 512),
    "scsi1": random.Random(3).randbytes(5 * MIB),
}
VM = replace(
    GUEST,
    vmid=VMID,
    disks=tuple(PveDisk(key, f"local:{key}", len(data), "raw") for key, data in DISKS.items()),
)
DNS = replace(CONTAINER, vmid=VMID + 10**7)


class Host(FakeHypervisor):
    def plan(self, *arguments: Any) -> ExportPlan:
        return self.made

    def export(self, plan: ExportPlan, context: Context) -> Any:
        return open_vzdump_export(OneNode(), ProxmoxSettings(), plan, context)  # type: ignore[arg-type]


class Shop:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vzdump = Vzdump(folder)
        settings = BorgSettings("store", str(folder / "repo"), lambda: PASSPHRASE, "repokey-blake2")
        self.repository = BorgRepository(settings, LocalMachine())
        self.repository.create()

    def back_up(self, guest: PveGuest) -> RestorePoint:
        host = Host(Diary())
        host.made = plan_of(guest)
        with self.repository.writer(context()) as writer:
            return back_up(Target(host.made.guest, host, self.repository), "ab", writer, context())

    def restore(self, point: RestorePoint) -> Path:
        to = self.folder / point.archive
        to.mkdir()
        with self.repository.reader() as reader:
            places = file_destinations(point, choose_disks(point, []), to)
            restore_files(point, places, reader, SparseFile, context())
        return to

    def borg(self, *words: str) -> bytes:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "borg"), *words],
            env=os.environ | {"BORG_PASSPHRASE": PASSPHRASE, "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"},
            capture_output=True,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def assert_clean(self) -> None:
        self.borg("check", "--verify-data", str(self.folder / "repo"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("BORG_BASE_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Shop(tmp_path)


def test_a_machine_and_back(shop: Shop) -> None:
    shop.vzdump.prints(vma(DISKS, {"qemu-server.conf": b"name: web\n"}))
    point = shop.back_up(VM)
    shop.assert_clean()
    folder = shop.restore(point)
    for key, content in DISKS.items():
        assert (folder / f"{key}.raw").read_bytes() == content
        extracted = shop.borg("extract", "--stdout", f"repo::{point.archive}", f"disks/{key}.raw")
        assert extracted == content
    shop.vzdump.prints(vma(DISKS, {"qemu-server.conf": b"name: web\n"}, seed=99))
    again = shop.back_up(VM)
    assert again.archive != point.archive
    assert again.total("bytes_stored") == 0  # another order, the same chunks


def test_a_container_and_back(shop: Shop) -> None:
    files = {"./etc/vzdump/pct.conf": b"arch: amd64\n", "./big": random.Random(4).randbytes(20 * MIB)}
    shop.vzdump.prints(tar(files))
    point = shop.back_up(DNS)
    shop.assert_clean()
    assert (shop.restore(point) / "rootfs.tar").read_bytes() == tar(files)
    assert shop.borg("extract", "--stdout", f"repo::{point.archive}", "config/pct.conf") == b"arch: amd64\n"
    listed = shop.borg("list", "--format", "{path} {size}{NL}", f"repo::{point.archive}").decode()
    assert f"container/rootfs.tar {len(tar(files))}\n" in listed
    shop.vzdump.prints(tar({"./new": b"n" * 5000, **files}))
    assert shop.back_up(DNS).total("bytes_stored") < 8 * MIB


def test_nothing_is_left_of_a_broken_stream(shop: Shop) -> None:
    stream = vma(DISKS, {"qemu-server.conf": b"name: web\n"})
    shop.vzdump.prints(stream[: len(stream) * 3 // 4])
    with pytest.raises(BackupFailed):
        shop.back_up(VM)
    shop.vzdump.prints(tar({"./big": bytes(3 * MIB)})[: 2 * MIB])
    with pytest.raises(BackupFailed):
        shop.back_up(DNS)
    shop.assert_clean()
    assert shop.borg("list", "repo") == b""
