"""What is on the demo guests' disks, and what happens to it from one night to the next.

Everything follows from fixed seeds: every demo has the same files.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from vmconsole.demo import partition
from vmconsole.demo.disk import VirtualDisk
from vmconsole.demo.ext4 import FileSystem
from vmconsole.demo.guests import Guest, GuestDisk

MIB = 1024 * 1024
FIRST_DAY = 1_793_520_000
"""2026-11-01 08:00 UTC."""
DAY = 86400
NAMESPACE = uuid.UUID("6f1c5d0e-0c7b-4e0a-9a39-5b1c1b1c7d01")
_PAGE = 8192
_WORDS = tuple(
    "order invoice customer delivery stock warehouse parcel refund coupon basket payment supplier "  # noqa: SIM905 (words read better as a sentence)
    "the a and of for with to from was is not yet open closed sent paid blue green small large".split()
)


def make_guests(folder: Path) -> list[Guest]:
    """All guests, switched off, with new images in the folder."""
    return [_web(folder), _database(folder), _archive(folder), _builder(folder), _mail(folder)]


def pass_day(guests: list[Guest], night: int) -> None:
    """What happens between night-1 and night (2, 3, …)."""
    changes: dict[str, Callable[[Guest, int], None]] = {
        "web-01": _web_day,
        "db-01": _database_day,
        'files "old" [archive]': _archive_day,
        "mail-02": _mail_day,
    }
    for guest in guests:
        for system in guest.file_systems.values():
            system.time = FIRST_DAY + (night - 1) * DAY
        if guest.name in changes:
            changes[guest.name](guest, night)


# --- web-01: two disks, one partitioned, one a bare file system that grows ---------------------


def _web(folder: Path) -> Guest:
    root = VirtualDisk(folder / "web-01.qcow2", 256 * MIB)
    data = VirtualDisk(folder / "web-01-data.qcow2", 128 * MIB)
    guest = Guest(
        name="web-01",
        uuid=guest_uuid("web-01"),
        title="Shop front #web",
        memory=2048,
        disks=[GuestDisk("vda", root), GuestDisk("vdb", data)],
        file_systems={"vda": partitioned(root, "web-root"), "vdb": whole(data, "uploads")},
        tags=("prod",),
    )
    dice = seeded("web-01")
    with guest.writes() as systems:
        system = systems["vda"]
        base_system(system, "web-01")
        mount(system, {"/": "web-root", "/srv/uploads": "uploads"})
        for path in ("/var/www", "/var/www/shop", "/var/www/shop/pictures", "/var/log/nginx"):
            system.make_directory(path)
        for number in range(40):
            system.write_file(f"/var/www/shop/item-{number:03}.html", page(dice, number), owner=(33, 33))
        for number in range(6):
            system.write_file(f"/var/www/shop/pictures/{number:02}.jpg", dice.randbytes(300_000 + number))
        system.symlink("/var/www/current", "shop")
        system.write_file("/var/log/nginx/access.log", log_lines(dice, 4000), mode=0o640)
        uploads = systems["vdb"]
        uploads.make_directory("/2026")
        for number in range(4):
            uploads.write_file(f"/2026/scan {number}.pdf", dice.randbytes(400_000))
    return guest


def _web_day(guest: Guest, night: int) -> None:
    dice = seeded(f"web-01 {night}")
    if night == 2:
        guest.disks[1].disk.resize(192 * MIB)
    with guest.writes() as systems:
        system = systems["vda"]
        system.append("/var/log/nginx/access.log", log_lines(dice, 600))
        for number in range(3):
            name = f"/var/www/shop/item-{100 * night + number}.html"
            system.write_file(name, page(dice, number), owner=(33, 33))
        system.write_file("/var/www/shop/item-007.html", page(dice, 7))
        if night == 2:
            system.remove("/var/www/shop/pictures/02.jpg")
            system.remove("/var/www/shop/item-011.html")
            system.trim()
            systems["vdb"].grow(192 * MIB)
        systems["vdb"].write_file(f"/2026/scan {night * 10}.pdf", dice.randbytes(350_000))


# --- db-01: writes while it is backed up -------------------------------------------------------

_TABLE = "/var/lib/postgresql/base/16384"


def _database(folder: Path) -> Guest:
    disk = VirtualDisk(folder / "db-01.qcow2", 96 * MIB)
    guest = Guest(
        name="db-01",
        uuid=guest_uuid("db-01"),
        title="Orders database",
        memory=4096,
        disks=[GuestDisk("vda", disk)],
        file_systems={"vda": partitioned(disk, "db-root")},
        tags=("prod", "database"),
    )
    dice = seeded("db-01")
    with guest.writes() as systems:
        system = systems["vda"]
        base_system(system, "db-01")
        for path in ("/var/lib/postgresql", "/var/lib/postgresql/base"):
            system.make_directory(path, mode=0o700, owner=(114, 120))
        rows = b"".join(_database_page(dice, number) for number in range(640))
        system.write_file(_TABLE, rows, mode=0o600, owner=(114, 120))
        system.write_file("/var/lib/postgresql/wal", b"", mode=0o600, owner=(114, 120))
    guest.workload = lambda end: _database_at_work(guest, end)
    return guest


def _database_day(guest: Guest, night: int) -> None:
    dice = seeded(f"db-01 {night}")
    with guest.writes() as systems:
        system = systems["vda"]
        for _ in range(12):
            number = dice.randrange(640)
            system.overwrite(_TABLE, number * _PAGE, _database_page(dice, number))
        # A dropped table's pages: zeros now, and the host must not keep the old rows.
        system.zero_range(_TABLE, 320 * _PAGE, 64 * _PAGE)


def _database_at_work(guest: Guest, end: threading.Event) -> None:
    """Orders come in while the backup reads: pages change under it, a log grows."""
    dice = seeded(guest.disks[0].disk.bytes_written)
    while not end.wait(0.01):
        with guest.writes() as systems:
            number = dice.randrange(640)
            systems["vda"].overwrite(_TABLE, number * _PAGE, _database_page(dice, number))
            systems["vda"].append("/var/lib/postgresql/wal", dice.randbytes(200))


def _database_page(dice: random.Random, number: int) -> bytes:
    """Half rows of text, half something that does not compress."""
    text = f"page {number} " + " ".join(dice.choices(_WORDS, k=600))
    return text.encode()[: _PAGE // 2].ljust(_PAGE // 2) + dice.randbytes(_PAGE // 2)


# --- the others --------------------------------------------------------------------------------


def _archive(folder: Path) -> Guest:
    """An old guest without an agent, with a name that must be quoted everywhere."""
    name = 'files "old" [archive]'
    disk = VirtualDisk(folder / "files-old.qcow2", 128 * MIB)
    guest = Guest(
        name=name,
        uuid=guest_uuid(name),
        title="",
        memory=512,
        disks=[GuestDisk("vda", disk)],
        file_systems={"vda": whole(disk, "archive")},
        agent=False,
    )
    dice = seeded(name)
    with guest.writes() as systems:
        system = systems["vda"]
        for year in (2019, 2020, 2021):
            system.make_directory(f"/{year}")
            for number in range(12):
                text = " ".join(dice.choices(_WORDS, k=3000)).encode()
                system.write_file(f"/{year}/Übersicht {number + 1:02}.txt", text)
        system.write_file("/2021/photos.zip", dice.randbytes(2 * MIB))
    return guest


def _archive_day(guest: Guest, night: int) -> None:
    with guest.writes() as systems:
        systems["vda"].write_file("/2019/Übersicht 03.txt", f"Corrected in night {night}.\n".encode())


def _builder(folder: Path) -> Guest:
    disk = VirtualDisk(folder / "build-07.qcow2", 128 * MIB)
    guest = Guest(
        name="build-07",
        uuid=guest_uuid("build-07"),
        title="Build machine #dev",
        memory=8192,
        disks=[GuestDisk("vda", disk)],
        file_systems={"vda": partitioned(disk, "build-root")},
    )
    dice = seeded("build-07")
    with guest.writes() as systems:
        base_system(systems["vda"], "build-07")
        systems["vda"].make_directory("/srv/build")
        for number in range(3):
            systems["vda"].write_file(f"/srv/build/image-{number}.bin", dice.randbytes(MIB), mode=0o755)
    return guest


def _mail(folder: Path) -> Guest:
    """A raw disk in a storage pool: the host cannot record its changes."""
    disk = VirtualDisk(folder / "mail-02.raw", 64 * MIB, format="raw")
    guest = Guest(
        name="mail-02",
        uuid=guest_uuid("mail-02"),
        title="Mail #prod",
        memory=1024,
        disks=[GuestDisk("vda", disk, pool="images")],
        file_systems={"vda": whole(disk, "mail")},
    )
    dice = seeded("mail-02")
    with guest.writes() as systems:
        systems["vda"].make_directory("/mail", mode=0o700, owner=(8, 8))
        systems["vda"].write_file("/mail/inbox", log_lines(dice, 5000), mode=0o600, owner=(8, 8))
    return guest


def _mail_day(guest: Guest, night: int) -> None:
    with guest.writes() as systems:
        systems["vda"].append("/mail/inbox", log_lines(seeded(f"mail-02 {night}"), 400))


# --- pieces ------------------------------------------------------------------------------------


def seeded(seed: str | int) -> random.Random:
    return random.Random(seed)  # noqa: S311 (the same files in every demo)


def guest_uuid(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, name))


def whole(disk: VirtualDisk, label: str) -> FileSystem:
    return FileSystem(disk, disk.size, uuid=_id(label), label=label, time=FIRST_DAY)


def partitioned(disk: VirtualDisk, label: str) -> FileSystem:
    """A GUID partition table and one partition with the file system."""
    disk.write_many(partition.table(disk.size, uuid.UUID(bytes=_id(f"{label} disk")), label))
    size = partition.partition_size(disk.size)
    return FileSystem(disk, size, uuid=_id(label), label=label, time=FIRST_DAY, start=partition.START)


def _id(label: str) -> bytes:
    return uuid.uuid5(NAMESPACE, label).bytes


def base_system(system: FileSystem, name: str) -> None:
    for path in ("/etc", "/home", "/root", "/srv", "/var", "/var/lib", "/var/log"):
        system.make_directory(path)
    system.write_file("/etc/hostname", f"{name}\n".encode())
    system.write_file("/etc/os-release", b'ID=demo\nPRETTY_NAME="Demo Linux 1"\n')
    system.write_file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    system.write_file("/etc/shadow", b"root:*:20000:0:99999:7:::\n", mode=0o600)
    system.symlink("/etc/localtime", "../usr/share/zoneinfo/Etc/UTC")


def mount(system: FileSystem, labels: Mapping[str, str]) -> None:
    """Say in the guest's fstab what is mounted where. labels: of file systems, by path."""
    lines = []
    for path, label in labels.items():
        if path != "/":
            system.make_directory(path)
        lines.append(f"LABEL={label} {path} ext4 defaults 0 2\n")
    system.write_file("/etc/fstab", "".join(lines).encode())


def page(dice: random.Random, number: int) -> bytes:
    text = " ".join(dice.choices(_WORDS, k=800))
    return f"<!doctype html><title>Item {number}</title><p>{text}</p>\n".encode()


def log_lines(dice: random.Random, count: int) -> bytes:
    lines = (
        f"10.0.{dice.randrange(256)}.{dice.randrange(256)} {dice.choice(_WORDS)} {dice.randrange(10**9)}\n"
        for _ in range(count)
    )
    return "".join(lines).encode()
