"""A Proxmox guest on a real libvirt: its description is accepted, its disks are where they belong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from lab.domain import MIB
from lab.session import Lab
from libvirt_bench import Bench

from vmconsole.errors import GuestExists, RestoreFailed
from vmconsole.hypervisors.libvirt.create import create_guest
from vmconsole.interfaces import GuestRestore, GuestTarget
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint

pytestmark = pytest.mark.rig

# Everything that a Proxmox guest without UEFI can have and libvirt can take.
CONF = b"""\
#The <web> server %231
agent: 1
audio0: device=ich9-intel-hda,driver=none
balloon: 64
boot: order=scsi0;ide2;net0
cores: 2
cpu: x86-64-v2-AES,flags=+aes
ide0: local-lvm:vm-100-disk-3,size=4M
ide2: local:iso/debian.iso,media=cdrom
kvm: 0
machine: q35
memory: 128
name: web
net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,tag=20
net1: e1000=BC:24:11:AA:BB:CD,bridge=vmbr1
numa: 1
ostype: win10
rng0: source=/dev/urandom
sata0: local-lvm:vm-100-disk-2,size=4M,ssd=1
scsi0: local-lvm:vm-100-disk-0,discard=on,iothread=1,serial=ABC-1,size=8M,ssd=1
scsi1: local-lvm:vm-100-disk-4,backup=0,size=8G
scsihw: virtio-scsi-single
serial0: socket
smbios1: uuid=1a8a1dd1-6c7b-4d6a-8b6f-6a4c6a1b7d11,manufacturer=RGVsbCBJbmMu,base64=1
sockets: 1
tags: prod;web
vga: std
virtio0: local-lvm:vm-100-disk-1,cache=writeback,iothread=1,size=4M
vmgenid: 7a9e5cb9-dfb5-4f39-bb0e-4d9f3d3c8a55
watchdog: model=i6300esb,action=reset
"""
CONTENT = {"scsi0": b"S", "virtio0": b"V", "sata0": b"A", "ide0": b"I"}


def make_point(conf: bytes, disks: dict[str, int]) -> tuple[RestorePoint, dict[str, bytes]]:
    points = tuple(
        DiskPoint(name, f"disks/{name}.raw", size, "raw", Mode.FULL, bytes_dirty=size)
        for name, size in disks.items()
    )
    when = datetime(2026, 1, 2, tzinfo=UTC)
    uuid = "1a8a1dd1-6c7b-4d6a-8b6f-6a4c6a1b7d11"
    point = RestorePoint("web.x-1", "web", uuid, "pve", "proxmox", when, Consistency.OFFLINE, points)
    return point, {"config/qemu-server.conf": conf}


def fill(target: GuestTarget, point: RestorePoint) -> None:
    for disk in point.stored_disks:
        sink = target.open_disk(disk)
        sink.write(MIB, CONTENT[disk.id] * MIB)
        sink.close()


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab.host)


@pytest.fixture
def place(lab: Lab) -> Path:
    return lab.folder(f"foreign-{datetime.now(UTC).timestamp():f}")


def test_a_guest_of_proxmox_is_defined_with_its_disks_and_starts(lab: Lab, bench: Bench, place: Path) -> None:
    sizes = {"scsi0": 8 * MIB, "virtio0": 4 * MIB, "sata0": 4 * MIB, "ide0": 4 * MIB}
    point, files = make_point(CONF, sizes)
    request = GuestRestore("web from proxmox", str(place), start=True)

    target = create_guest(bench.virsh, point, files, request, bench.context)
    notes = "\n".join(target.notes)
    fill(target, point)
    target.finish()

    guest = lab.adopt(next(u for u, name in lab.host.domains().items() if name == "web from proxmox"))
    try:
        assert guest.virsh("domstate").strip() == "running"
        domain = guest.xml()
        names = {
            item.find("target").get("dev"): (item.find("target").get("bus"), item.find("source").get("file"))
            for item in domain.iterfind("devices/disk[@device='disk']")
        }
        assert {name: bus for name, (bus, _) in names.items()} == {
            "sda": "scsi", "vda": "virtio", "sdb": "sata", "sdd": "sata",
        }  # fmt: skip
        guest.virsh("destroy")
        for name, letter in (("sda", b"S"), ("vda", b"V"), ("sdb", b"A"), ("sdd", b"I")):
            raw = place / f"{name}.check"
            image = names[name][1]
            lab.host.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, str(raw)])
            content = raw.read_bytes()
            assert content[:MIB] == bytes(MIB)
            assert content[MIB : 2 * MIB] == letter * MIB
        assert domain.findtext("description") == "The <web> server #1"
        for said in ("scsi1", "vmbr0.20", "x86-64-v2-AES", "64 MiB", "debian.iso"):
            assert said in notes, notes
        assert not bench.journal.entries
    finally:
        guest.remove()


def test_cards_without_a_network_of_theirs_are_there_but_unplugged(
    lab: Lab, bench: Bench, place: Path
) -> None:
    point, files = make_point(CONF, {"scsi0": 8 * MIB})
    xml = "<network><name>default</name><ip address='192.168.251.1' netmask='255.255.255.0'/></network>"
    bench.virsh.run("net-define", "/dev/stdin", stdin=xml.encode())
    try:
        wanted = {"vmbr1": "default"}
        request = GuestRestore("unplugged", str(place))
        target = create_guest(bench.virsh, point, files, request, bench.context, networks=wanted)
        fill(target, point)
        target.finish()
        guest = lab.adopt(next(u for u, name in lab.host.domains().items() if name == "unplugged"))
        try:
            cards = guest.xml().findall("devices/interface")
            states = [None if card.find("link") is None else card.find("link").get("state") for card in cards]
            assert states == ["down", None]
            assert {card.find("source").get("network") for card in cards} == {"default"}
            assert {card.find("mac").get("address").upper() for card in cards}.isdisjoint(
                {"BC:24:11:AA:BB:CC", "BC:24:11:AA:BB:CD"}
            )
        finally:
            guest.remove()
    finally:
        bench.virsh.run("net-undefine", "default")


def test_what_cannot_be_restored_is_refused_before_anything_is_made(
    lab: Lab, bench: Bench, place: Path
) -> None:
    point, files = make_point(CONF, {"scsi0": MIB, "scsi7": MIB})
    request = GuestRestore("strange", str(place))
    with pytest.raises(RestoreFailed, match="scsi7"):
        create_guest(bench.virsh, point, files, request, bench.context)
    with pytest.raises(RestoreFailed, match="container"):
        create_guest(bench.virsh, point, {"config/pct.conf": b"hostname: x\n"}, request, bench.context)
    with pytest.raises(RestoreFailed, match=r"qemu-server\.conf"):
        create_guest(bench.virsh, point, {}, request, bench.context)
    with pytest.raises((GuestExists, RestoreFailed)):
        create_guest(bench.virsh, point, files, GuestRestore("a/b", str(place)), bench.context)
    assert not list(place.iterdir())
    assert not bench.journal.count
