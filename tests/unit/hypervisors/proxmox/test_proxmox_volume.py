"""One disk into a new volume: real qemu-nbd on files that a small pvesm has made."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from restore_node import MIB, FakeNode, make_node, make_point

from vmconsole.errors import HostError, RestoreFailed
from vmconsole.hypervisors.proxmox.facts import StorageFacts
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.volume import VolumeTarget, clean_volume
from vmconsole.remote.local import LocalMachine

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-nbd") is None or shutil.which("perl") is None, reason="qemu-nbd or perl is missing"
)

TOKEN = "0123456789ab"
LVM = StorageFacts("local-lvm", "lvmthin", active=True)
DIR = StorageFacts("nas", "nfs", active=True)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    module = tmp_path / "perl" / "PVE" / "Storage.pm"
    module.parent.mkdir(parents=True)
    module.write_text(
        "package PVE::Storage; sub config { 1 }\n"
        'sub note { open(my $log, ">>", "$ENV{FAKE}/activity"); print $log "@_\\n" }\n'
        "sub activate_volumes { note('on', @{$_[1]}) } sub deactivate_volumes { note('off', @{$_[1]}) } 1;\n"
    )
    monkeypatch.setenv("PERL5LIB", str(module.parents[1]))
    return make_node(tmp_path, monkeypatch)


def make(node: FakeNode, storage: StorageFacts = LVM, image_format: str = "raw") -> VolumeTarget:
    disk = replace(make_point(scsi0=2 * MIB + 512).disks[0], format=image_format)
    return VolumeTarget(LocalMachine("pve"), "pve1", storage, 100, disk, "pve", TOKEN, node.context)


def volumes(node: FakeNode) -> list[str]:
    return sorted(path.name for path in (node.root / "volumes").iterdir())


@pytest.mark.parametrize(
    ("storage", "image_format", "volume"),
    [
        (LVM, "raw", "local-lvm:vm-100-vmc-0123456789ab"),
        (LVM, "qcow2", "local-lvm:vm-100-vmc-0123456789ab"),
        (DIR, "raw", "nas:100/vm-100-vmc-0123456789ab.raw"),
        (DIR, "qcow2", "nas:100/vm-100-vmc-0123456789ab.qcow2"),
    ],
)
def test_a_disk_is_written_and_handed_to_proxmox(
    node: FakeNode, storage: StorageFacts, image_format: str, volume: str, tmp_path: Path
) -> None:
    data = os.urandom(MIB)
    target = make(node, storage, image_format)
    target.write(4096, data)
    target.close()
    target.finish()
    target.rollback()

    assert target.volume == volume
    (name,) = volumes(node)
    raw = tmp_path / "check.raw"
    real = "qcow2" if name.endswith("qcow2") else "raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", real, "-O", "raw", node.root / "volumes" / name, raw], check=True
    )
    content = raw.read_bytes()
    assert len(content) == 2 * MIB + 1024
    assert content.rstrip(b"\0") == (bytes(4096) + data).rstrip(b"\0")
    assert (node.root / "activity").read_text() == f"on {volume}\noff {volume}\n"
    assert ["qm", "rescan", "--vmid", "100"] in node.commands
    assert not node.journal.entries


def test_what_is_not_finished_is_freed(node: FakeNode) -> None:
    target = make(node)
    target.write(0, b"x")
    with pytest.raises(RestoreFailed):
        target.finish()
    target.rollback()
    target.rollback()
    assert volumes(node) == []
    assert not node.journal.entries


def test_a_volume_that_cannot_be_made_leaves_nothing(node: FakeNode) -> None:
    (node.root / "fail.pvesm.alloc").write_text("out of space")
    with pytest.raises(HostError, match="out of space"):
        make(node)
    assert not node.journal.entries
    (node.root / "fail.pvesm.alloc").unlink()
    (node.root / "fail.pvesm.path").write_text("storage 'x' does not exist")
    with pytest.raises(Exception, match="does not exist"):
        make(node)
    assert volumes(node) == []
    assert not node.journal.entries


def test_a_dead_run_is_cleaned_up_and_nothing_else_is_freed(node: FakeNode) -> None:
    target = make(node)
    entry = node.journal.only()
    assert target._servers is not None
    assert target._target is not None
    target._target.abandon()
    target._servers.close()
    assert "Removed" in clean_volume(node.nodes, ProxmoxSettings(), entry)
    assert "Removed" in clean_volume(node.nodes, ProxmoxSettings(), entry)
    assert volumes(node) == []
    for volume in ("local-lvm:vm-100-disk-0", "local-lvm:base-100-disk-0", "", "-x", "/dev/sda"):
        with pytest.raises(HostError):
            clean_volume(
                node.nodes, ProxmoxSettings(), replace(entry, payload={"volume": volume, "node": "pve1"})
            )
    assert len(node.called("pvesm", "free")) == 2


def test_a_storage_without_paths_is_refused(node: FakeNode, tmp_path: Path) -> None:
    pvesm = tmp_path / "bin" / "pvesm"
    pvesm.write_text("#!/bin/sh\n[ $1 = path ] && echo rbd:pool/image:id=admin\nexit 0\n")
    with pytest.raises(RestoreFailed, match="rbd:pool"):
        make(node)
    assert not node.journal.entries
