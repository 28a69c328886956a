"""What is in the cluster's guests, and what happens in them from one night to the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from vmconsole.demo.contents import (
    DAY,
    FIRST_DAY,
    MIB,
    base_system,
    guest_uuid,
    log_lines,
    mount,
    page,
    partitioned,
    seeded,
    whole,
)
from vmconsole.demo.guests import Guest, GuestDisk
from vmconsole.demo.pve.machines import Conf, Container, File, Storage, Vm, image, volume_id

NODES = ("pve1", "pve2")
STORAGES = (
    Storage("local", "dir", "backup,iso,vztmpl"),
    Storage("fast", "dir", "images,rootdir"),
    Storage("nas", "nfs", "images", shared=True),
)
MACHINE = "pc-q35-10.0+pve1"
_OFF = {"till-09"}
_LEDGER = "/ledger"
_RECORD = 4096
_LOG = "var/log/queries.log"


def make_vms(folder: Path) -> list[Vm]:
    """All virtual machines, switched off, with new images below the folder."""
    return [_crm(folder), _wiki(folder), _till(folder)]


def is_off(vm: Vm) -> bool:
    return vm.guest.name in _OFF


def _vm(vmid: int, guest: Guest, keys: dict[str, str], **more: str) -> Vm:
    """keys: of the disks, with their options."""
    disks = {
        item.target: f"{volume_id(item.disk)}{keys[item.target]},size={item.disk.size // MIB}M"
        for item in guest.disks
    }
    values = {
        "agent": "1" if guest.agent else "0",
        "boot": f"order={guest.disks[0].target}",
        "cores": "2",
        "memory": str(guest.memory),
        "meta": "creation-qemu=10.1.2,ctime=1790000000",
        "name": guest.name,
        "net0": f"virtio=BC:24:11:00:00:{vmid % 100:02X},bridge=vmbr0",
        "ostype": "l26",
        "scsihw": "virtio-scsi-single",
        "smbios1": f"uuid={guest.uuid}",
        **disks,
        **more,
    }
    if guest.tags:
        values["tags"] = ";".join(guest.tags)
    return Vm(vmid, NODES[0], guest, Conf(values, guest.title))


# --- crm-01: two disks, one on an iothread; goes on writing while it is backed up ------------------


def _crm(folder: Path) -> Vm:
    root = image(folder, "fast", 100, 0, 160 * MIB, "qcow2")
    data = image(folder, "fast", 100, 1, 96 * MIB, "raw")
    guest = Guest(
        name="crm-01",
        uuid=guest_uuid("crm-01"),
        title="Customers",
        memory=4096,
        disks=[GuestDisk("scsi0", root), GuestDisk("virtio1", data)],
        file_systems={"scsi0": partitioned(root, "crm-root"), "virtio1": whole(data, "crm-data")},
        tags=("prod",),
    )
    numbers = seeded("crm-01")
    with guest.writes() as systems:
        base_system(systems["scsi0"], "crm-01")
        mount(systems["scsi0"], {"/": "crm-root", "/srv/data": "crm-data"})
        systems["scsi0"].make_directory("/srv/crm")
        for number in range(30):
            systems["scsi0"].write_file(f"/srv/crm/report-{number:02}.html", page(numbers, number))
        systems["virtio1"].make_directory("/letters")
        for number in range(24):
            systems["virtio1"].write_file(f"/letters/{number:02}.pdf", numbers.randbytes(500_000))
        systems["virtio1"].write_file(_LEDGER, numbers.randbytes(2 * MIB), mode=0o600)
    guest.workload = lambda end: _crm_at_work(guest, end)
    return _vm(100, guest, {"scsi0": ",iothread=1", "virtio1": ",backup=1"})


def _crm_day(guest: Guest, night: int) -> None:
    numbers = seeded(f"crm-01 {night}")
    with guest.writes() as systems:
        systems["scsi0"].write_file(f"/srv/crm/report-{night * 100}.html", page(numbers, night))
        systems["virtio1"].write_file(f"/letters/{night * 10}.pdf", numbers.randbytes(200_000))


def _crm_at_work(guest: Guest, end: threading.Event) -> None:
    """Customers are looked after while the backup reads."""
    numbers = seeded(guest.disks[1].disk.bytes_written)
    while not end.wait(0.01):
        with guest.writes() as systems:
            offset = numbers.randrange(2 * MIB // _RECORD) * _RECORD
            systems["virtio1"].overwrite(_LEDGER, offset, numbers.randbytes(_RECORD))


# --- wiki-01: on shared storage; moves to the other node before the second night -------------------


def _wiki(folder: Path) -> Vm:
    disk = image(folder, "nas", 101, 0, 96 * MIB, "qcow2")
    guest = Guest(
        name="wiki-01",
        uuid=guest_uuid("wiki-01"),
        title="Wiki",
        memory=2048,
        disks=[GuestDisk("scsi0", disk)],
        file_systems={"scsi0": partitioned(disk, "wiki-root")},
    )
    numbers = seeded("wiki-01")
    with guest.writes() as systems:
        base_system(systems["scsi0"], "wiki-01")
        systems["scsi0"].make_directory("/srv/wiki")
        for number in range(25):
            systems["scsi0"].write_file(f"/srv/wiki/page-{number:02}.html", page(numbers, number))
    return _vm(101, guest, {"scsi0": ""})


def _wiki_day(guest: Guest, night: int) -> None:
    with guest.writes() as systems:
        systems["scsi0"].write_file(
            f"/srv/wiki/page-{night * 100}.html", page(seeded(f"wiki-01 {night}"), night)
        )


# --- till-09: switched off ------------------------------------------------------------------------


def _till(folder: Path) -> Vm:
    disk = image(folder, "fast", 102, 0, 64 * MIB, "qcow2")
    guest = Guest(
        name="till-09",
        uuid=guest_uuid("till-09"),
        title="Spare till",
        memory=1024,
        disks=[GuestDisk("scsi0", disk)],
        file_systems={"scsi0": whole(disk, "till")},
        agent=False,
    )
    numbers = seeded("till-09")
    with guest.writes() as systems:
        systems["scsi0"].make_directory("/till")
        systems["scsi0"].write_file("/till/journal", log_lines(numbers, 4000))
        systems["scsi0"].write_file("/till/firmware.bin", numbers.randbytes(700_000))
    return _vm(102, guest, {"scsi0": ""})


# --- dns-01: a container --------------------------------------------------------------------------


def make_container() -> Container:
    conf = Conf({
        "arch": "amd64", "cores": "1", "hostname": "dns-01", "memory": "512", "ostype": "debian", "swap": "512",
        "unprivileged": "1", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:6E,ip=dhcp,type=veth",
        "rootfs": "fast:110/vm-110-disk-0.raw,size=2G", "tags": "prod",
    })  # fmt: skip
    container = Container(110, NODES[1], "dns-01", conf, {})
    for folder in ("etc", "etc/bind", "usr", "usr/bin", "usr/lib", "var", "var/log"):
        container.put(File(folder, FIRST_DAY, mode=0o755, folder=True))
    container.put(File("etc/hostname", FIRST_DAY, b"dns-01\n"))
    container.put(File("etc/shadow", FIRST_DAY, b"root:*:20000:0:99999:7:::\n", mode=0o600))
    container.put(File("etc/localtime", FIRST_DAY, link="../usr/share/zoneinfo/Etc/UTC"))
    container.put(File("etc/bind/zone.example", FIRST_DAY, _zone(1), owner=(0, 105)))
    for number in range(6):
        library = seeded(f"dns-01 {number}").randbytes(MIB + number)
        container.put(File(f"usr/lib/libdns-{number}.so", FIRST_DAY, library))
    container.put(File("usr/bin/named", FIRST_DAY, seeded("dns-01").randbytes(2 * MIB), mode=0o755))
    container.put(File(_LOG, FIRST_DAY, log_lines(seeded("dns-01 log"), 6000), owner=(105, 4)))
    return container


def _zone(serial: int) -> bytes:
    hosts = "".join(f"host-{number} IN A 10.0.{number // 250}.{number % 250}\n" for number in range(900))
    return f"@ IN SOA ns.example. root.example. {serial} 3600 900 604800 300\n{hosts}".encode()


# --- days -----------------------------------------------------------------------------------------


def pass_day(vms: list[Vm], container: Container, night: int) -> None:
    """What happens between night-1 and night (2, 3, …), but for moves."""
    changes: dict[str, Callable[[Guest, int], None]] = {"crm-01": _crm_day, "wiki-01": _wiki_day}
    time = FIRST_DAY + (night - 1) * DAY
    for vm in vms:
        for system in vm.guest.file_systems.values():
            system.time = time
        if vm.guest.name in changes:
            changes[vm.guest.name](vm.guest, night)
    container.put(File("etc/bind/zone.example", time, _zone(night), owner=(0, 105)))
    log = container.files[_LOG].content + log_lines(seeded(f"dns-01 log {night}"), 300)
    container.put(File(_LOG, time, log, owner=(105, 4)))
