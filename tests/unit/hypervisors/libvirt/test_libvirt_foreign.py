"""A Proxmox guest with UEFI and TPM restored to a host whose virsh is a script; its images are real."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.libvirt.create import create_guest
from vmconsole.hypervisors.libvirt.foreign import VARIABLES
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.interfaces import Cancel, Context, GuestRestore
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.remote.local import LocalMachine

pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd is not installed")

MIB = 1 << 20
VIRSH = r"""#!/bin/sh
cd "$FAKE" || exit 9
shift 2
echo "$*" >>log
case $1 in
list) case $* in *--uuid*) sed -n 's,.*<uuid>\(.*\)</uuid>.*,\1,p' defined 2>/dev/null || true ;; esac ;;
pool-list | nwfilter-list) ;;
net-list) printf 'default\nlan\n' ;;
domcapabilities)
    echo "<domainCapabilities><devices><tpm supported='yes'>"
    echo "<enum name='backendModel'><value>emulator</value></enum></tpm></devices></domainCapabilities>" ;;
domxml-to-native) cat >tried ;;
define) cat >defined ;;
*) echo "error: unknown command: '$1'" >&2; exit 1 ;;
esac
"""
CONF = b"""\
bios: ovmf
boot: order=scsi0
efidisk0: local-lvm:vm-100-disk-0,efitype=4m,pre-enrolled-keys=1,size=4M
machine: q35
memory: 2048
name: files
net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1
ostype: win11
scsi0: local-lvm:vm-100-disk-1,size=2M
scsihw: virtio-scsi-pci
tpmstate0: local-lvm:vm-100-disk-2,size=4M,version=v2.0
"""


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return 0.0


class _Journal:
    def __init__(self) -> None:
        self.open: set[int] = set()

    def acquire(self, host: str, kind: str, payload: object) -> int:
        self.open.add(1)
        return 1

    def release(self, entry: int) -> None:
        self.open.remove(entry)


@pytest.fixture
def journal() -> _Journal:
    return _Journal()


@pytest.fixture
def context(journal: _Journal) -> Context:
    return Context("run1", lambda event: None, Cancel(), journal, _Clock())


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs, memory = tmp_path / "bin", tmp_path / "fake"
    programs.mkdir()
    memory.mkdir()
    (programs / "virsh").write_text(VIRSH)
    (programs / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(memory))
    return memory


def make_point(**sizes: int) -> RestorePoint:
    disks = tuple(
        DiskPoint(name, f"disks/{name}.raw", size, "raw", Mode.FULL, bytes_dirty=size)
        for name, size in sizes.items()
    )
    uuid = "1a8a1dd1-6c7b-4d6a-8b6f-6a4c6a1b7d11"
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return RestorePoint("files.x-1", "files", uuid, "pve", "proxmox", when, Consistency.OFFLINE, disks)


def test_uefi_variables_become_the_nvram(
    fake: Path, context: Context, journal: _Journal, tmp_path: Path
) -> None:
    place = tmp_path / "images"
    place.mkdir()
    point = make_point(efidisk0=4 * MIB, scsi0=2 * MIB, tpmstate0=4 * MIB)
    files = {"config/qemu-server.conf": CONF, "config/firewall.fw": b"[RULES]\nIN ACCEPT\n"}

    target = create_guest(
        Virsh(LocalMachine("kvm1"), "qemu:///system"),
        point,
        files,
        GuestRestore("copy", str(place)),
        context,
        networks={"vmbr0": "lan"},
    )
    for disk, content in zip(point.disks, (b"E", b"D", b"T"), strict=True):
        sink = target.open_disk(disk)
        sink.write(0, content * 4096)
        if disk.id != "scsi0":
            sink.write(VARIABLES - 8, memoryview(content * 4096))
            sink.write(2 * MIB, b"beyond")
        sink.close()
    target.finish()

    nvram = (place / "copy_VARS.fd").read_bytes()
    assert len(nvram) == VARIABLES
    assert nvram == b"E" * 4096 + bytes(VARIABLES - 4096 - 8) + b"E" * 8
    domain = ElementTree.fromstring((fake / "defined").read_text())
    assert domain.findtext("name") == "copy"
    assert domain.findtext("uuid") not in (None, point.uuid)
    assert domain.find("os").get("firmware") == "efi"
    assert domain.findtext("os/nvram") == str(place / "copy_VARS.fd")
    assert domain.find("os/firmware/feature").get("name") == "secure-boot"
    assert domain.find("devices/interface/source").attrib == {"network": "lan"}
    assert domain.find("devices/disk/source").attrib == {"file": str(place / "copy-sda.qcow2")}
    assert sorted(path.name for path in place.iterdir()) == ["copy-sda.qcow2", "copy_VARS.fd"]
    raw = tmp_path / "check.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", place / "copy-sda.qcow2", raw], check=True)
    assert raw.read_bytes() == b"D" * 4096 + bytes(2 * MIB - 4096)
    text = "\n".join(target.notes)
    assert "TPM starts empty" in text
    assert "firewall" in text
    assert "boot entries" not in text
    assert not journal.open


def test_small_variables_and_lost_ones_are_said(fake: Path, context: Context, tmp_path: Path) -> None:
    place = tmp_path / "images"
    place.mkdir()
    virsh = Virsh(LocalMachine("kvm1"), "qemu:///system")
    old = CONF.replace(b",efitype=4m", b"")
    for conf, disks in ((old, {"efidisk0": MIB, "scsi0": MIB}), (CONF, {"scsi0": MIB})):
        point = make_point(**disks)
        target = create_guest(
            virsh, point, {"config/qemu-server.conf": conf}, GuestRestore("copy", str(place)), context
        )
        assert any("boot entries" in note for note in target.notes)
        for disk in point.disks:
            sink = target.open_disk(disk)
            sink.write(0, b"x")
            sink.close()
        target.rollback()
        assert not list(place.iterdir())


def test_a_preview_has_the_notes_and_makes_nothing(
    fake: Path, context: Context, journal: _Journal, tmp_path: Path
) -> None:
    place = tmp_path / "images"
    place.mkdir()
    point = make_point(efidisk0=4 * MIB, scsi0=MIB, tpmstate0=4 * MIB)
    target = create_guest(
        Virsh(LocalMachine("kvm1"), "qemu:///system"),
        point,
        {"config/qemu-server.conf": CONF},
        GuestRestore("copy", str(place)),
        context,
        only_check=True,
    )
    assert any("TPM starts empty" in note for note in target.notes)
    assert not list(place.iterdir())
    assert not journal.open
    assert not (fake / "defined").exists()


def test_a_disk_that_is_not_written_is_noticed(
    fake: Path, context: Context, journal: _Journal, tmp_path: Path
) -> None:
    place = tmp_path / "images"
    place.mkdir()
    point = make_point(efidisk0=MIB, scsi0=MIB)
    virsh = Virsh(LocalMachine("kvm1"), "qemu:///system")
    files = {"config/qemu-server.conf": CONF}
    target = create_guest(virsh, point, files, GuestRestore("copy", str(place)), context)
    target.open_disk(point.disks[0]).close()
    with pytest.raises(RestoreFailed, match="sda"):
        target.finish()
    target.rollback()
    assert not list(place.iterdir())
    assert not journal.open


def test_another_kind_of_point_takes_the_other_way(fake: Path, context: Context) -> None:
    point = make_point(scsi0=MIB)
    with pytest.raises(RestoreFailed, match="container"):
        create_guest(
            Virsh(LocalMachine("kvm1"), "qemu:///system"),
            point,
            {"config/pct.conf": b"hostname: x\n"},
            GuestRestore("copy"),
            context,
        )
    assert not (fake / "defined").exists()
