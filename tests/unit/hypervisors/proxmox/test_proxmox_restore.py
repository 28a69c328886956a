"""Guests restored to a node whose qmrestore, qm and pct are small programs that really read the stream."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from restore_node import GIB, MIB, FakeNode, fill, make_node, make_point

from vmconsole.errors import Cancelled, GuestExists, HostError, RestoreFailed
from vmconsole.hypervisors.proxmox.host import ProxmoxHost
from vmconsole.hypervisors.proxmox.making import Making
from vmconsole.hypervisors.proxmox.restore import clean_create, create_guest
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.target import ProxmoxTarget
from vmconsole.interfaces import GuestRestore
from vmconsole.model.point import Mode, RestorePoint

# ruff: noqa: E501 - configurations read better as they are

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")

CONF = b"""\
#Shop%3A front end
agent: 1
args: -chardev file,id=x,path=/etc/cron.d/x
bios: ovmf
boot: order=scsi0;scsi3;net0
cores: 2
efidisk0: local-lvm:vm-100-disk-0,efitype=4m,pre-enrolled-keys=1,size=4M
hookscript: local:snippets/evil.pl
hostpci0: 0000:01:00
ide0: local-lvm:vm-100-cloudinit,media=cdrom
ide2: local:iso/debian.iso,media=cdrom,size=600M
ide3: /etc/shadow,media=cdrom
lock: backup
memory: 2048
meta: creation-qemu=9.0.2,ctime=1712345678
name: web
net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr1,firewall=1,tag=20
net1: virtio=BC:24:11:AA:BB:CD,bridge=vmbr77
onboot: 1
ostype: l26
protection: 1
scsi0: local-lvm:vm-100-disk-1,discard=on,iothread=1,size=32G,ssd=1
scsi1: /dev/sda,size=8G
scsi2: local-lvm:vm-100-disk-3,backup=0,size=8G
scsihw: virtio-scsi-single
serial0: /dev/ttyS0
smbios1: uuid=1a8a1dd1-6c7b-4d6a-8b6f-6a4c6a1b7d11,serial=QUJD,base64=1
sockets: 1
tags: prod
tpmstate0: local-lvm:vm-100-disk-2,size=4M,version=v2.0
unused0: local-lvm:vm-100-disk-9
usb0: host=1234:5678
virtio1: local-lvm:vm-100-disk-4,size=1M
virtiofs0: dir
vmgenid: 7a9e5cb9-dfb5-4f39-bb0e-4d9f3d3c8a55
#qmdump#map:scsi9:drive-scsi9:elsewhere:raw:

[snapshot]
memory: 512
"""
FILES = {"config/qemu-server.conf": CONF, "config/firewall.fw": b"[RULES]\nIN ACCEPT\n"}
SIZES = {"efidisk0": 540672, "scsi0": 3 * MIB, "tpmstate0": 4 * MIB, "virtio1": MIB + 512}
UUIDS = [UUID(int=number) for number in range(1, 9)]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    return make_node(tmp_path, monkeypatch)


def create(
    node: FakeNode,
    point: RestorePoint | None = None,
    files: dict[str, bytes] | None = None,
    request: GuestRestore | None = None,
    networks: dict[str, str] | None = None,
) -> ProxmoxTarget:
    uuids = iter(UUIDS)
    return create_guest(
        node.nodes,
        ProxmoxSettings(networks=networks or {}),
        point or make_point(**SIZES),
        files or FILES,
        request or GuestRestore("copy"),
        node.context,
        new_uuid=lambda: next(uuids),
        new_token=lambda: "0123456789abcdef",
    )


def fill_all(target: ProxmoxTarget, point: RestorePoint) -> dict[str, bytes]:
    return {
        disk.id: fill(
            target, disk, (4096, disk.id.encode() * 1000), (disk.size // 2, os.urandom(disk.size // 4))
        )
        for disk in point.stored_disks
    }


def test_a_virtual_machine_comes_back_with_every_byte(node: FakeNode) -> None:
    point = make_point(**SIZES)
    target = create(node, point, request=GuestRestore("copy", start=True))
    assert not node.called("qmrestore")
    assert not node.journal.count

    contents = fill_all(target, point)
    target.finish()

    assert node.called("qmrestore") == [["qmrestore", "-", "105", "--storage", "local-lvm", "--unique", "1"]]
    assert node.devices() == {"drive-efidisk0", "drive-scsi0", "drive-tpmstate0-backup", "drive-virtio1"}
    for name, content in contents.items():
        device = "drive-tpmstate0-backup" if name == "tpmstate0" else f"drive-{name}"
        assert node.device(device).rstrip(b"\0") == content.rstrip(b"\0"), name
    assert node.archived("qemu-server.fw") == "[RULES]\nIN ACCEPT\n"
    assert node.conf().startswith("#Shop%3A%20front%20end\n")
    assert "vmconsole" not in node.conf()
    assert "protection: 1\n" in node.conf()
    assert (node.root / "started.105").exists()
    assert not node.journal.entries


def test_the_configuration_reaches_nothing_of_the_node(node: FakeNode) -> None:
    point = make_point(**SIZES)
    target = create(node, point)
    fill_all(target, point)
    target.finish()
    text = node.archived()
    lines = text.splitlines()
    for trace in (
        "args", "/etc", "hookscript", "hostpci", "/dev", "usb0", "virtiofs", "unused", "lock", "onboot", "backup=",
        "vm-100", "elsewhere", "scsi9", "vmbr77", "1a8a1dd1", "7a9e5cb9", "protection", "scsi2",
    ):  # fmt: skip
        assert trace not in text, trace
    for line in (
        "#vmconsole-restore 0123456789abcdef",
        "name: copy",
        "boot: order=scsi0;net0",
        "ide0: local-lvm:vm-0-cloudinit,media=cdrom",
        "ide2: local:iso/debian.iso,media=cdrom",
        "ide3: none,media=cdrom",
        "net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr1,firewall=1,tag=20",
        "smbios1: uuid=00000000-0000-0000-0000-000000000001,serial=QUJD,base64=1",
        "vmgenid: 1",
        "memory: 2048",
        "#qmdump#map:scsi0:drive-scsi0:local-lvm:raw:",
    ):
        assert line in lines, line
    net1 = next(line for line in lines if line.startswith("net1:"))
    assert net1.endswith("link_down=1")
    notes = "\n".join(target.notes)
    for said in (
        "args",
        "evil.pl",
        "0000:01:00",
        "scsi1",
        "scsi2",
        "ttyS0",
        "1234:5678",
        "vmbr77",
        "shadow",
        "onboot",
    ):
        assert said in notes, said
    assert all(note.endswith((".", "host.")) for note in target.notes), target.notes


def test_a_guest_of_libvirt_is_described_anew(node: FakeNode) -> None:
    xml = b"""
    <domain type='kvm'><name>old</name><description>two
lines</description><memory unit='MiB'>1000</memory><vcpu>2</vcpu>
      <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices>
      <disk type='file' device='disk'><driver type='qcow2'/><target dev='vda' bus='virtio'/><boot order='1'/></disk>
      <disk type='file' device='disk'><target dev='sdb' bus='scsi'/></disk>
      <disk type='file' device='disk'><target dev='vdx' bus='virtio'/></disk>
      <controller type='scsi' model='virtio-scsi'/><tpm><backend type='emulator' version='2.0'/></tpm>
      <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/><model type='virtio'/></interface>
      </devices></domain>"""
    nvram = os.urandom(540672)
    point = make_point("libvirt", vda=2 * MIB, sdb=MIB)
    point = replace(point, disks=(replace(point.disks[0], format="qcow2"), point.disks[1]))
    target = create(
        node,
        point,
        {"config/libvirt.xml": xml, "firmware/nvram.fd": nvram},
        GuestRestore("copy of old"),
        {"default": "vmbr1"},
    )
    contents = fill_all(target, point)
    target.finish()

    assert node.devices() == {"drive-virtio0", "drive-scsi1", "drive-efidisk0"}
    assert node.device("drive-virtio0") == contents["vda"]
    assert node.device("drive-scsi1") == contents["sdb"]
    assert node.device("drive-efidisk0") == nvram
    lines = node.archived().splitlines()
    for line in (
        "name: copy-of-old",
        "memory: 1000",
        "machine: pc-q35-7.2",
        "boot: order=virtio0",
        "virtio0: local-lvm:vm-0-disk-1,size=2M",
        "net0: virtio=52:54:00:00:00:01,bridge=vmbr1",
        "#qmdump#map:virtio0:drive-virtio0:local-lvm:qcow2:",
        "#qmdump#map:efidisk0:drive-efidisk0:local-lvm:raw:",
    ):
        assert line in lines, line
    assert node.conf().startswith("#two\n#lines\n")
    assert "tpmstate0: local-lvm:1,version=v2.0\n" in node.conf()
    notes = "\n".join(target.notes)
    for said in ("copy-of-old", "vdx", "TPM starts empty"):
        assert said in notes
    assert not node.journal.entries


def test_without_disks_there_is_still_a_guest(node: FakeNode) -> None:
    target = create(node, make_point(), {"config/qemu-server.conf": b"memory: 64\n"})
    target.finish()
    assert node.devices() == set()
    assert "memory: 64\n" in node.conf()


def test_notes_are_known_before_anything_is_written(node: FakeNode) -> None:
    target = create(node)
    assert any("hostpci0" in note for note in target.notes)
    target.rollback()
    assert not node.called("qmrestore")
    assert not node.journal.count


# --- failures ---


def test_what_qmrestore_says_is_told_and_nothing_stays(node: FakeNode) -> None:
    (node.root / "fail.qmrestore").write_text("lvcreate 'pve/vm-105-disk-0' error: out of space")
    point = make_point(**SIZES | {"scsi0": 64 * MIB})
    target = create(node, point)
    with pytest.raises(RestoreFailed, match="out of space"):
        fill(target, point.disks[1], *((offset * MIB, os.urandom(MIB)) for offset in range(64)))
    assert node.has()
    target.rollback()
    assert not node.has()
    assert not node.journal.entries
    assert node.called("qm", "destroy") == [["qm", "destroy", "105", "--destroy-unreferenced-disks", "0"]]


def test_a_number_taken_meanwhile_stays_with_who_took_it(node: FakeNode) -> None:
    point = make_point(scsi0=MIB)
    target = create(node, point)
    (node.root / "105.conf").write_text("name: theirs\nscsi0: local-lvm:vm-105-disk-0\n")
    with pytest.raises(RestoreFailed, match="already exists"):
        (fill(target, point.disks[0], (0, b"x")), target.finish())
    target.rollback()
    assert "theirs" in node.conf()
    assert not node.called("qm", "destroy")
    assert not node.journal.entries


def test_a_restore_that_is_broken_off_leaves_nothing(node: FakeNode) -> None:
    point = make_point(**SIZES)
    target = create(node, point)
    fill(target, point.disks[0], (0, b"x" * 4096))
    sink = target.open_disk(point.disks[1])
    sink.write(0, os.urandom(MIB))
    target.rollback()
    target.rollback()
    assert not node.has()
    assert not node.journal.entries


def test_a_disk_that_was_not_filled_is_noticed(node: FakeNode) -> None:
    point = make_point(scsi0=MIB, virtio1=MIB)
    target = create(node, point)
    fill(target, point.disks[0], (0, b"x"))
    with pytest.raises(RestoreFailed, match="virtio1"):
        target.finish()
    with pytest.raises(RestoreFailed, match="scsi0"):
        target.open_disk(point.disks[0])
    with pytest.raises(RestoreFailed, match="scsi9"):
        target.open_disk(replace(point.disks[0], id="scsi9"))
    target.rollback()
    assert not node.has()


def test_a_disk_out_of_order_is_refused(node: FakeNode) -> None:
    point = make_point(scsi0=MIB)
    target = create(node, point)
    sink = target.open_disk(point.disks[0])
    sink.write(8192, b"x")
    with pytest.raises(RestoreFailed, match="out of order"):
        sink.write(0, b"x")
    target.rollback()


def test_cancelled_while_qmrestore_finishes_takes_the_guest_back(node: FakeNode) -> None:
    (node.root / "slow.qmrestore").write_text("1.5")
    point = make_point(scsi0=MIB)
    target = create(node, point)
    fill(target, point.disks[0], (0, b"x"))
    node.cancel.set()
    with pytest.raises(Cancelled):
        target.finish()
    target.rollback()
    # It could not be stopped any more, so it was removed as a whole, by its mark.
    assert node.called("qm", "destroy")
    assert not node.has()
    assert not node.journal.entries


@pytest.mark.parametrize("program", ["qm.start", "qm.set"])
def test_a_guest_that_is_whole_stays_whatever_comes_after(node: FakeNode, program: str) -> None:
    point = make_point(scsi0=MIB)
    target = create(node, point, request=GuestRestore("copy", start=True))
    fill(target, point.disks[0], (0, b"x"))
    (node.root / f"fail.{program}").write_text("no bridge vmbr7")
    with pytest.raises(RestoreFailed, match="copy is restored, as 105 on pve1, but"):
        target.finish()
    target.rollback()
    assert node.has()
    assert not node.called("qm", "destroy")
    # Where its description could not be set, doctor --clean does it later.
    assert bool(node.journal.entries) == (program == "qm.set")
    (node.root / f"fail.{program}").unlink()
    if node.journal.entries:
        assert "stays" in clean_create(node.nodes, ProxmoxSettings(), node.journal.only())
        assert "vmconsole" not in node.conf()


# --- cleaning up after a run that died ---


def begun(node: FakeNode) -> ProxmoxTarget:
    point = make_point(**SIZES)
    target = create(node, point)
    fill(target, point.disks[0], (0, b"x" * 4096))
    return target


def die(target: ProxmoxTarget) -> None:
    """As if we had been killed: our end closes without a word."""
    receiver = target._receiver
    assert receiver is not None
    receiver._process.close_stdin()
    receiver._process.wait(30)
    receiver._process.close()


def test_what_a_dead_run_left_is_removed(node: FakeNode) -> None:
    die(begun(node))
    assert node.conf() == ""
    entry = node.journal.only()
    assert entry.kind == "proxmox-create"
    assert entry.host == "pve"
    assert "Removed the unfinished restore of copy" in clean_create(node.nodes, ProxmoxSettings(), entry)
    assert not node.has()
    assert "Nothing is left" in clean_create(node.nodes, ProxmoxSettings(), entry)


def test_a_locked_one_is_left_for_later(node: FakeNode) -> None:
    die(begun(node))
    (node.root / "105.conf").write_text("lock: create\n")
    with pytest.raises(HostError, match="locked for create") as caught:
        clean_create(node.nodes, ProxmoxSettings(), node.journal.only())
    assert "qm unlock 105" in caught.value.hint
    assert node.has()


@pytest.mark.parametrize(
    "conf",
    [
        "name: theirs\n",
        "#somebody's\n",
        "#vmconsole-restore fedcba9876543210\nscsi0: local:vm-105-disk-0\n",
        "torn line\n",
    ],
)
def test_what_belongs_to_somebody_else_is_never_touched(node: FakeNode, conf: str) -> None:
    die(begun(node))
    (node.root / "105.conf").write_text(conf)
    assert "another guest" in clean_create(node.nodes, ProxmoxSettings(), node.journal.only())
    assert node.conf() == conf


def test_a_whole_one_stays_and_loses_its_mark(node: FakeNode) -> None:
    die(begun(node))
    making = Making.read(node.journal.only().payload)
    (node.root / "105.conf").write_text(f"#{making.mark}\nname: copy\n")
    assert "stays" in clean_create(node.nodes, ProxmoxSettings(), node.journal.only())
    assert node.conf() == "#Shop%3A%20front%20end\nname: copy\n"


def test_a_node_that_cannot_say_keeps_the_entry(node: FakeNode) -> None:
    die(begun(node))
    (node.root / "fail.qm.config").write_text("ipcc_send_rec[1] failed: Connection refused")
    with pytest.raises(HostError):
        clean_create(node.nodes, ProxmoxSettings(), node.journal.only())


@pytest.mark.parametrize("field", ["vmid", "program", "token", "node"])
def test_a_damaged_entry_is_refused(node: FakeNode, field: str) -> None:
    die(begun(node))
    entry = node.journal.only()
    payload = dict(entry.payload)
    del payload[field]
    with pytest.raises(HostError):
        clean_create(node.nodes, ProxmoxSettings(), replace(entry, payload=payload))
    with pytest.raises(HostError):
        Making.read(entry.payload | {"program": "rm"})
    with pytest.raises(HostError):
        Making.read(entry.payload | {"vmid": "../1"})


# --- where it goes ---


def test_names_are_free_in_the_whole_cluster(node: FakeNode) -> None:
    with pytest.raises(GuestExists):
        create(node, request=GuestRestore("web"))
    node.answer("cluster/resources", [{"vmid": 1, "name": "web-one"}])
    with pytest.raises(GuestExists):
        create(node, request=GuestRestore("web one"))
    for name in ("", "x" * 200, "a\nb", "\x1b[2J"):
        with pytest.raises(RestoreFailed):
            create(node, request=GuestRestore(name))


def test_the_storage_that_was_asked_for_or_the_first_that_will_do(node: FakeNode) -> None:
    images = {"content": "images", "type": "lvmthin"}
    node.storages(
        images | {"storage": "off", "active": 0, "avail": 900 * GIB},
        images | {"storage": "gone", "enabled": 0, "avail": 900 * GIB},
        images | {"storage": "isos", "content": "iso", "avail": 900 * GIB},
        images | {"storage": "tiny", "avail": MIB},
        images | {"storage": "thick", "type": "lvm", "avail": 5 * GIB},
        images | {"storage": "thin", "avail": 5 * GIB},
        images | {"storage": "big", "avail": 900 * GIB},
    )
    point = make_point(dirty=MIB, scsi0=10 * GIB)

    def chosen(wanted: str = "", conf: bytes = b"scsi0: x:vm-1-disk-0\n") -> str:
        target = create(node, point, {"config/qemu-server.conf": conf}, GuestRestore("copy", wanted))
        return target._job.place.storage

    assert chosen() == "thin"
    assert chosen(conf=b"scsi0: big:vm-1-disk-0\n") == "big"
    assert chosen("big") == chosen("pve1/big") == "big"
    for wanted, why in (
        ("off", "not active"),
        ("gone", "no storage 'gone'"),
        ("isos", "no storage"),
        ("tiny", "1.0 MiB free"),
        ("thick", "at least 10.0 GiB"),
        ("none", "no storage"),
        ("pve9/big", "pve9"),
    ):
        with pytest.raises((RestoreFailed, HostError), match=why):
            chosen(wanted)
    increment = replace(point, disks=(replace(point.disks[0], mode=Mode.INCREMENTAL),))
    target = create(
        node,
        increment,
        {"config/qemu-server.conf": b"scsi0: x:vm-1-disk-0\n"},
        GuestRestore("copy", "thin"),
    )
    assert any("between" in note for note in target.notes)


def test_no_storage_at_all(node: FakeNode) -> None:
    node.storages()
    with pytest.raises(RestoreFailed, match="No active storage"):
        create(node)
    node.storages({"storage": "tiny", "type": "dir", "content": "images", "avail": 1})
    with pytest.raises(RestoreFailed, match="need at least"):
        create(node)


def test_networks_are_mapped(node: FakeNode) -> None:
    point = make_point(scsi0=MIB)
    conf = b"net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr5,tag=7\nscsi0: x:vm-1-disk-0\n"
    target = create(
        node, point, {"config/qemu-server.conf": conf}, GuestRestore("copy"), {"vmbr5.7": "vmbr1.12"}
    )
    fill(target, point.disks[0])
    target.finish()
    assert "net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr1,tag=12\n" in node.archived()


def test_points_that_do_not_fit_are_refused(node: FakeNode) -> None:
    with pytest.raises(RestoreFailed, match="scsi7"):
        create(node, make_point(scsi0=MIB, scsi7=MIB))
    with pytest.raises(RestoreFailed, match="no configuration"):
        create(node, make_point(scsi0=MIB), {"guest.json": b"{}"})
    huge = b"scsi0: x:vm-1-disk-0\n"
    huge += b"".join(b"ipconfig%d: ip=%s\n" % (n, b"1" * 6000) for n in range(12))
    with pytest.raises(RestoreFailed, match="too long"):
        create(node, make_point(scsi0=MIB), {"config/qemu-server.conf": huge})
    assert not node.called("qmrestore")


HOSTILE = (
    b"\nargs: -drive file=/etc/shadow",
    b"\r\nscsi9: /dev/sda",
    b",file=/etc/passwd",
    b",import-from=/etc/passwd",
    b"\n#qmdump#map:scsi5:drive-scsi5:local:raw:",
    b"\n[PENDING]\nargs: x",
    b"\xff\xfe",
    b"\x1b[2J\x00",
    "\u2028hookscript: x".encode(),
    b"[bold]x[/]",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_configurations(node: FakeNode, text: bytes) -> None:
    allowed = {
        "name", "scsi0", "smbios1", "boot", "tags", "vga", "cpu", "net0", "ide2", "bios", "vmgenid", "efidisk0",
        "ciuser", "bootdisk",
    }  # fmt: skip
    point = make_point(scsi0=MIB)
    for line in (
        b"#%s", b"name: x%s", b"scsi0: local-lvm:vm-1-disk-0,cache=none%s", b"scsi0: local-lvm:vm-1-disk-0,serial=%s",
        b"net0: virtio=BC:24:11:AA:BB:CC,bridge=%s", b"net0: %s", b"ide2: local:iso/debian.iso%s,media=cdrom",
        b"vga: std%s", b"cpu: host%s", b"boot: order=scsi0%s", b"boot: c%s", b"smbios1: uuid=%s", b"smbios1: serial=x%s",
        b"tags: %s", b"ciuser: %s", b"vmgenid: %s", b"bios: ovmf\nefidisk0: x:vm-1-disk-1%s",
    ):  # fmt: skip
        conf = b"scsi0: local-lvm:vm-1-disk-0\n" + line.replace(b"%s", text) + b"\n"
        target = create(node, point, {"config/qemu-server.conf": conf})
        text_made = target._job.start(lambda data: None)._writer  # type: ignore[attr-defined]
        assert text_made.devices[0].name == "drive-scsi0"
        assert all(note.isprintable() for note in target.notes)
        conf_made = _archived(target)
        for made in conf_made.removesuffix("\n").split("\n"):
            if made.startswith("#qmdump#"):
                assert made == "#qmdump#map:scsi0:drive-scsi0:local-lvm:raw:"
                continue
            assert made.isprintable()
            if not made.startswith("#"):
                key, _, value = made.partition(": ")
                if value == "none,media=cdrom":
                    continue
                assert key in allowed, made
                assert "/etc/" not in value or key in ("ciuser", "tags", "cpu", "vga"), made
                assert "/dev/" not in value, made


def _archived(target: ProxmoxTarget) -> str:
    """The configuration that would go into the stream."""
    from vmconsole.hypervisors.vma.reader import Reader

    stream = bytearray()
    target._job.start(stream.extend)
    source = io.BytesIO(stream)
    return Reader(source.read).header.configs["qemu-server.conf"].decode()


# --- containers ---

PCT = b"""\
#dns server
arch: amd64
cores: 1
dev0: /dev/ttyUSB0
hookscript: local:snippets/x.pl
hostname: dns
lxc.apparmor.profile: unconfined
memory: 512
mp0: local-lvm:vm-101-disk-1,backup=1,mp=/var/lib/data,size=3G
mp1: local-lvm:vm-101-disk-2,mp=/cache,size=8G
mp2: /host/folder,mp=/shared
mp3: local-lvm:vm-101-disk-3,backup=1,mp=/../etc,size=1G
net0: name=eth0,bridge=vmbr1,firewall=1,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.2/24,tag=5,type=veth
net1: name=eth1,bridge=vmbr9,hwaddr=BC:24:11:00:00:02,ip=dhcp,type=veth
onboot: 1
ostype: debian
protection: 1
rootfs: local-lvm:vm-101-disk-0,mountoptions=noatime;discard,size=500M
swap: 512
unprivileged: 1
"""


def make_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, size in (("etc/vzdump/pct.conf", 100), ("bin/sh", 100_000), ("var/zeros", 3 * MIB)):
            info = tarfile.TarInfo(f"./{name}")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size) if "zeros" in name else os.urandom(size)))
    return file.getvalue()


def container_point(tar: bytes) -> RestorePoint:
    point = make_point(rootfs=len(tar))
    return replace(point, disks=(replace(point.disks[0], path="container/rootfs.tar", format="tar"),))


def pour(target: ProxmoxTarget, point: RestorePoint, tar: bytes, until: int | None = None) -> None:
    """Without the zeros, as a run does."""
    sink = target.open_disk(point.disks[0])
    for offset in range(0, until or len(tar), 65536):
        piece = tar[offset : offset + 65536]
        if any(piece):
            sink.write(offset, piece)
    if until is None:
        sink.close()


def test_a_container_comes_back(node: FakeNode) -> None:
    tar = make_tar()
    point = container_point(tar)
    target = create(node, point, {"config/pct.conf": PCT}, GuestRestore("dns copy", start=True))
    pour(target, point, tar)
    target.finish()

    (command,) = node.called("pct", "restore")
    assert command[2:4] == ["105", "-"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options == {
        "--rootfs": "local-lvm:1,mountoptions=noatime;discard",
        "--mp0": "local-lvm:3,mp=/var/lib/data,backup=1",
        "--unprivileged": "1",
        "--hostname": "dns-copy",
        "--description": "vmconsole-restore 0123456789abcdef",
        "--net0": "name=eth0,firewall=1,gw=10.0.0.1,ip=10.0.0.2/24,type=veth,bridge=vmbr1,tag=5",
        "--net1": options["--net1"],
        "--onboot": "0",
        "--protection": "0",
        "--unique": "1",
    }
    assert options["--net1"].endswith("link_down=1")
    assert (node.root / "tar.105").read_text() == "./etc/vzdump/pct.conf\n./bin/sh\n./var/zeros\n"
    assert node.conf().startswith("#dns%20server\n")
    assert "protection: 1\n" in node.conf()
    assert ["pct", "set", "105", "--protection", "1", "--delete", "dev0,hookscript"] in node.commands
    assert node.called("pct", "start")
    assert not node.journal.entries
    notes = "\n".join(target.notes)
    for said in ("mp1", "mp2", "mp3", "dev0", "hookscript", "apparmor", "onboot", "vmbr9", "dns-copy"):
        assert said in notes, said


def test_a_container_cut_between_two_files_is_not_a_container(node: FakeNode) -> None:
    tar = make_tar()
    point = container_point(tar)
    target = create(node, point, {"config/pct.conf": PCT})
    sink = target.open_disk(point.disks[0])
    sink.write(0, tar[:1024])
    target.rollback()
    assert not node.has()
    assert not (node.root / "tar.105").exists()
    assert not node.journal.entries


def test_a_privileged_container_without_sizes(node: FakeNode) -> None:
    tar = make_tar()
    point = container_point(tar)
    target = create(node, point, {"config/pct.conf": b"rootfs: local-lvm:vm-1-disk-0\n"})
    pour(target, point, tar)
    target.finish()
    (command,) = node.called("pct", "restore")
    assert command[command.index("--rootfs") + 1] == "local-lvm:4"
    assert command[command.index("--unprivileged") + 1] == "0"


def test_a_container_without_its_files_is_refused(node: FakeNode) -> None:
    with pytest.raises(RestoreFailed, match="rootfs"):
        create(node, make_point(), {"config/pct.conf": PCT})
    node.storages({"storage": "local", "type": "dir", "content": "images", "avail": 100 * GIB})
    with pytest.raises(RestoreFailed, match="rootdir"):
        create(node, container_point(b"x"), {"config/pct.conf": PCT})


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_containers(node: FakeNode, text: bytes) -> None:
    for line in (
        b"rootfs: local-lvm:vm-1-disk-0,size=1G,acl=%s", b"mp0: local-lvm:vm-1-disk-1,backup=1,mp=/x%s,size=1G",
        b"net0: name=%s,bridge=vmbr1", b"net0: name=eth0,bridge=%s", b"#%s", b"hostname: %s", b"unprivileged: %s",
    ):  # fmt: skip
        target = create(node, container_point(b"x" * 512), {"config/pct.conf": line.replace(b"%s", text)})
        words = target._job.argv("105")
        assert words[:4] == ["pct", "restore", "105", "-"]
        for name, value in zip(words[4::2], words[5::2], strict=True):
            assert name in (
                "--rootfs",
                "--mp0",
                "--net0",
                "--unprivileged",
                "--hostname",
                "--description",
                "--unique",
            )
            assert value.isascii()
            assert value.isprintable()
            assert "/etc/" not in value
            assert "/dev/" not in value
            assert "import-from" not in value


def test_the_host_knows_the_way_to_both(node: FakeNode) -> None:
    host = ProxmoxHost(node.nodes, ProxmoxSettings())
    point = make_point(scsi0=MIB)
    target = host.create(point, FILES, GuestRestore("copy"), node.context)
    assert isinstance(target, ProxmoxTarget)
    fill(target, point.disks[0], (0, b"x"))
    die(target)
    assert "Removed" in host.clean(node.journal.only())
    assert not node.has()


def test_a_preview_has_the_notes_and_makes_nothing(node: FakeNode) -> None:
    host = ProxmoxHost(node.nodes, ProxmoxSettings())
    notes = host.preview(make_point(**SIZES), FILES, GuestRestore("copy"), node.context)
    assert any("hostpci0" in note for note in notes)
    assert not node.has()
    assert not node.journal.count
    made = {"qm", "qmrestore", "pct", "pvesm"}
    assert not [words for words in node.commands if words[0] in made]


def test_a_preview_refuses_what_a_restore_would(node: FakeNode) -> None:
    host = ProxmoxHost(node.nodes, ProxmoxSettings())
    with pytest.raises(GuestExists, match="web"):
        host.preview(make_point(scsi0=MIB), FILES, GuestRestore("web"), node.context)
